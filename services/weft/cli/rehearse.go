package cli

import (
	"context"

	"github.com/weftpush/weft/shared/admin"
)

// rehearsal is what a dry run prints as JSON.
type rehearsal struct {
	admin.Total

	Sample []admin.Message `json:"sample"`
}

// rehearse is the dry run.
func (r *replay) rehearse(ctx context.Context, f admin.Filter) error {
	if r.force {
		return r.rehearseForced(ctx, f)
	}
	page, err := r.count(ctx, f, sampled)
	if err != nil {
		return err
	}
	if r.json() {
		return jsonLine(r.out, rehearsal{*page.Total, page.Messages})
	}
	t := page.Total
	if t.Messages == 0 {
		return line(r.out, "Nothing would be sent: nothing is undelivered.")
	}
	if err := line(r.out, "%s", r.out.paint(bold, atLeast(t)+many(t.Messages, "message"))+" to "+many(t.Users, "mailbox")+" would be sent again"); err != nil {
		return err
	}
	return r.describe(t.Oldest, t.Newest, reasons(t.Reasons), page.Messages)
}

// describe says what else is known of messages that would be sent.
func (r *replay) describe(oldest, newest int64, why string, sample []admin.Message) error {
	now := r.now()
	facts := [][2]string{
		{"oldest", clock(oldest, now) + "  " + age(oldest, now) + " ago"},
		{"newest", clock(newest, now) + "  " + age(newest, now) + " ago"},
	}
	if why != "" {
		facts = append(facts, [2]string{"now", why})
	}
	for _, fact := range facts {
		if err := line(r.out, "  %-7s %s", fact[0], fact[1]); err != nil {
			return err
		}
	}
	return messageTable(sample, r.console).write(r.out)
}

// rehearsedForce is what a dry run of --force prints as JSON.
type rehearsedForce struct {
	Messages int             `json:"messages"`
	Sent     int             `json:"sent"`   // of them: again, since nobody has acknowledged them
	Copied   int             `json:"copied"` // as new messages
	Oldest   int64           `json:"oldest,omitempty"`
	Newest   int64           `json:"newest,omitempty"`
	Sample   []admin.Message `json:"sample"`
}

// rehearseForced counts what --force would send. Nothing has counted that beforehand, so the fabric goes through its
// messages as the replay itself would, page by page.
func (r *replay) rehearseForced(ctx context.Context, f admin.Filter) error {
	r.rate, r.sample = rate{}, []admin.Message{} // counting is not sending
	if err := r.pages(ctx, f); err != nil {
		return err
	}
	n := r.done
	if r.json() {
		return jsonLine(r.out, rehearsedForce{n.Matched, n.Sent, n.Copied, r.oldest, r.newest, r.sample})
	}
	if n.Matched == 0 {
		return line(r.out, "Nothing would be sent: no message matches.")
	}
	if err := line(r.out, "%s: %s again, %s as new", r.out.paint(bold, many(n.Matched, "message")+" would be sent"), thousands(n.Sent), thousands(n.Copied)); err != nil {
		return err
	}
	return r.describe(r.oldest, r.newest, "", r.sample)
}
