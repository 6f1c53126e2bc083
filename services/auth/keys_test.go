package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weftpush/weft/shared/identity"
)

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func secretFile(secret []byte) []byte {
	return []byte(base64.StdEncoding.EncodeToString(secret) + "\n")
}

func block(t *testing.T, kind string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// edFiles are the two files of a new Ed25519 key.
func edFiles(t *testing.T) (private, public []byte) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	private = block(t, "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(pub)
	return private, block(t, "PUBLIC KEY", der, err)
}

func TestLoadKeysReadsEveryKind(t *testing.T) {
	dir := t.TempDir()
	private, public := edFiles(t)
	write(t, dir, "b.hs256", secretFile(make([]byte, 32)))
	write(t, dir, "a.ed25519", private)
	write(t, dir, "a.ed25519.pub", public)
	write(t, dir, "c.ed25519.pub", public)
	write(t, dir, ".hidden", nil)
	keys, err := LoadKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%v %#v", keys, keys)
	if want := "[a b c] []auth.Key{a, b, c}"; got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
	if !keys[0].CanSign() || !keys[1].CanSign() || keys[2].CanSign() {
		t.Error("a key pair and a secret can sign, a public key can't")
	}
}

func TestLoadKeysTakesOneFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "one.hs256", secretFile(make([]byte, 32)))
	keys, err := LoadKeys(filepath.Join(dir, "one.hs256"))
	if err != nil || len(keys) != 1 || keys[0].ID != "one" {
		t.Errorf("keys %v, err %v", keys, err)
	}
}

func TestLoadKeysSaysWhatIsWrong(t *testing.T) {
	private, public := edFiles(t)
	_, foreign := edFiles(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&curve.PublicKey)
	curvePublic := block(t, "PUBLIC KEY", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(curve)
	curvePrivate := block(t, "PRIVATE KEY", der, err)

	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"short secret":       {map[string][]byte{"a.hs256": secretFile(make([]byte, 31))}, "has 31 bytes and needs 32"},
		"raw secret":         {map[string][]byte{"a.hs256": []byte("correct horse battery staple! 123")}, "not base64"},
		"other name":         {map[string][]byte{"a.pem": public}, "the name must be"},
		"no id":              {map[string][]byte{".hs256.swp": nil, "a.txt": nil}, "the name must be"},
		"not PEM":            {map[string][]byte{"a.ed25519.pub": []byte("ssh-ed25519 AAAA")}, "not PEM"},
		"not PEM, private":   {map[string][]byte{"a.ed25519": []byte("x")}, "not PEM"},
		"public as private":  {map[string][]byte{"a.ed25519": public}, "PKCS#8"},
		"private as public":  {map[string][]byte{"a.ed25519.pub": private}, "PKIX"},
		"other curve":        {map[string][]byte{"a.ed25519.pub": curvePublic}, "only Ed25519"},
		"other curve, priv.": {map[string][]byte{"a.ed25519": curvePrivate}, "only Ed25519"},
		"two kinds, one id":  {map[string][]byte{"a.ed25519.pub": public, "a.hs256": secretFile(make([]byte, 32))}, "another key has the id a"},
		"foreign pair":       {map[string][]byte{"a.ed25519": private, "a.ed25519.pub": foreign}, "another key has the id a"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range c.files {
				write(t, dir, file, content)
			}
			_, err := LoadKeys(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, want one with the file and %q", err, c.want)
			}
		})
	}
}

func TestLoadOrCreateKeyMakesOneOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	tokens := make([]string, 8)
	var all sync.WaitGroup
	for i := range tokens {
		all.Go(func() {
			key, err := LoadOrCreateKey(dir)
			if err != nil {
				t.Error(err)
				return
			}
			// The same secret makes the same MAC for the same claims, whoever loaded it.
			signature, err := key.method.Sign("x", key.signing)
			tokens[i] = string(signature)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, token := range tokens {
		if token != tokens[0] {
			t.Fatal("two processes that start at once use two keys")
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 || entries[0].Name() != "dev.hs256" {
		t.Errorf("the folder has %v, want dev.hs256 alone", entries)
	}
	info, err := os.Stat(filepath.Join(dir, "dev.hs256"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, err %v; want 0600", info.Mode(), err)
	}
}

func TestLoadOrCreateKeyLeavesAFolderOfPublicKeysAlone(t *testing.T) {
	dir := t.TempDir()
	_, public := edFiles(t)
	write(t, dir, "a.ed25519.pub", public)
	if _, err := LoadOrCreateKey(dir); err == nil || !strings.Contains(err.Error(), "can sign") {
		t.Errorf("error %v, want one that says no key can sign", err)
	}
	if _, err := Sign(Key{ID: "a"}, identity.Identity{User: "alice"}, 1e9); err == nil {
		t.Error("a key that can only verify signed")
	}
}
