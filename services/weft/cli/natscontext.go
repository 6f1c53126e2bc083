package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// natsSettings is how to reach NATS: a context file of the nats command line, over which the environment is laid.
type natsSettings struct {
	URL         string `json:"url"`
	Token       string `json:"token"`
	User        string `json:"user"`
	Password    string `json:"password"`
	Creds       string `json:"creds"` // this and the next four are files
	NKey        string `json:"nkey"`
	Cert        string `json:"cert"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
	InboxPrefix string `json:"inbox_prefix"`
	TLSFirst    bool   `json:"tls_first"`

	// What the nats command line can and this can't.
	SocksProxy string `json:"socks_proxy"`
	NSC        string `json:"nsc"`
	UserJWT    string `json:"user_jwt"`
	WinStore   string `json:"windows_cert_store"`
}

// natsFolder is where the nats command line keeps its contexts.
func natsFolder() (string, error) {
	parent := os.Getenv("XDG_CONFIG_HOME")
	if parent == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the nats contexts: %w; set XDG_CONFIG_HOME", err)
		}
		parent = filepath.Join(home, ".config")
	}
	return filepath.Join(parent, "nats"), nil
}

// selectedContext is the context that `nats context select` has chosen; empty if there is none.
func selectedContext() string {
	folder, err := natsFolder()
	if err != nil {
		return ""
	}
	name, err := os.ReadFile(filepath.Join(folder, "context.txt"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// contextNames are the contexts that there are, in order.
func contextNames() []string {
	folder, err := natsFolder()
	if err != nil {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(folder, "context", "*.json"))
	if err != nil {
		return nil
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".json")
	}
	slices.Sort(files)
	return files
}

// readContext reads a context by its name, or the file if it ends in .json.
func readContext(name string) (natsSettings, error) {
	var s natsSettings
	file := name
	if !strings.HasSuffix(name, ".json") {
		if strings.Contains(name, "..") || strings.ContainsRune(name, os.PathSeparator) {
			return s, usagef("%q is no name of a nats context; give a name or a file that ends in .json", name)
		}
		folder, err := natsFolder()
		if err != nil {
			return s, err
		}
		file = filepath.Join(folder, "context", name+".json")
	}
	text, err := os.ReadFile(file) //nolint:gosec // whoever names it may read it
	if errors.Is(err, fs.ErrNotExist) {
		known := "there are none; `nats context add` makes one"
		if names := contextNames(); len(names) > 0 {
			known = "there are " + strings.Join(names, ", ")
		}
		return s, usagef("there is no nats context %q: %s", name, known)
	}
	if err != nil {
		return s, fmt.Errorf("read the nats context %s: %w", name, err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the nats context in %s: %w", file, err)
	}
	return s, nil
}

// overlay puts what the NATS_* variables say above what s says, as the nats command line does. A user without a
// password is a token.
func (s *natsSettings) overlay() {
	get := func(name string, into ...*string) {
		if v := os.Getenv(name); v != "" {
			*into[0] = v
		}
	}
	user, password, token, creds, nkey := "", "", "", "", ""
	get("NATS_USER", &user)
	get("NATS_PASSWORD", &password)
	get("NATS_TOKEN", &token)
	get("NATS_CREDS", &creds)
	get("NATS_NKEY", &nkey)
	if user != "" && password == "" {
		user, token = "", user
	}
	if user+token+creds+nkey != "" { // one way to say who we are takes the place of another
		s.User, s.Password, s.Token, s.Creds, s.NKey = user, password, token, creds, nkey
	}
	get("NATS_CERT", &s.Cert)
	get("NATS_KEY", &s.Key)
	get("NATS_CA", &s.CA)
	get("NATS_INBOX_PREFIX", &s.InboxPrefix)
	get("NATS_SOCKS_PROXY", &s.SocksProxy)
}

// refused names the first setting that only the nats command line can follow.
func (s *natsSettings) refused() error {
	for _, can := range []struct{ name, value string }{
		{"socks_proxy", s.SocksProxy}, {"nsc", s.NSC}, {"user_jwt", s.UserJWT}, {"windows_cert_store", s.WinStore},
	} {
		if can.value != "" {
			return usagef("the nats context has %s, which weft can't follow; give the server with --nats, and NATS_CREDS, NATS_NKEY or NATS_USER", can.name)
		}
	}
	if strings.HasPrefix(s.Creds, "op://") {
		return usagef("the nats context has its creds in 1Password, which weft can't read; write them to a file and give it with NATS_CREDS")
	}
	if (s.Cert == "") != (s.Key == "") {
		return usagef("a client certificate needs both cert and key (NATS_CERT and NATS_KEY)")
	}
	return nil
}

// options are the settings as nats.go wants them.
func (s *natsSettings) options() ([]nats.Option, error) {
	if err := s.refused(); err != nil {
		return nil, err
	}
	var options []nats.Option
	switch {
	case s.User != "":
		options = append(options, nats.UserInfo(s.User, s.Password))
	case s.Creds != "":
		options = append(options, nats.UserCredentials(inHome(s.Creds)))
	case s.NKey != "":
		key, err := nats.NkeyOptionFromSeed(inHome(s.NKey))
		if err != nil {
			return nil, fmt.Errorf("read the nkey in %s: %w", s.NKey, err)
		}
		options = append(options, key)
	case s.Token != "":
		options = append(options, nats.Token(s.Token))
	}
	if s.Cert != "" {
		options = append(options, nats.ClientCert(inHome(s.Cert), inHome(s.Key)))
	}
	if s.CA != "" {
		options = append(options, nats.RootCAs(inHome(s.CA)))
	}
	if s.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(s.InboxPrefix))
	}
	if s.TLSFirst {
		options = append(options, nats.TLSHandshakeFirst())
	}
	return options, nil
}

// inHome writes a leading ~ out.
func inHome(path string) string {
	rest, tilde := strings.CutPrefix(path, "~"+string(os.PathSeparator))
	home, err := os.UserHomeDir()
	if !tilde || err != nil {
		return path
	}
	return filepath.Join(home, rest)
}
