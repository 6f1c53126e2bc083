package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// minSecret is the shortest HS256 secret, in bytes: RFC 7518 wants at least the length of the hash.
const minSecret = 32

// The endings of key files; what stands before is the key's id.
const (
	extHS256   = ".hs256"
	extPrivate = ".ed25519"
	extPublic  = ".ed25519.pub"

	devKey = "dev" + extHS256
)

// Key is one key with its id. Its kind fixes the algorithm, so that no token can choose another one.
type Key struct {
	ID      string
	method  jwt.SigningMethod
	verify  any // []byte or ed25519.PublicKey
	signing any // []byte, ed25519.PrivateKey, or nil where the key can only verify
}

// CanSign says whether the key can make tokens, and not only check them.
func (k Key) CanSign() bool { return k.signing != nil }

// String is the key's id, so that a key that is printed gives nothing away.
func (k Key) String() string { return k.ID }

// GoString is String: %#v must not print the secret either.
func (k Key) GoString() string { return k.ID }

// LoadKeys reads a key file, or all of a folder, in the order of their ids:
//
//	<kid>.hs256        base64 (standard alphabet, padded) of at least 32 random bytes, as `openssl rand -base64 32` prints
//	<kid>.ed25519.pub  the public key, PEM (PKIX)
//	<kid>.ed25519      the private key, PEM (PKCS#8); only needed to sign, and it verifies too
//
// A name that begins with a dot is passed over; any other name is an error, because a key with a slip in its name
// would be missed only when its tokens are refused. So is an id with two kinds of key: it would not fix the algorithm.
func LoadKeys(path string) ([]Key, error) {
	names, err := keyFiles(path)
	if err != nil {
		return nil, err
	}
	found := make(map[string]Key)
	for _, name := range names {
		key, err := readKey(name)
		if err != nil {
			return nil, fmt.Errorf("key file %s: %w", name, err)
		}
		if other, ok := found[key.ID]; ok {
			if key, err = pair(key, other); err != nil {
				return nil, fmt.Errorf("key file %s: %w", name, err)
			}
		}
		found[key.ID] = key
	}
	keys := make([]Key, 0, len(found))
	for _, key := range found {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	return keys, nil
}

// LoadOrCreateKey returns the first key of a folder that can sign. Where the folder has no key at all it makes
// dev.hs256 (32 random bytes, readable by its owner only); of several processes that do so at once, one wins and
// all return its key.
func LoadOrCreateKey(dir string) (Key, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Key{}, fmt.Errorf("make the key folder: %w", err)
	}
	keys, err := LoadKeys(dir)
	if err != nil {
		return Key{}, err
	}
	if len(keys) == 0 {
		if err := createKey(dir); err != nil {
			return Key{}, fmt.Errorf("make a key in %s: %w", dir, err)
		}
		if keys, err = LoadKeys(dir); err != nil {
			return Key{}, err
		}
	}
	return signer(keys, dir)
}

func signer(keys []Key, path string) (Key, error) {
	i := slices.IndexFunc(keys, Key.CanSign)
	if i < 0 {
		return Key{}, fmt.Errorf("no key in %s can sign; add a <kid>%s or a <kid>%s file", path, extHS256, extPrivate)
	}
	return keys[i], nil
}

// createKey writes the secret beside its place and links it there: nobody ever reads half a key.
func createKey(dir string) error {
	temp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	secret := make([]byte, minSecret)
	_, _ = rand.Read(secret) // never fails
	_, err = fmt.Fprintln(temp, base64.StdEncoding.EncodeToString(secret))
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), filepath.Join(dir, devKey)); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// keyFiles is the path itself, or the files of the folder. Kubernetes mounts a secret as links to files beside
// folders whose names begin with a dot, so links are followed.
func keyFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, filepath.Join(path, entry.Name()))
		}
	}
	return names, nil
}

func readKey(name string) (Key, error) {
	base := filepath.Base(name)
	read := map[string]func([]byte) (Key, error){extHS256: readSecret, extPublic: readPublic, extPrivate: readPrivate}
	for _, ext := range []string{extHS256, extPublic, extPrivate} {
		kid, ok := strings.CutSuffix(base, ext)
		if !ok || kid == "" {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return Key{}, err
		}
		key, err := read[ext](content)
		key.ID = kid
		return key, err
	}
	return Key{}, fmt.Errorf("the name must be <kid>%s, <kid>%s or <kid>%s", extHS256, extPublic, extPrivate)
}

func readSecret(content []byte) (Key, error) {
	secret, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(content)))
	if err != nil {
		// The decoder's own error says where, which is a byte of the secret.
		return Key{}, errors.New("the secret is not base64; make one with `openssl rand -base64 32`")
	}
	if len(secret) < minSecret {
		return Key{}, fmt.Errorf("the secret has %d bytes and needs %d; make one with `openssl rand -base64 32`", len(secret), minSecret)
	}
	return Key{method: jwt.SigningMethodHS256, verify: secret, signing: secret}, nil
}

func readPublic(content []byte) (Key, error) {
	block, _ := pem.Decode(content)
	if block == nil {
		return Key{}, errors.New("not PEM; make it with `openssl pkey -in <kid>.ed25519 -pubout`")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("public key (PKIX): %w", err)
	}
	public, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return Key{}, fmt.Errorf("the public key is a %T; only Ed25519 will do", parsed)
	}
	return Key{method: jwt.SigningMethodEdDSA, verify: public}, nil
}

func readPrivate(content []byte) (Key, error) {
	block, _ := pem.Decode(content)
	if block == nil {
		return Key{}, errors.New("not PEM; make it with `openssl genpkey -algorithm ed25519`")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, errors.New("not a private key in PKCS#8; make it with `openssl genpkey -algorithm ed25519`")
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("the private key is a %T; only Ed25519 will do", parsed)
	}
	return Key{method: jwt.SigningMethodEdDSA, verify: private.Public(), signing: private}, nil
}

// pair joins the two files of one Ed25519 key and refuses every other two files with one id.
func pair(a, b Key) (Key, error) {
	one, ok := a.verify.(ed25519.PublicKey)
	if !ok || a.method != b.method || !one.Equal(b.verify.(ed25519.PublicKey)) { //nolint:forcetypeassert // same method
		return Key{}, fmt.Errorf("another key has the id %s; give each key its own id", a.ID)
	}
	if b.CanSign() {
		return b, nil
	}
	return a, nil
}
