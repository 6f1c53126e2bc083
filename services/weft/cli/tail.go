package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// tailQueue is how many messages may wait to be shown; more are counted and dropped.
const tailQueue = 16_384

// tailLate is how much later than it was archived a message is not news: a log that was behind or cut is written again.
const tailLate = 10 * time.Second

// tailing is what `weft tail` was told.
type tailing struct {
	*console

	tenant, to, kind string
	payload          bool
	facts            []fact
}

// fact is something else than messages that can be watched.
type fact struct {
	wanted  bool
	name    string
	pattern string
}

// NewTail is `weft tail`: what goes through the fabric, live.
func NewTail() *cobra.Command {
	c := &cobra.Command{
		Use:   "tail",
		Short: "Watch messages as they are archived; receipts, events and quarantine too, if wanted",
		Long: `Watch messages as they are archived; with --receipts, --events and --quarantine also those, as they are published. It only
listens: what was before is not shown, and what is published again after an outage is shown again. Ctrl-C ends it.`,
		Example: `  weft tail
  weft tail --to user:alice --payload
  weft tail --type order.paid --receipts --events
  weft tail --output json | jq 'select(.size > 10000)'`,
		Args: cobra.NoArgs,
	}
	t := &tailing{console: newConsole(c), facts: []fact{
		{name: "receipt", pattern: subject.ReceiptAll}, {name: "event", pattern: subject.EventAll}, {name: "quarantine", pattern: subject.QuarantineAll},
	}}
	f := c.Flags()
	f.StringVar(&t.tenant, "tenant", "", "only this `tenant`")
	f.StringVar(&t.to, "to", "", "only of this `address`, such as user:alice; of the default tenant unless --tenant says another")
	f.StringVar(&t.kind, "type", "", "only messages of this `type`")
	f.BoolVar(&t.payload, "payload", false, "show payloads")
	f.BoolVar(&t.facts[0].wanted, "receipts", false, "show receipts")
	f.BoolVar(&t.facts[1].wanted, "events", false, "show lifecycle events")
	f.BoolVar(&t.facts[2].wanted, "quarantine", false, "show what is set aside")
	c.RunE = func(*cobra.Command, []string) error { return t.run() }
	return Usage(c)
}

func (t *tailing) run() error {
	patterns, err := t.patterns()
	if err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	defer t.close()
	came := make(chan *nats.Msg, tailQueue)
	subs := make([]*nats.Subscription, len(patterns))
	for i, pattern := range patterns {
		if subs[i], err = t.nc.ChanSubscribe(pattern, came); err != nil {
			return fmt.Errorf("listen on %s: %w", pattern, err)
		}
	}
	ctx := t.command.Context()
	flushing, cancel := context.WithTimeout(ctx, t.at.timeout)
	defer cancel()
	if err := t.nc.FlushWithContext(flushing); err != nil {
		return fmt.Errorf("listen at %s: %w", t.where.name, err)
	}
	t.say("listening at %s; Ctrl-C ends it", t.where.name)
	return t.follow(ctx, came, subs)
}

// patterns are the subjects to listen on.
func (t *tailing) patterns() ([]string, error) {
	list := []string{subject.MsgAll}
	if t.to != "" {
		tenant := t.tenant
		if tenant == "" {
			tenant = subject.DefaultTenant
		}
		to, err := subject.ParseAddress(tenant, t.to)
		if err != nil {
			return nil, usageError{err}
		}
		list[0] = subject.MsgAnyPartition(to)
	}
	for _, f := range t.facts {
		if f.wanted {
			list = append(list, f.pattern)
		}
	}
	return list, nil
}

// follow shows what comes until ctx ends, and says how many a slow terminal had no room for.
func (t *tailing) follow(ctx context.Context, came <-chan *nats.Msg, subs []*nats.Subscription) error {
	known, every := 0, time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-came:
			if err := t.show(m); err != nil {
				return err
			}
		case <-every.C:
			dropped := 0
			for _, sub := range subs {
				n, err := sub.Dropped()
				if err != nil {
					return fmt.Errorf("listen at %s: %w", t.where.name, err)
				}
				dropped += n
			}
			if dropped > known {
				t.say("%s came too fast to be shown", many(dropped-known, "message"))
				known = dropped
			}
		}
	}
}

// show shows one thing that came.
func (t *tailing) show(m *nats.Msg) error {
	what, _, _ := strings.Cut(strings.TrimPrefix(m.Subject, "weft."), ".")
	if what != "msg" {
		return t.fact(what, m)
	}
	entries, err := message.DecodeEntries(m.Data)
	if err != nil {
		return nil //nolint:nilerr // somebody else's: only collect's are of interest
	}
	for _, e := range entries {
		if e.Message == nil || t.tenant != "" && e.To.Tenant != t.tenant || t.kind != "" && e.Message.Type != t.kind {
			continue
		}
		if err := t.message(e.Message); err != nil {
			return err
		}
	}
	return nil
}

