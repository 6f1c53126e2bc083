package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// mostRows is the most rows that a page has.
const mostRows = 1000

// undelivered is what `weft undelivered` was told.
type undelivered struct {
	*console

	chosen selection
	limit  int
	after  string
	all    bool
}

// NewUndelivered is `weft undelivered`: what nobody has acknowledged.
func NewUndelivered() *cobra.Command {
	c := &cobra.Command{
		Use:   "undelivered",
		Short: "Count and list the messages that no device of their user has acknowledged",
		Long: `Count and list the messages that no device of their user has acknowledged and that have not expired, by address and in
the order of their sequences. Reasons: away (no device of the user is connected), held (one is connected and has not
acknowledged it), nobody (the user never had a device). With --topic: what subscribers have not acknowledged.

Rows come in pages of --limit; the last line says how to see the next one. With --all all of them are printed. With
--output json it is one object {messages, next, total}; with --all one such object a line and page.`,
		Example: `  weft undelivered
  weft undelivered --user alice --device phone
  weft undelivered --type order.shipped --since 1d --reason held
  weft undelivered --since 1d --until 1h --all --output json | jq -r '.messages[].id'`,
		Args: cobra.NoArgs,
	}
	u := &undelivered{console: newConsole(c)}
	u.chosen.flags(u.console)
	f := c.Flags()
	f.IntVar(&u.limit, "limit", 20, "most `rows`")
	f.StringVar(&u.after, "after", "", "go on after this `place`, as the last line of a page says it")
	f.BoolVar(&u.all, "all", false, "print all rows")
	c.RunE = func(c *cobra.Command, _ []string) error { return u.run(c.Context()) }
	return Usage(c)
}

func (u *undelivered) run(ctx context.Context) error {
	filter, err := u.chosen.filter()
	if err != nil {
		return err
	}
	after, err := readPlace(u.after)
	if err != nil {
		return err
	}
	if u.limit < 1 {
		return usagef("--limit is 1 or more")
	}
	if err := u.open(); err != nil {
		return err
	}
	defer u.close()
	question := admin.UndeliveredRequest{Filter: filter, After: after, Count: u.after == ""}
	if u.all {
		return u.list(ctx, question)
	}
	page, err := u.page(ctx, question)
	if err != nil {
		return err
	}
	if u.json() {
		return jsonLine(u.out, page)
	}
	if err := u.total(page.Total); err != nil {
		return err
	}
	if err := u.rows(page.Messages); err != nil {
		return err
	}
	if page.Next != nil {
		u.say("next page: %s", again(u.command, []string{"after"}, "--after", writePlace(*page.Next)))
	}
	return nil
}

// page is as many rows as were asked for. A page of the fabric can be shorter without being the last.
func (u *undelivered) page(ctx context.Context, question admin.UndeliveredRequest) (admin.UndeliveredPage, error) {
	whole := admin.UndeliveredPage{Messages: []admin.Message{}}
	for {
		question.Limit = min(u.limit-len(whole.Messages), mostRows)
		var page admin.UndeliveredPage
		if err := u.ask(ctx, admin.Undelivered, question, &page); err != nil {
			return whole, err
		}
		whole.Messages = append(whole.Messages, page.Messages...)
		whole.Next = page.Next
		if question.Count {
			whole.Total, question.Count = page.Total, false
		}
		if page.Next == nil || len(whole.Messages) >= u.limit {
			return whole, nil
		}
		question.After = *page.Next
	}
}

