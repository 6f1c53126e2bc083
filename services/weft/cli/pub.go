package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/subject"
)

// The two doors.
const (
	requestDoor = "request"
	streamDoor  = "stream"
)

// publication is what `weft pub` was told.
type publication struct {
	at      target
	output  output
	tenant  string
	door    string
	file    string
	ttl     time.Duration
	id      string
	kind    string
	content string
	receipt bool
}

// NewPub is `weft pub`: one message to one address.
func NewPub() *cobra.Command {
	p := new(publication)
	c := &cobra.Command{
		Use:   "pub ADDRESS [PAYLOAD]",
		Short: "Publish a message to a user, a topic or all",
		Long: `Publish a message to user:<id>, topic:<id> or all.

Through the request door (the default) the command ends when the archive has the message, and tells its sequence.
Through the stream door it ends when the stream has it: faster, and a refusal is then a receipt and a quarantine entry.
The same --id again is the same message: it is safe to repeat.
` + whereHelp,
		Example: `  weft pub user:alice '{"hello":1}'
  weft pub topic:news '{"n":1}' --type news.item --id item-17 --ttl 24h
  weft pub all 'maintenance at noon' --content-type text/plain
  weft pub user:alice '{"order":17}' --receipt --ttl 1h   # then: nats sub 'weft.receipt.default.user.alice'
  weft pub user:alice --file photo.jpg --content-type image/jpeg
  date | weft pub user:alice --file - --content-type text/plain --output json`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("ADDRESS is missing: user:<id>, topic:<id> or all")
			case len(args) > 2:
				return fmt.Errorf("ADDRESS and PAYLOAD are taken, not %d arguments; quote a payload that has spaces", len(args))
			}
			return nil
		},
		RunE: p.run,
	}
	p.at.flags(c)
	p.output.flags(c)
	f := c.Flags()
	f.StringVar(&p.tenant, "tenant", subject.DefaultTenant, "tenant of the address")
	f.StringVar(&p.door, "door", requestDoor, "`door`: request or stream")
	f.StringVar(&p.file, "file", "", "read the payload from a `file`; - is standard input")
	f.DurationVar(&p.ttl, "ttl", 0, "the message expires undelivered after this `time`; never if it is not given")
	f.StringVar(&p.id, "id", "", "id of the message; one is made if it is not given")
	f.StringVar(&p.kind, "type", "", "what happened, such as order.shipped")
	f.StringVar(&p.content, "content-type", "", "what the payload is; JSON if it is not given")
	f.BoolVar(&p.receipt, "receipt", false, "ask for a receipt of each device of the user: delivered, expired or deleted")
	complete(c, "door", func() []string { return []string{requestDoor, streamDoor} })
	return Usage(c)
}

func (p *publication) run(c *cobra.Command, args []string) error {
	if err := p.check(args); err != nil {
		return err
	}
	to, err := subject.ParseAddress(p.tenant, args[0])
	if err != nil {
		return usageError{err}
	}
	payload, err := p.payload(args, c.InOrStdin())
	if err != nil {
		return err
	}
	nc, _, err := p.at.dial(c)
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(c.Context(), p.at.timeout)
	defer cancel()
	if p.door == streamDoor {
		ack, err := client.NewPublisher(nc).Publish(ctx, to, payload, p.options(c)...)
		if err != nil {
			return unknown(err, ack.ID)
		}
		return p.accepted(c.OutOrStdout(), to, ack)
	}
	receipt, err := client.NewPublisher(nc).Request(ctx, to, payload, p.options(c)...)
	if err != nil {
		return unknown(err, receipt.ID)
	}
	return p.archived(c.OutOrStdout(), receipt)
}

// unknown says the id of a message of which nobody knows whether it was taken: with another it would come twice.
func unknown(err error, id string) error {
	if errors.Is(err, client.ErrUnknown) {
		return fmt.Errorf("%w. To publish it again: --id %s", err, quoted(id))
	}
	return err
}

func (p *publication) check(args []string) error {
	if p.door != requestDoor && p.door != streamDoor {
		return usagef("--door is request or stream, not %q", p.door)
	}
	if (len(args) == 2) == (p.file != "") {
		return usagef("give the payload either as the second argument or with --file")
	}
	return p.output.check()
}

func (p *publication) payload(args []string, stdin io.Reader) ([]byte, error) {
	if len(args) == 2 {
		return []byte(args[1]), nil
	}
	read := func() ([]byte, error) { return os.ReadFile(p.file) }
	if p.file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(stdin) }
	}
	payload, err := read()
	if err != nil {
		return nil, fmt.Errorf("read the payload: %w", err)
	}
	return payload, nil
}

// options are the headers that were asked for: a flag that was given is sent as it is, so that the fabric can say
// what is wrong with it.
func (p *publication) options(c *cobra.Command) []client.Option {
	var options []client.Option
	add := func(flag string, option client.Option) {
		if c.Flags().Changed(flag) {
			options = append(options, option)
		}
	}
	add("id", client.WithID(p.id))
	add("type", client.WithType(p.kind))
	add("content-type", client.WithContentType(p.content))
	add("ttl", client.WithTTL(p.ttl))
	if p.receipt {
		options = append(options, client.WithReceipt())
	}
	return options
}

func (p *publication) archived(w io.Writer, r client.Receipt) error {
	if p.output == forMachines {
		return jsonLine(w, r)
	}
	return line(w, "%s seq %d id %s %s", plain(r.To), r.Seq, plain(r.ID), r.State)
}

func (p *publication) accepted(w io.Writer, to subject.Address, ack client.Ack) error {
	if p.output == forMachines {
		return jsonLine(w, struct {
			ID       string `json:"id"`
			To       string `json:"to"`
			State    string `json:"state"`
			Stream   string `json:"stream"`
			Position uint64 `json:"position"` // in the stream
		}{ack.ID, to.String(), "accepted", ack.Stream, ack.Position})
	}
	return line(w, "%s id %s accepted by %s", plain(to.String()), plain(ack.ID), ack.Stream)
}

func jsonLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
