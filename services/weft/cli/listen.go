package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// ownTokenTTL is how long a token of the command's own is good; each connection gets a new one.
const ownTokenTTL = time.Hour

// ear is what `weft listen` was told.
type ear struct {
	from   fabric
	output output
	url    string
	user   string
	tenant string
	device string
	topics []string
	token  string
}

// NewListen is `weft listen`: a device that prints what it gets.
func NewListen() *cobra.Command {
	e := new(ear)
	c := &cobra.Command{
		Use:   "listen --user USER",
		Short: "Connect as a device of a user and print messages as they come",
		Long: `Connect as a device of a user and print messages as they come, those first that came while the device was away.
What was printed is acknowledged: the same --device does not see it again. Messages go to standard output, gaps and
the state of the connection to standard error. Ctrl-C ends it.

The token is made with the key in the data folder, or taken from --token or $WEFT_TOKEN.`,
		Example: `  weft listen --user alice
  weft listen --user alice --device tablet --topic news --topic octokit/webhooks
  weft listen --user alice --output json | jq .data
  WEFT_TOKEN=eyJ... weft listen --url wss://push.example.com`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return e.run(c) },
	}
	e.from.flags(c)
	e.output.flags(c)
	f := c.Flags()
	f.StringVar(&e.url, "url", "", "`URLs` of push nodes, separated by commas; those of the fabric on this machine if it is not given")
	f.StringVar(&e.user, "user", "", "user to be; not needed with a token")
	f.StringVar(&e.tenant, "tenant", subject.DefaultTenant, "tenant of the user")
	f.StringVar(&e.device, "device", "terminal", "device to be; each terminal that listens at the same time needs its own")
	f.StringArrayVar(&e.topics, "topic", nil, "`topic` to subscribe to; may be given again")
	f.StringVar(&e.token, "token", "", "token to show; $WEFT_TOKEN if it is not given, else one is made")
	return Usage(c)
}

func (e *ear) run(c *cobra.Command) error {
	if err := e.output.check(); err != nil {
		return err
	}
	if e.token == "" {
		e.token = os.Getenv("WEFT_TOKEN")
	}
	if e.token == "" && e.user == "" {
		return usagef("name the user with --user, or give a token with --token")
	}
	// Before a token is made: in a folder where nothing runs no key is to be left behind.
	if e.url == "" {
		m, err := e.from.running("--url")
		if err != nil {
			return err
		}
		if len(m.Push) == 0 {
			return fmt.Errorf("the fabric in %s has no push node; name one with --url", e.from.data)
		}
		e.url = strings.Join(m.Push, ",") // one of them may drain
	}
	token, err := e.tokens()
	if err != nil {
		return err
	}
	return e.explain(e.listen(c, token))
}

// tokens is where the client gets its tokens from: the one that was given, or one of its own for each connection.
func (e *ear) tokens() (func(context.Context) (string, error), error) {
	if e.token != "" {
		return func(context.Context) (string, error) { return e.token, nil }, nil
	}
	key, err := e.from.key()
	if err != nil {
		return nil, err
	}
	// Its topics are patterns, in which a star is not itself; a topic with one in it is read all the same.
	who := identity.Identity{Tenant: e.tenant, User: e.user, Topics: slices.Clone(e.topics)}
	return func(context.Context) (string, error) { return auth.Sign(key, who, ownTokenTTL) }, nil
}

// listen prints until ctx ends, which is no error.
func (e *ear) listen(c *cobra.Command, token func(context.Context) (string, error)) error {
	ctx, end := context.WithCancelCause(c.Context())
	defer end(nil)
	out, notes := c.OutOrStdout(), c.ErrOrStderr()
	device, err := client.Dial(ctx, client.Options{
		URL: e.url, Token: token, Device: e.device, Topics: e.topics,
		OnGap: func(g client.Gap) { note(notes, "gap: %s %d to %d will not come: %s", g.Address, g.From, g.To, g.Why) },
		OnStatus: func(s client.Status) {
			report(notes, s)
			if closed, ok := errors.AsType[*client.Closed](s.Err); ok && closed.Code == protocol.CloseToken && e.token != "" {
				end(s.Err) // there is no other token to try
			}
		},
	})
	if err != nil {
		if c.Context().Err() != nil {
			return nil // Ctrl-C while connecting
		}
		return err
	}
	show := printer(e.output, out)
	err = device.Run(ctx, func(_ context.Context, m client.Message) error {
		if err := show(m, time.Now()); err != nil {
			end(err) // nobody reads any more
			return err
		}
		return nil
	})
	if err == nil && c.Context().Err() == nil {
		err = context.Cause(ctx)
	}
	return err
}

// explain adds what to do to the refusals that a newcomer meets.
func (e *ear) explain(err error) error {
	closed, ok := errors.AsType[*client.Closed](err)
	if ok && closed.Code == protocol.CloseReplaced {
		return fmt.Errorf("%w; another program listens as device %q now: give each its own --device", err, e.device)
	}
	return err
}

func report(w io.Writer, s client.Status) {
	if !s.Online {
		if s.Retry > 0 {
			note(w, "offline: %v; again in %s", s.Err, s.Retry.Round(time.Millisecond))
		}
		return
	}
	var boxes []string
	for address, at := range s.Welcome.Mailboxes {
		if missed := at.Head + 1 - at.Next; at.Next <= at.Head {
			boxes = append(boxes, fmt.Sprintf("%s (%d to come)", address, missed))
		} else {
			boxes = append(boxes, address)
		}
	}
	slices.Sort(boxes)
	note(w, "online: %s on device %s, listening to %s", s.Welcome.User, s.Welcome.Device, strings.Join(boxes, ", "))
}

// note writes a line about the connection. One that can't be written is no reason to stop.
func note(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintln(w, plain(fmt.Sprintf(format, args...)))
}
