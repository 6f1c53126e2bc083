package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

const (
	// sampled is how many messages a dry run shows.
	sampled = 5
	// pagesPerSecond are asked for when a rate is held: less often the steps would be seen, more often the answers count.
	pagesPerSecond = 10
	// behind is how much a rate may catch up on after a page that took long.
	behind = 250 * time.Millisecond
)

// replay is what `weft replay` was told, and how far it has come.
type replay struct {
	*console

	chosen     selection
	everything bool
	dry        bool
	yes        bool
	force      bool
	rate       rate
	resume     string

	resumption

	oldest, newest int64 // of a forced dry run, with the first messages
	sample         []admin.Message
}

// NewReplay is `weft replay`: send again what was not delivered.
func NewReplay() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay",
		Short: "Send again what was not delivered",
		Long: `Send again what no device of its user has acknowledged: the messages that the same flags of "weft undelivered" choose, in
the order of JetStream, and of the archive for what is older than the log keeps. It reaches sessions that are connected;
what is of users who are away, or whose clients neither read nor acknowledge, is counted as waiting: it comes by itself when they
do. What was archived after the replay began is left alone. When all is acknowledged, a second replay sends nothing.

With --force also what was acknowledged is sent again: as new messages, with the id <id>~<run> and marked "re". Doing it again
with --resume copies nothing twice; doing it anew does.

Ctrl-C ends it after the page that is under way, prints how to go on, and exits with 3. So does a service that stays away for
30 s. A record is kept of who asked, when, for what, and how many: "weft audit records".`,
		Example: `  weft replay --user alice --dry-run
  weft replay --user alice --note 'her app hung, INC-1234'
  weft replay --since 2h --type order.shipped --rate 500/s --yes
  weft replay --user alice --since '2026-11-23 01:00' --until '2026-11-23 01:30' --force --dry-run
  weft replay --everything`,
		Args: cobra.NoArgs,
	}
	r := &replay{console: newConsole(c)}
	r.changes()
	r.chosen.flags(r.console)
	f := c.Flags()
	f.BoolVar(&r.everything, "everything", false, "all that is undelivered, of all users")
	f.BoolVar(&r.dry, "dry-run", false, "only say what would be sent: how many, the oldest, the newest, and five of them")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask back")
	f.BoolVar(&r.force, "force", false, "send what was acknowledged as well, as new messages")
	f.Var(&r.rate, "rate", "most messages a second, such as 500 or 500/s; as fast as it goes if it is not given")
	f.StringVar(&r.resume, "resume", "", "go on with a replay that was stopped: the `place` that it printed")
	c.RunE = func(c *cobra.Command, _ []string) error { return r.run(c.Context()) }
	return Usage(c)
}

func (r *replay) run(ctx context.Context) error {
	filter, err := r.chosen.filter()
	if err != nil {
		return err
	}
	if err := r.check(filter); err != nil {
		return err
	}
	if err := r.begin(filter); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	defer r.close()
	if r.dry {
		return r.rehearse(ctx, filter)
	}
	if err := r.asked(ctx, filter); err != nil {
		return err
	}
	began := r.now()
	err = r.pages(ctx, filter)
	if err != nil && ExitCode(err) != ExitPartly {
		return err
	}
	if shown := r.show(err == nil, r.now().Sub(began)); err == nil {
		err = shown
	}
	return err
}

// check refuses what is not meant.
func (r *replay) check(f admin.Filter) error {
	chosen := f.User != "" || f.Topic != "" || f.Tenant != "" || f.Type != "" || f.Since != 0 || f.Until != 0 || f.Reason != ""
	switch {
	case chosen && r.everything:
		return usagef("--everything and a filter exclude each other: say what is meant")
	case !chosen && !r.everything:
		return usagef("say what to replay with --user, --topic, --type, --since or another filter, or --everything for all that is undelivered")
	case r.dry && r.resume != "":
		return usagef("--dry-run and --resume exclude each other")
	}
	return nil
}

// begin makes a new run, or takes one up.
func (r *replay) begin(f admin.Filter) error {
	sum := sumOf(f, r.force)
	if r.resume == "" {
		now := r.now().UnixMilli()
		r.resumption = resumption{run: strconv.FormatInt(now, 36) + strings.ToLower(rand.Text()[:4]), started: now, sum: sum}
		return nil
	}
	var err error
	if r.resumption, err = readResumption(r.resume); err == nil && r.sum != sum {
		err = usagef("--resume is of a replay with other filters; copy the whole line that it printed")
	}
	return err
}

