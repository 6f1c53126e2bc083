package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// clearance is `weft quarantine replay` and `drop`: they do something to one message after the other.
type clearance struct {
	*console

	endpoint string
	verb     string // for people: send again, drop
	done     string // sent again, dropped

	chosen heap
	all    bool
	yes    bool
	change admin.QuarantineOne
	set    []string
}

func newQuarantineReplay() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay NUMBER... | --all",
		Short: "Send messages in quarantine again, as they came or with changes",
		Long: `Publish messages in quarantine again, as they came or with another address, id or headers; then they are removed from
quarantine. A message that had no id gets the one that its receipt named, so doing it twice is one message. One that is still
wrong comes back under another number.

Exit code 3: some were done and some not; the last lines say which and how to go on.`,
		Example: `  weft quarantine replay 17
  weft quarantine replay 17 --to user:alice --id order-1
  weft quarantine replay 17 18 --set 'Content-Type: text/plain' --set 'Weft-TTL:'   # an empty one is removed
  weft quarantine replay --all --reason poison --since 1d --note 'collect is mended'`,
	}
	q := newClearance(c, admin.QuarantineReplay, "send again", "sent again")
	f := c.Flags()
	f.StringVar(&q.change.To, "to", "", "another `address`, such as user:alice")
	f.StringVar(&q.change.ID, "id", "", "another `id`; of one message only")
	f.StringArrayVar(&q.set, "set", nil, "`'Name: value'` of a header to set, or to remove without a value; may be given again")
	return Usage(c)
}

func newQuarantineDrop() *cobra.Command {
	c := &cobra.Command{
		Use:   "drop NUMBER... | --all",
		Short: "Remove messages from quarantine for good",
		Long: `Remove messages from quarantine for good. A record of it is kept, the message is not.

Exit code 3: some were dropped and some not; the last lines say which and how to go on.`,
		Example: `  weft quarantine drop 17 18
  weft quarantine drop --all --reason bad_json --until 7d --yes`,
	}
	newClearance(c, admin.QuarantineDrop, "drop", "dropped")
	return Usage(c)
}

func newClearance(c *cobra.Command, endpoint, verb, done string) *clearance {
	c.Args, c.ValidArgsFunction = cobra.ArbitraryArgs, cobra.NoFileCompletions
	q := &clearance{console: newConsole(c), endpoint: endpoint, verb: verb, done: done}
	q.changes()
	q.chosen.flags(q.console)
	f := c.Flags()
	f.BoolVar(&q.all, "all", false, "all that are in quarantine, or that the filters choose")
	f.BoolVarP(&q.yes, "yes", "y", false, "do not ask back")
	c.RunE = func(c *cobra.Command, args []string) error { return q.run(c.Context(), args) }
	return q
}

func (q *clearance) run(ctx context.Context, args []string) error {
	request, err := q.chosen.request()
	if err != nil {
		return err
	}
	numbers, err := readNumbers(args)
	if err != nil {
		return err
	}
	if err := q.check(numbers); err != nil {
		return err
	}
	if err := q.open(); err != nil {
		return err
	}
	defer q.close()
	q.change.By = q.by()
	if q.all || len(numbers) > 1 { // one record of all
		q.change.Run = &admin.QuarantineRun{ID: rand.Text(), Started: q.now().UnixMilli(), Numbers: numbers}
	}
	if !q.all {
		if q.endpoint == admin.QuarantineDrop {
			if err := q.confirmed(ctx, q.yes, fmt.Sprintf("Drop %s for good, at %s?", many(len(numbers), "message"), q.where.name)); err != nil {
				return err
			}
		}
		return q.each(ctx, numbers)
	}
	// What is set aside from now on, perhaps by sending again, is left alone.
	if now := q.now().UnixMilli() + 1; request.Until == 0 || request.Until > now {
		request.Until = now
	}
	q.change.Run.Filter = request
	total, err := q.total(ctx, request)
	if err != nil {
		return err
	}
	if total > 0 {
		question := fmt.Sprintf("%s%s %s, at %s?", strings.ToUpper(q.verb[:1]), q.verb[1:], many(total, "message"), q.where.name)
		if err := q.confirmed(ctx, q.yes, question); err != nil {
			return err
		}
	}
	return q.every(ctx, request, total)
}