// tailed is a message as one JSON object.
type tailed struct {
	What     string          `json:"what"` // message
	Tenant   string          `json:"tenant"`
	To       string          `json:"to"`
	Seq      uint64          `json:"seq"`
	ID       string          `json:"id"`
	Type     string          `json:"type,omitempty"`
	At       int64           `json:"at"`
	Archived int64           `json:"archived"`
	Size     int             `json:"size"`
	Again    bool            `json:"re,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
	Data64   []byte          `json:"data64,omitempty"`
}

func (t *tailing) message(m *message.Message) error {
	if t.json() {
		shown := tailed{
			What: "message", Tenant: m.To.Tenant, To: m.To.String(), Seq: m.Seq, ID: m.ID, Type: m.Type, At: m.At, Archived: m.Archived,
			Size: len(m.Payload), Again: m.Again,
		}
		switch {
		case t.payload && json.Valid(m.Payload):
			shown.Data = m.Payload
		case t.payload:
			shown.Data64 = m.Payload
		}
		return jsonLine(t.out, shown)
	}
	parts := []string{
		t.out.paint(dim, time.UnixMilli(m.Archived).Format("15:04:05.000")), t.out.paint(green, plain(m.To.String())),
		t.out.paint(bold, fmt.Sprint(m.Seq)), plain(m.ID),
	}
	if m.To.Tenant != subject.DefaultTenant {
		parts = append(parts, "tenant "+plain(m.To.Tenant))
	}
	if m.Type != "" {
		parts = append(parts, plain(m.Type))
	}
	if m.Again {
		parts = append(parts, "again")
	}
	parts = append(parts, t.out.paint(dim, sized1000(len(m.Payload))+"B"))
	if old := t.now().Sub(time.UnixMilli(m.Archived)); m.Archived > 0 && old > tailLate {
		parts = append(parts, t.out.paint(yellow, "published again, "+lasting(old)+" after"))
	}
	if t.payload {
		parts = append(parts, payload(client.Message{Data: m.Payload, ContentType: m.ContentType}))
	}
	return line(t.out, "%s", strings.Join(parts, "  "))
}

// noted is a receipt, an event or a quarantined message as one JSON object.
type noted struct {
	What    string          `json:"what"` // receipt, event or quarantine
	Subject string          `json:"subject"`
	Header  nats.Header     `json:"header,omitempty"` // of a quarantined message
	Fact    json.RawMessage `json:"fact,omitempty"`   // the receipt or event as it was published
}

// fact shows a receipt, an event or what was set aside.
func (t *tailing) fact(what string, m *nats.Msg) error {
	n := noted{What: what, Subject: m.Subject}
	switch {
	case what == "quarantine":
		n.Header = m.Header
	case json.Valid(m.Data):
		n.Fact = m.Data
	}
	f := readFact(what, m)
	if t.tenant != "" && f.tenant != t.tenant || t.to != "" && (f.to != t.to || t.tenant == "" && f.tenant != subject.DefaultTenant) {
		return nil
	}
	if t.json() {
		return jsonLine(t.out, n)
	}
	parts := []string{t.out.paint(dim, t.now().Format("15:04:05.000")), t.out.paint(yellow, what)}
	if f.tenant != subject.DefaultTenant {
		parts = append(parts, "tenant "+plain(f.tenant))
	}
	for _, word := range f.words {
		if word != "" {
			parts = append(parts, plain(word))
		}
	}
	return line(t.out, "%s", strings.Join(parts, "  "))
}

// told is a receipt, an event or a quarantined message for people.
type told struct {
	tenant, to string // to is empty where the address can't be read
	words      []string
}

// readFact reads one. What can't be read is shown by its subject.
func readFact(what string, m *nats.Msg) told {
	rest := strings.TrimPrefix(m.Subject, "weft."+what+".")
	reason := ""
	if what == "quarantine" { // the reason stands before the tenant
		reason, rest, _ = strings.Cut(rest, ".")
	}
	tenant, last, _ := strings.Cut(rest, ".")
	f := told{tenant: tenant, words: []string{m.Subject}}
	address, wrong := subject.ParseTokens(rest)
	if wrong == nil {
		f.tenant, f.to = address.Tenant, address.String()
	} else if name, err := subject.Decode(tenant); err == nil {
		f.tenant = name
	}
	switch what {
	case "quarantine":
		if wrong == nil {
			f.words = []string{f.to, reason, m.Header.Get("Weft-Detail")}
		}
	case "receipt":
		var r message.Receipt
		if json.Unmarshal(m.Data, &r) == nil && r.ID != "" {
			f.words = []string{r.To, r.ID, string(r.State), r.Device, string(r.Reason), r.Message}
		}
	case "event":
		var e event.Event
		if json.Unmarshal(m.Data, &e) == nil && e.User != "" {
			f.to, f.words = subject.UserAddress(e.Tenant, e.User).String(), []string{subject.UserAddress(e.Tenant, e.User).String(), last}
			if e.Message != nil {
				f.words = append(f.words, e.Message.ID, e.Message.Type, "for "+lasting(time.Duration(e.Message.Waiting)*time.Millisecond))
			}
		}
	}
	return f
}
