package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/admin"
)

// writeContext writes a context of the nats command line.
func writeContext(t *testing.T, name, text string) {
	t.Helper()
	folder := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func selectContext(t *testing.T, name string) {
	t.Helper()
	writeContext(t, "unused", "{}")
	if err := os.WriteFile(filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context.txt"), []byte(name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// complementOf is what a shell is told to complete a command line with.
func complementOf(t *testing.T, c *cobra.Command, args []string) string {
	t.Helper()
	root := &cobra.Command{Use: "weft"}
	root.AddCommand(c)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&bytes.Buffer{})
	root.SetArgs(append([]string{cobra.ShellCompRequestCmd}, args...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// locating is what a command with these arguments would connect to.
func locating(t *testing.T, args ...string) (located, nats.Options, error) {
	t.Helper()
	c := &cobra.Command{Use: "x"}
	var at target
	at.flags(c)
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	l, err := at.locate(c)
	var o nats.Options
	for _, option := range l.options {
		if err := option(&o); err != nil {
			t.Fatal(err)
		}
	}
	return l, o, err
}

func TestWhichNATSIsMeant(t *testing.T) {
	const flag, context, data, envContext, env, here, selected = 1, 2, 4, 8, 16, 32, 64
	for name, c := range map[string]struct {
		said int
		want string
	}{
		"a flag before all":                {flag | data | envContext | env | here | selected, "nats://flag"},
		"a flag gives a context its URL":   {flag | context, "nats://flag"},
		"--context before the environment": {context | envContext | env | here | selected, "nats://named"},
		"--data before the environment":    {data | envContext | env | here | selected, "nats://data"},
		"$NATS_URL above $NATS_CONTEXT":    {envContext | env | here | selected, "nats://env"},
		"$NATS_CONTEXT":                    {envContext | here | selected, "nats://envnamed"},
		"$NATS_URL":                        {env | here | selected, "nats://env"},
		"what runs here":                   {here | selected, "nats://here"},
		"the context that is selected":     {selected, "nats://selected"},
	} {
		t.Run(name, func(t *testing.T) {
			isolated(t)
			for _, name := range []string{"named", "envnamed", "selected"} {
				writeContext(t, name, `{"url":"nats://`+name+`"}`)
			}
			var args []string
			if c.said&flag != 0 {
				args = append(args, "--nats", "nats://flag")
			}
			if c.said&context != 0 {
				args = append(args, "--context", "named")
			}
			if c.said&data != 0 {
				folder := t.TempDir()
				runsIn(t, folder, "nats://data")
				args = append(args, "--data", folder)
			}
			if c.said&envContext != 0 {
				t.Setenv("NATS_CONTEXT", "envnamed")
			}
			if c.said&env != 0 {
				t.Setenv("NATS_URL", "nats://env")
			}
			if c.said&here != 0 {
				runsIn(t, ".weft", "nats://here")
			}
			if c.said&selected != 0 {
				selectContext(t, "selected")
			}
			if l, _, err := locating(t, args...); err != nil || l.url != c.want {
				t.Errorf("%s, %v; want %s", l.url, err, c.want)
			}
		})
	}
}

func runsIn(t *testing.T, folder, url string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(folder, manifest.Manifest{Name: "dev", NATS: url}); err != nil {
		t.Fatal(err)
	}
}

func TestAContextSaysWhoWeAre(t *testing.T) {
	isolated(t)
	writeContext(t, "user", `{"url":"nats://a,nats://b","user":"u","password":"p","inbox_prefix":"_mine","tls_first":true,"description":"x","color_scheme":"y"}`)
	l, o, err := locating(t, "--context", "user")
	if err != nil || l.url != "nats://a,nats://b" || o.User != "u" || o.Password != "p" || o.InboxPrefix != "_mine" || !o.TLSHandshakeFirst {
		t.Errorf("%+v, %+v, %v", l, o, err)
	}
	if l.name != "context user (nats://a,nats://b)" || l.context != "user" {
		t.Errorf("%+v", l)
	}
	t.Setenv("NATS_USER", "token") // takes the place of all that the context says of who we are
	if _, o, err = locating(t, "--context", "user"); err != nil || o.User != "" || o.Password != "" || o.Token != "token" {
		t.Errorf("%+v, %v", o, err)
	}
	t.Setenv("NATS_PASSWORD", "word")
	if _, o, err = locating(t, "--context", "user"); err != nil || o.User != "token" || o.Password != "word" || o.Token != "" {
		t.Errorf("%+v, %v", o, err)
	}
	file := filepath.Join(t.TempDir(), "other.json")
	if err := os.WriteFile(file, []byte(`{"token":"t"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NATS_USER", "")
	t.Setenv("NATS_PASSWORD", "")
	if l, o, err = locating(t, "--context", file); err != nil || o.Token != "t" || l.url != nats.DefaultURL {
		t.Errorf("%+v, %+v, %v", l, o, err)
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "mine.creds"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("NATS_CREDS", "~/mine.creds")
	if _, o, err = locating(t, "--context", file); err != nil || o.Token != "" || o.UserJWT == nil {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestAContextThatCanNotBeFollowed(t *testing.T) {
	isolated(t)
	for text, want := range map[string]string{
		`{"socks_proxy":"socks5://x"}`: "socks_proxy",
		`{"nsc":"nsc://a/b/c"}`:        "nsc",
		`{"user_jwt":"x"}`:             "user_jwt",
		`{"windows_cert_store":"x"}`:   "windows_cert_store",
		`{"creds":"op://vault/x"}`:     "1Password",
		`{"cert":"x.pem"}`:             "both cert and key",
	} {
		writeContext(t, "bad", text)
		if _, _, err := locating(t, "--context", "bad"); ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for name, want := range map[string]string{"none": `there is no nats context "none": there are bad`, "../bad": "is no name"} {
		if _, _, err := locating(t, "--context", name); ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	writeContext(t, "bad", `{`)
	if _, _, err := locating(t, "--context", "bad"); err == nil || ExitCode(err) != ExitFailed {
		t.Errorf("broken: %v", err)
	}
}

// Who asks is told with the context, and who is behind sudo.
func TestWhoAsks(t *testing.T) {
	var by admin.By
	url := fakeFabric(t, answers{
		admin.QuarantineList: answering(t, func(admin.QuarantineRequest) (any, error) { return admin.QuarantinePage{}, nil }),
		admin.QuarantineDrop: answering(t, func(q admin.QuarantineOne) (any, error) {
			by = q.By
			return admin.QuarantineDone{Number: q.Number}, nil
		}),
	})
	writeContext(t, "prod", `{"url":"`+url+`"}`)
	t.Setenv("SUDO_USER", "nightshift")
	if got := operate(t, NewQuarantine(), "drop", "7", "--yes", "--context", "prod", "--note", "why"); got.code != ExitDone {
		t.Fatalf("%+v", got)
	}
	if !strings.HasPrefix(by.Who, "nightshift as ") || !strings.Contains(by.Who, "@") || !strings.HasSuffix(by.Who, " (context prod)") || by.Note != "why" {
		t.Errorf("%+v", by)
	}
}