// check refuses what is not meant, and reads the headers to set.
func (q *clearance) check(numbers []uint64) error {
	filtered := false
	for _, name := range heapFlags {
		filtered = filtered || q.command.Flags().Changed(name)
	}
	switch {
	case q.all && len(numbers) > 0:
		return usagef("give numbers, or --all, not both")
	case !q.all && len(numbers) == 0:
		return usagef("give numbers of messages, as `weft quarantine ls` shows them, or --all")
	case !q.all && filtered:
		return usagef("filters go with --all; numbers need none")
	case q.change.ID != "" && len(numbers) != 1:
		return usagef("--id is for one message: two with one id would be one")
	}
	if q.change.To != "" {
		if _, err := subject.ParseAddress(subject.DefaultTenant, q.change.To); err != nil {
			return usageError{err}
		}
	}
	for _, header := range q.set {
		name, value, colon := strings.Cut(header, ":")
		if name = strings.TrimSpace(name); !colon || name == "" {
			return usagef("--set is 'Name: value', or 'Name:' to remove it, not %q", header)
		}
		if q.change.Set == nil {
			q.change.Set = map[string]string{}
		}
		q.change.Set[name] = strings.TrimSpace(value)
	}
	return nil
}

// outcome is what was done, as JSON.
type outcome struct {
	Done   []admin.QuarantineDone `json:"done"`
	Failed []failure              `json:"failed,omitempty"`
}

// failure is a message that something could not be done to.
type failure struct {
	Number uint64 `json:"number"`
	*problem.Problem
}

// one does it to one message. The error is that nothing more can be done now.
func (q *clearance) one(ctx context.Context, number uint64, o *outcome) error {
	change := q.change
	change.Number = number
	if q.change.Run != nil {
		soFar := *q.change.Run
		soFar.Done = len(o.Done)
		change.Run = &soFar
	}
	var done admin.QuarantineDone
	err := q.askWhole(ctx, q.endpoint, change, &done)
	refused, told := errors.AsType[*problem.Problem](err)
	switch {
	case err == nil:
		o.Done = append(o.Done, done)
		return nil
	case !told || refused.Retry:
		return err
	}
	o.Failed = append(o.Failed, failure{number, refused})
	return nil
}

// each does it to the messages that were named.
func (q *clearance) each(ctx context.Context, numbers []uint64) error {
	var o outcome
	bar := q.progress(0)
	defer bar.end()
	for i, number := range numbers {
		err := ctx.Err()
		if err == nil {
			err = q.one(ctx, number, &o)
		}
		if err != nil {
			return q.finish(bar, o, err, numbers[i:])
		}
		bar.at(i+1, len(numbers), "")
	}
	return q.finish(bar, o, nil, nil)
}

// every does it to all that the request chooses.
func (q *clearance) every(ctx context.Context, request admin.QuarantineRequest, total int) error {
	var o outcome
	bar := q.progress(0)
	defer bar.end()
	request.Limit = mostRows
	for {
		var page admin.QuarantinePage
		err := ctx.Err()
		if err == nil {
			err = q.askPatiently(ctx, admin.QuarantineList, request, &page)
		}
		for _, e := range page.Entries {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = q.one(ctx, e.Number, &o)
			}
			if err == nil {
				bar.at(len(o.Done)+len(o.Failed), total, "")
			}
		}
		if err != nil || page.Next == 0 {
			return q.finish(bar, o, err, nil)
		}
		request.After = page.Next
	}
}

// finish tells what was done. left are the numbers that were named and not come to.
func (q *clearance) finish(bar *progress, o outcome, err error, left []uint64) error {
	bar.end()
	if o.Done == nil {
		o.Done = []admin.QuarantineDone{}
	}
	if shown := q.show(o); shown != nil {
		return shown
	}
	for _, f := range o.Failed {
		q.say("%d: %v", f.Number, f.Problem)
		if !q.all && f.Code != problem.NotFound { // what is gone stays gone
			left = append(left, f.Number)
		}
	}
	if err == nil && len(o.Failed) == 0 {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("stopped before the end")
	}
	if err == nil {
		err = fmt.Errorf("%s could not be %s", many(len(o.Failed), "message"), q.done)
	}
	if len(o.Done) == 0 {
		return err
	}
	if !q.all && len(left) == 0 {
		return &partlyError{err: err} // nothing is left to be done
	}
	more := make([]string, len(left))
	for i, number := range left {
		more[i] = strconv.FormatUint(number, 10)
	}
	return &partlyError{err, again(q.command, nil, more...)}
}

func (q *clearance) show(o outcome) error {
	if q.json() {
		return jsonLine(q.out, o)
	}
	if !q.all {
		for _, d := range o.Done {
			text := fmt.Sprintf("%d %s", d.Number, q.done)
			switch {
			case d.ID != "" && q.endpoint == admin.QuarantineDrop:
				text += ", its id was " + plain(d.ID)
			case d.ID != "":
				text += " as " + plain(d.ID)
			}
			if d.Stream != "" {
				text += ", taken by " + plain(d.Stream)
			}
			if err := line(q.out, "%s", text); err != nil {
				return err
			}
		}
		return nil
	}
	if len(o.Done) == 0 && len(o.Failed) == 0 {
		return line(q.out, "Nothing is in quarantine that matches.")
	}
	return line(q.out, "%s %s.", many(len(o.Done), "message"), q.done)
}
