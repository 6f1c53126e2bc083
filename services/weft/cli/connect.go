package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

// whereHelp is how a command finds its NATS, for the help of each.
const whereHelp = `
NATS is the one of --nats; else of --context; else of --data; else of $NATS_CONTEXT or $NATS_URL; else of the fabric that
runs in ./.weft; else of the context that "nats context select" has chosen. $NATS_USER, $NATS_PASSWORD, $NATS_TOKEN,
$NATS_CREDS, $NATS_NKEY, $NATS_CERT, $NATS_KEY and $NATS_CA go with all but a fabric on this machine.`

// target is the flags that say which fabric is meant.
type target struct {
	from    fabric
	nats    string
	context string
	timeout time.Duration
}

func (t *target) flags(c *cobra.Command) {
	t.from.flags(c)
	f := c.Flags()
	f.StringVar(&t.nats, "nats", "", "NATS server `URL`s, separated by commas")
	f.StringVar(&t.context, "context", "", "`name` of a context of the nats command line, or a file that ends in .json")
	f.DurationVar(&t.timeout, "timeout", 10*time.Second, "how long to wait for one answer")
	complete(c, "context", func() []string { return contextNames() })
}

// located is a NATS that was found.
type located struct {
	url     string
	name    string // for people: context prod (tls://…), or the URL
	context string // the context's name; empty without one
	options []nats.Option
}

// locate finds the NATS that is meant, in the order that whereHelp tells. It does not connect.
func (t *target) locate(c *cobra.Command) (located, error) {
	data := c.Flags().Changed("data")
	named := t.context
	if named == "" && t.nats == "" && !data {
		named = os.Getenv("NATS_CONTEXT")
	}
	url := t.nats
	if url == "" && t.context == "" && !data {
		url = os.Getenv("NATS_URL")
	}
	if named == "" && url == "" {
		m, err := manifest.Read(t.from.data)
		if err == nil {
			return located{url: m.NATS, name: unsaid(m.NATS)}, nil
		}
		if named = selectedContext(); named == "" || data {
			_, err := t.from.running("--nats or --context")
			return located{}, err
		}
	}
	var s natsSettings
	if named != "" {
		var err error
		if s, err = readContext(named); err != nil {
			return located{}, err
		}
	}
	s.URL = cmp.Or(url, s.URL, nats.DefaultURL)
	s.overlay()
	options, err := s.options()
	l := located{url: s.URL, name: unsaid(s.URL), context: named, options: options}
	if named != "" {
		l.name = fmt.Sprintf("context %s (%s)", named, l.name)
	}
	return l, err
}

// unsaid is URLs for people, without their passwords and tokens.
func unsaid(urls string) string {
	list := strings.Split(urls, ",")
	for i, one := range list {
		scheme, rest, ok := strings.Cut(one, "://")
		if !ok {
			scheme, rest = "", one
		} else {
			scheme += "://"
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = rest[at+1:]
		}
		list[i] = scheme + rest
	}
	return strings.Join(list, ",")
}

// dial finds the NATS that is meant and connects.
func (t *target) dial(c *cobra.Command) (*nats.Conn, located, error) {
	l, err := t.locate(c)
	if err != nil {
		return nil, l, err
	}
	nc, err := nats.Connect(l.url, append(l.options, nats.Name(c.CommandPath()), nats.Timeout(t.timeout), nats.MaxReconnects(-1))...)
	if err != nil {
		return nil, l, fmt.Errorf("connect to NATS at %s: %w; is the fabric running?", l.name, err)
	}
	return nc, l, nil
}

// console is what each operators' command is told and works with. The flags are set by cobra; the rest by open.
type console struct {
	at     target
	output output
	note   string // --note, of commands that change something

	command *cobra.Command
	nc      *nats.Conn
	where   located
	out     *screen // standard output: results
	said    *screen // standard error: everything else
	now     func() time.Time
}

// newConsole puts the flags that all have on a command; open must be called before anything else.
func newConsole(c *cobra.Command) *console {
	k := &console{command: c, now: time.Now}
	k.at.flags(c)
	k.output.flags(c)
	c.Long += "\n" + whereHelp
	return k
}

// changes puts the flags of commands that change something on it.
func (k *console) changes() {
	k.command.Flags().StringVar(&k.note, "note", "", "why, in your `words`, for the record that is kept")
}

// open checks the flags that all have and connects. The caller closes.
func (k *console) open() error {
	if err := k.output.check(); err != nil {
		return err
	}
	if k.at.timeout <= 0 {
		return usagef("--timeout is a time above zero, such as 10s")
	}
	if err := noneEmpty(k.command); err != nil {
		return err
	}
	k.out, k.said = newScreen(k.command.OutOrStdout()), newScreen(k.command.ErrOrStderr())
	var err error
	k.nc, k.where, err = k.at.dial(k.command)
	return err
}

// noneEmpty refuses flags that were given without a value, as --user "$WHO" is where WHO is not set: all would be meant.
func noneEmpty(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && f.Name != "note" {
			err = usagef("--%s is empty: give it a value, or leave it out", f.Name)
		}
	})
	return err
}

func (k *console) close() { k.nc.Close() }

// json says whether a program reads what is printed.
func (k *console) json() bool { return k.output == forMachines }

// say writes a line for the person to standard error. One that can't be written is no reason to stop.
func (k *console) say(format string, args ...any) { note(k.said, format, args...) }

// by is who asks for a change: the account and machine, who is behind sudo, and the nats context if there is one.
func (k *console) by() admin.By {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if sudo := os.Getenv("SUDO_USER"); sudo != "" && sudo != who {
		who = sudo + " as " + who
	}
	if host, err := os.Hostname(); err == nil {
		who += "@" + host
	}
	if k.where.context != "" {
		who += " (context " + k.where.context + ")"
	}
	return admin.By{Who: who, Note: k.note}
}

// confirmed asks the person at the terminal whether to go on; yes is the flag that spares the question. Where nobody can be
// asked it is a usage error; a no is errDeclined.
func (k *console) confirmed(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	in := k.command.InOrStdin()
	if !terminal(in) || !k.said.terminal {
		return usagef("nobody can be asked whether to go on, since this is no terminal; look with --dry-run or ls, then say --yes")
	}
	if _, err := fmt.Fprintf(k.said, "%s [y/N] ", plain(question)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	answer, err := readLine(ctx, in)
	if err != nil {
		return err
	}
	switch answer {
	case "y", "Y", "yes", "Yes", "YES":
		return nil
	}
	return errDeclined
}

var errDeclined = errors.New("nothing was done")

// readLine reads up to the end of a line, or until ctx ends.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type read struct {
		text string
		err  error
	}
	done := make(chan read, 1)
	// It ends with the line, or with the process: reading from a terminal can't be called off.
	go func() {
		var text []byte
		for one := make([]byte, 1); ; {
			n, err := in.Read(one)
			if n == 1 && one[0] != '\n' && one[0] != '\r' {
				text = append(text, one[0])
				continue
			}
			if n == 0 && err == nil {
				continue
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			done <- read{string(text), err}
			return
		}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", errDeclined
	}
}

// retryable says whether the same question may be answered later.
func retryable(err error) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	return ok && p.Retry
}