// list prints all pages as they come. When services move it waits for them.
func (u *undelivered) list(ctx context.Context, question admin.UndeliveredRequest) error {
	question.Limit = mostRows
	for {
		var page admin.UndeliveredPage
		if err := u.askPatiently(ctx, admin.Undelivered, question, &page); err != nil {
			if question.After == (admin.Place{}) {
				return err
			}
			return fmt.Errorf("%w\nto go on: %s", err, again(u.command, []string{"after"}, "--after", writePlace(question.After)))
		}
		switch {
		case u.json():
			if err := jsonLine(u.out, page); err != nil {
				return err
			}
		default:
			if question.Count {
				if err := u.total(page.Total); err != nil {
					return err
				}
			}
			if err := u.rows(page.Messages); err != nil {
				return err
			}
		}
		if page.Next == nil {
			return nil
		}
		question.After, question.Count = *page.Next, false
	}
}

// total prints the line about all that match.
func (u *undelivered) total(t *admin.Total) error {
	if t == nil {
		return nil
	}
	whose := "user"
	if u.chosen.Topic != "" {
		whose = "topic"
	}
	if t.Messages == 0 {
		if u.chosen.Filter == (admin.Filter{}) {
			return line(u.out, "Nothing is undelivered.")
		}
		return line(u.out, "Nothing that matches is undelivered.")
	}
	text := u.out.paint(bold, atLeast(t)+many(t.Messages, "message")) + " undelivered, to " + many(t.Users, whose)
	if t.Oldest != 0 {
		text += "; the oldest is " + age(t.Oldest, u.now()) + " old"
	}
	if len(t.Reasons) > 0 {
		text += "; " + reasons(t.Reasons)
	}
	return line(u.out, "%s", text)
}

// atLeast is what is said before a count that was ended.
func atLeast(t *admin.Total) string {
	if t.AtLeast {
		return "at least "
	}
	return ""
}

// reasons says how many wait for which reason, most first.
func reasons(count map[admin.Reason]int) string {
	var names []admin.Reason
	for name := range count {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b admin.Reason) int { return cmp.Or(count[b]-count[a], strings.Compare(string(a), string(b))) })
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = thousands(count[name]) + " " + plain(string(name))
	}
	return strings.Join(parts, ", ")
}

// rows prints messages as a table.
func (u *undelivered) rows(messages []admin.Message) error {
	return messageTable(messages, u.console).write(u.out)
}

// messageTable is messages as rows: what fits 80 columns with an id that can be copied. JSON has more.
func messageTable(messages []admin.Message, k *console) *table {
	now := k.now()
	t := &table{columns: []column{
		{title: "TENANT", cut: true},
		{title: "TO", cut: true, code: in(green)},
		{title: "SEQ", right: true, code: in(bold)},
		{title: "ID", cut: true},
		{title: "TYPE", cut: true},
		{title: "AGE", right: true},
		{title: "EXPIRES", right: true, code: in(dim)},
		{title: "DEVICES", right: true},
		{title: "REASON", code: in(yellow)},
	}}
	foreign := slices.ContainsFunc(messages, func(m admin.Message) bool { return m.Tenant != subject.DefaultTenant })
	for _, m := range messages {
		tenant, expires, devices := "", "", ""
		if foreign {
			tenant = m.Tenant
		}
		if m.Expires != 0 {
			expires = "in " + lasting(time.UnixMilli(m.Expires).Sub(now))
		}
		if m.Devices != 0 {
			devices = strconv.Itoa(m.Devices)
		}
		t.row(tenant, m.To, strconv.FormatUint(m.Seq, 10), m.ID, m.Type, age(m.Archived, now), expires, devices, string(m.Reason))
	}
	return t
}

// writePlace is a place as --after takes it: default.user.alice/17.
func writePlace(p admin.Place) string { return p.Address + "/" + strconv.FormatUint(p.Seq, 10) }

// readPlace reads what writePlace wrote; empty is the beginning.
func readPlace(text string) (admin.Place, error) {
	if text == "" {
		return admin.Place{}, nil
	}
	address, seq, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(seq, 10, 64)
	if _, wrong := subject.ParseTokens(address); err != nil || wrong != nil {
		return admin.Place{}, usagef("--after is a place such as default.user.alice/17, not %q", text)
	}
	return admin.Place{Address: address, Seq: n}, nil
}