// count asks what is undelivered, with some rows of it. Rows of one reason may be far apart: a page without any is not the
// last.
func (r *replay) count(ctx context.Context, f admin.Filter, rows int) (admin.UndeliveredPage, error) {
	u := undelivered{console: r.console, limit: rows}
	page, err := u.page(ctx, admin.UndeliveredRequest{Filter: f, Count: true})
	if err == nil && page.Total == nil {
		err = errors.New("the fabric did not count; is it of another version?")
	}
	return page, err
}

// asked asks back, telling what will be done and where.
func (r *replay) asked(ctx context.Context, f admin.Filter) error {
	switch {
	case r.yes && !r.force && r.resume == "" && r.said.terminal:
		return r.estimate(ctx, f)
	case r.yes:
		return nil
	case r.resume != "":
		return r.confirmed(ctx, false, fmt.Sprintf("Go on with replay %s at %s?", r.resumption.run, r.where.name))
	case r.force:
		return r.confirmed(ctx, false, fmt.Sprintf("Send again at %s, as new messages also what was acknowledged?", r.where.name))
	}
	page, err := r.count(ctx, f, 1)
	if err != nil {
		return err
	}
	t := page.Total
	if t.Messages == 0 {
		return nil // it will say so
	}
	if !t.AtLeast {
		r.expected = t.Messages
	}
	return r.confirmed(ctx, false, fmt.Sprintf("Send %s%s to %s again, at %s?", atLeast(t), many(t.Messages, "message"), many(t.Users, "mailbox"), r.where.name))
}

// estimate counts for the bar what will be sent.
func (r *replay) estimate(ctx context.Context, f admin.Filter) error {
	page, err := r.count(ctx, f, 1)
	if err == nil && !page.Total.AtLeast {
		r.expected = page.Total.Messages
	}
	return err
}

// at shows how far it is: of the messages that were counted at the beginning, or else of those that are to be read.
func (r *replay) at(bar *progress, toRead int) {
	if r.expected > 0 {
		bar.at(r.done.Matched, r.expected, r.counts())
		return
	}
	bar.at(r.done.Read, r.done.Read+toRead, r.counts())
}

// pages asks for one page after the other until all is done. A page that is under way when ctx ends is waited for.
func (r *replay) pages(ctx context.Context, f admin.Filter) error {
	before := r.done.Read
	if r.expected > 0 {
		before = r.done.Matched
	}
	bar := r.progress(before)
	defer bar.end()
	due := r.now()
	for {
		if ctx.Err() != nil {
			return r.stopped(errors.New("stopped before the end"))
		}
		page, err := r.page(ctx, f)
		if err != nil {
			return r.stopped(err)
		}
		r.add(page)
		if page.Finished {
			bar.last, r.expected = time.Time{}, 0
			r.at(bar, 0)
			return nil
		}
		r.at(bar, page.ToRead)
		due = r.rate.next(due, r.now(), page.Sent+page.Copied)
		_ = bar.pause(ctx, due.Sub(r.now())) // the loop sees that ctx has ended
	}
}

// page does one page. One that did nothing at all is tried again.
func (r *replay) page(ctx context.Context, f admin.Filter) (admin.ReplayPage, error) {
	question := admin.ReplayRequest{
		Filter: f, By: r.by(), Run: r.resumption.run, Started: r.started, Position: r.position, Limit: r.rate.page(), Force: r.force, Done: r.done, Dry: r.dry,
	}
	var page admin.ReplayPage
	err := r.patiently(ctx, func() error {
		page = admin.ReplayPage{}
		err := r.ask(context.WithoutCancel(ctx), admin.Replay, question, &page)
		if err == nil && !page.Finished && page.Position == r.position && page.ReplayCount == (admin.ReplayCount{}) {
			return problem.New(problem.Unavailable, "the replay makes no progress; `weft doctor` shows what is missing")
		}
		return err
	})
	return page, err
}

func (r *replay) add(page admin.ReplayPage) {
	r.position = page.Position
	r.done.Read += page.Read
	r.done.Matched += page.Matched
	r.done.Sent += page.Sent
	r.done.Copied += page.Copied
	r.done.Waiting += page.Waiting
	if r.oldest == 0 || page.Oldest > 0 && page.Oldest < r.oldest {
		r.oldest = page.Oldest
	}
	r.newest = max(r.newest, page.Newest)
	r.sample = append(r.sample, page.Sample[:min(len(page.Sample), sampled-len(r.sample))]...)
}

