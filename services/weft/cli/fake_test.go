package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// tty is somebody at a terminal: what is typed is read, what is printed is kept.
type tty struct {
	io.Reader

	mu    sync.Mutex // protects shown
	shown bytes.Buffer
	width int
}

func (t *tty) Columns() int { return t.width }

func (t *tty) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown.Write(b)
}

func (t *tty) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown.String()
}

// answers are what fake services say, by endpoint.
type answers map[string]func(question []byte) (any, error)

// answering makes one from a function of the right types.
func answering[Q any](t *testing.T, answer func(Q) (any, error)) func([]byte) (any, error) {
	t.Helper()
	return func(body []byte) (any, error) {
		var q Q
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			t.Errorf("the question %s: %v", body, err)
		}
		return answer(q)
	}
}

// fakeFabric is a NATS with services that answer so; it returns where. Nothing of the machine's NATS is found.
func fakeFabric(t *testing.T, a answers) (url string) {
	t.Helper()
	isolated(t)
	server, err := embed.NATS(embed.NATSOptions{Dir: filepath.Join(t.TempDir(), "nats"), Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	service, err := micro.AddService(nc, micro.Config{Name: "weft-admin", Version: "0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	for name, answer := range a {
		handle := micro.HandlerFunc(func(r micro.Request) {
			v, err := answer(r.Data())
			if err == nil {
				err = r.RespondJSON(v)
			}
			if err != nil {
				rpc.Refuse(r, err)
			}
		})
		if err := service.AddEndpoint(strings.ReplaceAll(name, ".", "-"), handle, micro.WithEndpointSubject(subject.Admin(name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return server.URL()
}

// isolated hides the machine's contexts, variables and fabrics.
func isolated(t *testing.T) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, name := range []string{
		"URL", "CONTEXT", "USER", "PASSWORD", "TOKEN", "CREDS", "NKEY", "CERT", "KEY", "CA", "INBOX_PREFIX", "SOCKS_PROXY",
	} {
		t.Setenv("NATS_"+name, "")
	}
	t.Setenv("NO_COLOR", "1")
	t.Chdir(t.TempDir())
}

// ran is how a command line ended.
type ran struct {
	out, said string
	err       error
	code      int
}

// operate runs a command line that nobody sits at.
func operate(t *testing.T, c *cobra.Command, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, said bytes.Buffer
	err := execute(ctx, c, strings.NewReader(""), &out, &said, args)
	return ran{out.String(), said.String(), err, ExitCode(err)}
}

// sitting runs a command line at a terminal of 80 columns, at which somebody types.
func sitting(t *testing.T, c *cobra.Command, typed string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, said := &tty{width: 80}, &tty{width: 80}
	err := execute(ctx, c, &tty{Reader: strings.NewReader(typed)}, out, said, args)
	return ran{out.String(), said.String(), err, ExitCode(err)}
}

func execute(ctx context.Context, c *cobra.Command, in io.Reader, out, said io.Writer, args []string) error {
	root := &cobra.Command{Use: "weft", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(c)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(said)
	root.SetArgs(append([]string{c.Name()}, args...))
	return root.ExecuteContext(ctx)
}

// has fails the test unless text has all parts, in this order.
func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		at := strings.Index(rest, part)
		if at < 0 {
			t.Errorf("%q is not in, or not after the one before:\n%s", part, text)
			return
		}
		rest = rest[at+len(part):]
	}
}

// lacks fails the test if text has one of the parts.
func lacks(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(text, part) {
			t.Errorf("%q is in:\n%s", part, text)
		}
	}
}

// goesOn is the arguments of the line that says how to go on, as a shell would split it, without the command's name.
func goesOn(t *testing.T, text, command string) []string {
	t.Helper()
	_, l, found := strings.Cut(text, "weft "+command+" ")
	if !found {
		t.Fatalf("no line says how to go on with %s:\n%s", command, text)
	}
	l, _, _ = strings.Cut(l, "\n")
	return shellWords(t, l)
}
