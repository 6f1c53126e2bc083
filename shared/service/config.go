// Package service is what every Weft process does around its work: read the configuration, connect to NATS, answer
// readiness, and stop in order when told to.
package service

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/peterbourgon/ff/v3"
)

// Registrar is a part of a configuration: it puts its fields on a flag set, with their defaults.
type Registrar interface {
	Flags(fs *flag.FlagSet)
}

// Parse fills parts from, in falling order of precedence, the arguments, the environment (WEFT_ and the flag's name
// in capitals, dashes as underscores; empty is as good as absent) and the file named by -config (one `name value` a
// line, # for comments). A name that nobody registered or a value that can't be read is an error that gives the name
// and the place.
func Parse(name string, args []string, parts ...Registrar) error {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	file := fs.String("config", "", "file with one `name value` a line")
	for _, part := range parts {
		part.Flags(fs)
	}
	err := ff.Parse(fs, args,
		ff.WithEnvVarPrefix("WEFT"),
		ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(func(r io.Reader, set func(name, value string) error) error {
			if err := ff.PlainParser(r, set); err != nil {
				return fmt.Errorf("%s: %w", *file, err)
			}
			return nil
		}))
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err != nil {
		fs.SetOutput(os.Stderr)
		fs.Usage()
		return fmt.Errorf("%s: %w; every name and its default is listed above", name, err)
	}
	return nil
}

// Base is the part of the configuration that every service has.
type Base struct {
	NATS     string // server URLs, separated by commas
	Creds    string // credentials file; empty for none
	User     string
	Password string
	Admin    string // listen address of /readyz and /healthz; empty for none
}

// Flags registers the fields; the NATS ones default to the variables of the nats command line.
func (b *Base) Flags(fs *flag.FlagSet) {
	fs.StringVar(&b.NATS, "nats", env("NATS_URL", nats.DefaultURL), "NATS server `URLs`, separated by commas")
	fs.StringVar(&b.Creds, "nats-creds", env("NATS_CREDS", ""), "NATS credentials `file`")
	fs.StringVar(&b.User, "nats-user", env("NATS_USER", ""), "NATS `user`")
	fs.StringVar(&b.Password, "nats-password", env("NATS_PASSWORD", ""), "NATS `password`")
	fs.StringVar(&b.Admin, "admin", "127.0.0.1:9090", "listen `address` of /readyz and /healthz; empty for none")
}

// Connect connects to NATS under a name that operators see, and keeps reconnecting for ever, with jitter, from then
// on. When no server answers yet, it goes on trying in the background: Ready tells.
func (b *Base) Connect(name string, log *slog.Logger) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("weft-" + name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		// A server that was paused or cut off is left after 4 to 6 s: sooner, everybody would move for a hiccup of a loaded
		// machine; later, with the election of a new leader, 10 s are over. A write that it does not take blocks
		// everybody who publishes; it is given up after 2 s, and the connection with it, since what was in it is lost.
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(2 * time.Second),
		nats.ReconnectOnFlusherError(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil when we closed it
				log.Warn("nats disconnected", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("nats reconnected", "server", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			log.Error("nats", "err", err, "subject", subjectOf(sub))
		}),
	}
	if b.Creds != "" {
		options = append(options, nats.UserCredentials(b.Creds))
	}
	if b.User != "" {
		options = append(options, nats.UserInfo(b.User, b.Password))
	}
	nc, err := nats.Connect(b.NATS, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", b.NATS, err)
	}
	return nc, nil
}

// Listen opens a TCP listener and names the flag in its error.
func Listen(flagName, address string) (net.Listener, error) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // such a connection does not know TCP_USER_TIMEOUT (Linux 6.18): see ServeStreams
	l, err := plain.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("-%s %s: %w; choose another address", flagName, address, err)
	}
	return l, nil
}

func subjectOf(sub *nats.Subscription) string {
	if sub == nil {
		return ""
	}
	return sub.Subject
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