// counts are the counts in a few words.
func (r *replay) counts() string {
	if r.dry {
		return thousands(r.done.Matched) + " found, " + thousands(r.done.Read) + " read"
	}
	parts := []string{thousands(r.done.Sent) + " sent"}
	if r.force || r.done.Copied > 0 {
		parts = append(parts, thousands(r.done.Copied)+" copied")
	}
	parts = append(parts, thousands(r.done.Waiting)+" waiting", thousands(r.done.Read)+" read")
	return strings.Join(parts, ", ")
}

// stopped is the error of a replay that is not finished. One that was refused at once has done nothing; of one that got no
// answer nobody knows, so it is to be gone on with under its own id.
func (r *replay) stopped(err error) error {
	var refused *problem.Problem
	if r.dry {
		return err
	}
	if r.done == (admin.ReplayCount{}) && r.position == (admin.ReplayPosition{}) && errors.As(err, &refused) && !refused.Retry {
		return err
	}
	// Times that were said as how long ago have moved on: they are said exactly, by moment.String.
	return &partlyError{err, again(r.command, []string{"resume"}, "--resume", r.String())}
}

// replayed is what a replay prints as JSON.
type replayed struct {
	Run      string `json:"run"`
	Finished bool   `json:"finished"`
	admin.ReplayCount

	Took   int64  `json:"took"`             // ms, of this command
	Resume string `json:"resume,omitempty"` // of one that was stopped: what --resume takes
}

func (r *replay) show(finished bool, took time.Duration) error {
	if r.json() {
		shown := replayed{Run: r.resumption.run, Finished: finished, ReplayCount: r.done, Took: took.Milliseconds()}
		if !finished {
			shown.Resume = r.String()
		}
		return jsonLine(r.out, shown)
	}
	state := "Replay " + r.resumption.run + " is done"
	if !finished {
		state = "Replay " + r.resumption.run + " is not finished"
	}
	if err := line(r.out, "%s: %s, in %s.", state, r.counts(), lasting(took)); err != nil {
		return err
	}
	if finished && r.done.Matched == 0 && !r.force {
		return line(r.out, "Nothing that matches is undelivered.")
	}
	if r.done.Waiting > 0 {
		return line(r.out, "Waiting messages come by themselves when their users connect or acknowledge.")
	}
	return nil
}

// rate is a flag: messages a second. 0 is without bound.
type rate struct{ perSecond float64 }

var rateForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)(?:/(s|m|h))?$`)

// Set reads 500, 500/s, 30/m or 100/h.
func (r *rate) Set(text string) error {
	parts := rateForm.FindStringSubmatch(text)
	if parts == nil {
		return fmt.Errorf("%q is no rate; write 500/s, 30/m or 100/h", text)
	}
	n, err := strconv.ParseFloat(parts[1], 64)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is no rate: it must be above zero", text)
	}
	r.perSecond = n / map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[parts[2]]
	return nil
}

// String is as Set reads it.
func (r *rate) String() string {
	switch {
	case r.perSecond == 0:
		return ""
	case r.perSecond < 1.0/60:
		return strconv.FormatFloat(r.perSecond*3600, 'f', -1, 64) + "/h"
	case r.perSecond < 1:
		return strconv.FormatFloat(r.perSecond*60, 'f', -1, 64) + "/m"
	}
	return strconv.FormatFloat(r.perSecond, 'f', -1, 64) + "/s"
}

// Type is what the help calls it.
func (r *rate) Type() string { return "rate" }

// page is how many messages one page may send; 0: as many as the fabric likes.
func (r *rate) page() int {
	if r.perSecond == 0 {
		return 0
	}
	return max(int(r.perSecond/pagesPerSecond), 1)
}

// next is when the next page is due, after one that was due at due and sent so many.
func (r *rate) next(due, now time.Time, sent int) time.Time {
	if r.perSecond == 0 {
		return now
	}
	due = due.Add(time.Duration(float64(sent) / r.perSecond * float64(time.Second)))
	if earliest := now.Add(-behind); due.Before(earliest) {
		return earliest
	}
	return due
}
