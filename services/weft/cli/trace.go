package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// NewTrace is `weft trace`: what became of a message.
func NewTrace() *cobra.Command {
	var request admin.TraceRequest
	c := &cobra.Command{
		Use:   "trace ID",
		Short: "Show what became of a message, step by step, at each of its addresses",
		Long: `Show what became of a message, step by step, at each address that its id was published to: when it was accepted,
archived, written to the log and first routed, and to which nodes; when each device acknowledged it, and at which node;
whether it expired or is in quarantine, and what forced replays made of it.

That it was routed is reported in bulk, after the fact: after a crash it may be unknown.`,
		Example: `  weft trace order-17
  weft trace order-17 --to user:alice
  weft trace order-17 --output json | jq '.traces[].steps'`,
		Args: one("ID", "the id of a message"), ValidArgsFunction: cobra.NoFileCompletions,
	}
	k := newConsole(c)
	c.Flags().StringVar(&request.Tenant, "tenant", subject.DefaultTenant, "`tenant` of the message")
	c.Flags().StringVar(&request.To, "to", "", "only at this `address`, such as user:alice")
	c.RunE = func(_ *cobra.Command, args []string) error {
		request.ID = args[0]
		if request.To != "" {
			if _, err := subject.ParseAddress(request.Tenant, request.To); err != nil {
				return usageError{err}
			}
		}
		var answer admin.TraceAnswer
		return k.answer(admin.Trace, request, &answer, func() error { return k.showTraces(answer) })
	}
	return Usage(c)
}

// answer asks one question and shows the answer: as JSON, or as show does it for people.
func (k *console) answer(endpoint string, question, answer any, show func() error) error {
	if err := k.open(); err != nil {
		return err
	}
	defer k.close()
	if err := k.ask(k.command.Context(), endpoint, question, answer); err != nil {
		return err
	}
	if k.json() {
		return jsonLine(k.out, answer)
	}
	return show()
}

// showTraces prints traces one below the other.
func (k *console) showTraces(answer admin.TraceAnswer) error {
	for i, t := range answer.Traces {
		if i > 0 {
			if err := line(k.out, ""); err != nil {
				return err
			}
		}
		if err := k.showTrace(t); err != nil {
			return err
		}
	}
	if answer.More {
		k.say("There are more addresses; name one with --to.")
	}
	return nil
}

func (k *console) showTrace(t admin.Traced) error {
	m := t.Message
	title := []string{k.out.paint(bold, plain(m.ID)), k.out.paint(green, plain(m.To))}
	if m.Seq > 0 {
		title = append(title, fmt.Sprintf("seq %d", m.Seq))
	}
	title = append(title, k.out.paint(stateColour(t.State), t.State))
	if m.Type != "" {
		title = append(title, plain(m.Type))
	}
	if m.Tenant != "" && m.Tenant != subject.DefaultTenant {
		title = append(title, "tenant "+plain(m.Tenant))
	}
	if m.Again {
		title = append(title, "sent again")
	}
	if err := line(k.out, "%s", strings.Join(title, "  ")); err != nil {
		return err
	}
	steps := table{columns: []column{
		{title: "  WHEN"},
		{title: "AFTER", right: true, code: in(dim)},
		{title: "WHAT", code: stateColour},
		{title: "DEVICE", cut: true},
		{title: "NODE"},
		{title: "", wrap: true, code: in(dim)},
	}}
	for _, s := range t.Steps {
		after := ""
		if s.At > 0 && m.At > 0 {
			after = lasting(time.Duration(s.At-m.At) * time.Millisecond)
		}
		steps.row("  "+clock(s.At, k.now()), after, s.What, s.Device, short(s.Node), s.Detail)
	}
	if err := steps.write(k.out); err != nil {
		return err
	}
	for _, copied := range t.Copies {
		if err := line(k.out, "  sent again by force: %s, seq %d", plain(written(copied.Address)), copied.Seq); err != nil {
			return err
		}
	}
	return nil
}

// written is an address as people write it, from its tokens.
func written(tokens string) string {
	if to, err := subject.ParseTokens(tokens); err == nil {
		return to.String()
	}
	return tokens
}

// short is the beginning of the id of a node or a collect, enough to name it.
func short(id string) string { return id[:min(8, len(id))] }

// stateColour is how a state or a step is shown: what is done is green, what waits yellow, what will not come red.
func stateColour(state string) string {
	switch state {
	case "delivered", "acknowledged", "online":
		return green
	case "pending", "partly", "draining":
		return yellow
	case "expired", "deleted", "quarantined":
		return red
	}
	return ""
}
