package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// audit is what `weft audit` was told.
type audit struct {
	*console

	since, until moment
	most         int
}

// NewAudit is `weft audit`: do the books balance.
func NewAudit() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Prove that every accepted message is accounted for, and name each that is not",
		Long: `Compare the archive with the log, address by address, for what was archived in a window:

  accepted = delivered + pending + expired + superseded + quarantined + deleted

Each message that breaks it is named, with what to do. What is younger than 12 s may be under way from the archive to the
log and is left out. Exit code 0: the books balance; 1: they do not, or could not be read; 3: nothing is wrong so far, and
some messages are under way for longer than that, because the log does not take them: audit again. With --output json one
object.`,
		Example: `  weft audit
  weft audit --since 1d
  weft audit --since '2026-11-22 22:00' --until '2026-11-23 06:00' --output json | jq .breaks`,
		Args: cobra.NoArgs,
	}
	a := &audit{console: newConsole(c)}
	a.since.now = sync.OnceValue(a.now) // an hour from 2h to 1h ago is an hour
	a.until.now = a.since.now
	f := c.Flags()
	f.Var(&a.since, "since", "from then on: 1h, 3d, 15:04, \"2006-01-02 15:04\" or RFC 3339; the last hour if it is not given")
	f.Var(&a.until, "until", "before then; now if it is not given")
	f.IntVar(&a.most, "most", 100, "most `breaks` to name; all are counted")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.run(c.Context()) }
	c.AddCommand(newAuditRecords())
	return Usage(c)
}

// books is what an audit found, as JSON.
type books struct {
	Since      int64         `json:"since"`
	Until      int64         `json:"until"`
	Partitions int           `json:"partitions"`
	Balance    admin.Balance `json:"balance"`
	Balanced   bool          `json:"balanced"`
	Breaks     []admin.Break `json:"breaks"`    // the first of them
	Broken     int           `json:"broken"`    // all of them
	Addresses  int           `json:"addresses"` // one that was in several pages counts in each
	Logged     int           `json:"logged"`
	Incoming   int           `json:"incoming"`
	UnderWay   int           `json:"under_way"` // from the archive to the log, for longer than they should be
}

// errUnbalanced is what an audit ends with that has found something; what is on standard output.
var errUnbalanced = errors.New("the books do not balance")

// errUnderWay is what it ends with when nothing is wrong and not everything could be judged.
var errUnderWay = errors.New("the log has not taken all messages yet; `weft doctor` shows what is missing")

func (a *audit) run(ctx context.Context) error {
	b := books{Since: a.since.ms, Until: a.until.ms, Breaks: []admin.Break{}}
	if b.Until == 0 {
		b.Until = a.now().UnixMilli()
	}
	if b.Since == 0 {
		b.Since = b.Until - time.Hour.Milliseconds()
	}
	if b.Since >= b.Until {
		return usagef("--since is not before --until: nothing can lie between")
	}
	if a.most < 1 {
		return usagef("--most is 1 or more")
	}
	if err := a.open(); err != nil {
		return err
	}
	defer a.close()
	if err := a.compare(ctx, &b); err != nil {
		return err
	}
	b.Balanced = b.Broken == 0 && b.UnderWay == 0 && difference(b.Balance) == 0
	show := func() error { return a.show(&b) }
	if a.json() {
		show = func() error { return jsonLine(a.out, b) }
	}
	if err := show(); err != nil {
		return err
	}
	switch {
	case b.Balanced:
		return nil
	case b.Broken == 0 && difference(b.Balance) == 0:
		since, until := moment{ms: b.Since}, moment{ms: b.Until}
		return &partlyError{errUnderWay, again(a.command, []string{"since", "until"}, "--since", since.String(), "--until", until.String())}
	}
	return errUnbalanced
}

// compare adds up all pages of all partitions.
func (a *audit) compare(ctx context.Context, b *books) error {
	bar := a.progress(0)
	defer bar.end()
	b.Partitions = 1 // until the first page says how many there are
	for p := 0; p < b.Partitions; p++ {
		for after, began := "", true; began || after != ""; began = false {
			var page admin.AuditPage
			question := admin.AuditRequest{Partition: p, Since: b.Since, Until: b.Until, After: after, Most: a.most}
			if err := a.askPatiently(ctx, admin.Audit, question, &page); err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			if page.Next != "" && page.Next == after {
				return fmt.Errorf("partition %d: the audit makes no progress; `weft doctor` shows what is missing", p)
			}
			after = page.Next
			b.add(&page, a.most)
			done := p
			if after == "" {
				done++
			}
			bar.at(done, b.Partitions, fmt.Sprintf("%s, %s", many(b.Balance.Accepted, "message"), many(b.Broken, "break")))
		}
	}
	return nil
}

func (b *books) add(page *admin.AuditPage, most int) {
	b.Partitions = page.Partitions
	for _, sum := range []struct{ into, more *int }{
		{&b.Balance.Accepted, &page.Balance.Accepted},
		{&b.Balance.Delivered, &page.Balance.Delivered},
		{&b.Balance.Pending, &page.Balance.Pending},
		{&b.Balance.Expired, &page.Balance.Expired},
		{&b.Balance.Superseded, &page.Balance.Superseded},
		{&b.Balance.Quarantined, &page.Balance.Quarantined},
		{&b.Balance.Deleted, &page.Balance.Deleted},
		{&b.Broken, &page.Broken},
		{&b.Addresses, &page.Addresses},
		{&b.Logged, &page.Logged},
		{&b.Incoming, &page.Incoming},
		{&b.UnderWay, &page.UnderWay},
	} {
		*sum.into += *sum.more
	}
	b.Breaks = append(b.Breaks, page.Breaks[:min(len(page.Breaks), most-min(len(b.Breaks), most))]...)
}

// difference is by how much the balance is off.
func difference(b admin.Balance) int {
	return b.Accepted - b.Delivered - b.Pending - b.Expired - b.Superseded - b.Quarantined - b.Deleted
}

func (a *audit) show(b *books) error {
	now := a.now()
	if err := line(a.out, "%s to %s: %s, %s of the log", clock(b.Since, now), clock(b.Until, now),
		many(b.Balance.Accepted, "message"), thousands(b.Logged)); err != nil {
		return err
	}
	sums := &table{columns: []column{{title: ""}, {title: "MESSAGES", right: true}}}
	sums.row("accepted", thousands(b.Balance.Accepted))
	for _, sum := range []struct {
		name string
		n    int
	}{
		{"delivered", b.Balance.Delivered},
		{"pending", b.Balance.Pending},
		{"expired", b.Balance.Expired},
		{"superseded", b.Balance.Superseded},
		{"quarantined", b.Balance.Quarantined},
		{"deleted", b.Balance.Deleted},
	} {
		sums.row("  "+sum.name, thousands(sum.n))
	}
	if err := sums.write(a.out); err != nil {
		return err
	}
	if b.Incoming > 0 {
		if err := line(a.out, "%s wait to be archived, and are not in it.", many(b.Incoming, "message")); err != nil {
			return err
		}
	}
	if b.UnderWay > 0 {
		text := many(b.UnderWay, "message") + " under way: archived, and the owner of the partition could not write them to the log yet."
		if err := line(a.out, "%s", a.out.paint(yellow, text)); err != nil {
			return err
		}
	}
	switch {
	case b.Balanced && b.Balance.Accepted == 0:
		return line(a.out, "There was nothing to compare: no message that is 12 s old was archived in that time.")
	case b.Balanced:
		return line(a.out, "%s", a.out.paint(green, "The books balance."))
	case b.Broken == 0 && difference(b.Balance) == 0:
		return line(a.out, "%s", a.out.paint(green, "The books balance but for these."))
	}
	return a.breaks(b)
}

// breaks names what breaks the balance. The sentences stand below the rows: they are what to do, and must not be cut.
func (a *audit) breaks(b *books) error {
	text := many(b.Broken, "message") + " broke the books"
	if b.Broken == 1 {
		text = "1 message broke the books"
	}
	if off := difference(b.Balance); b.Broken == 0 {
		text = fmt.Sprintf("The sums differ by %d, and no message was found that explains it: audit again, and tell us if it stays", off)
	}
	if err := line(a.out, "%s", a.out.paint(red, text+".")); err != nil {
		return err
	}
	for _, one := range b.Breaks {
		where := one.To
		if one.Tenant != "" && one.Tenant != subject.DefaultTenant {
			where = one.Tenant + "/" + one.To
		}
		if one.Seq != 0 {
			where += " seq " + strconv.FormatUint(one.Seq, 10)
		}
		if one.ID != "" {
			where += " id " + one.ID
		}
		if err := line(a.out, "%s  %s\n    %s", a.out.paint(yellow, plain(one.What)), plain(where), plain(one.Message)); err != nil {
			return err
		}
	}
	if more := b.Broken - len(b.Breaks); more > 0 && len(b.Breaks) > 0 {
		a.say("and %s more; --most names more of them", thousands(more))
	}
	return nil
}

// newAuditRecords is `weft audit records`: who changed what.
func newAuditRecords() *cobra.Command {
	c := &cobra.Command{
		Use:   "records",
		Short: "List the changes that operators made: who, when, what, how many, why",
		Long: `List the changes that operators made, the newest first. A record is made before the change; its count is what was done
in the end.`,
		Example: `  weft audit records
  weft audit records --action replay --limit 200
  weft audit records --output json | jq '.records[] | select(.by.note == "INC-1234")'`,
		Args: cobra.NoArgs,
	}
	k := newConsole(c)
	before := &moment{now: k.now}
	var q admin.RecordsRequest
	f := c.Flags()
	f.Var(before, "before", "only what is older: 1h, 3d, 15:04, \"2006-01-02 15:04\" or RFC 3339")
	f.StringVar(&q.Action, "action", "", "only this `action`: replay, kick, drain, quarantine.replay or quarantine.drop")
	f.IntVar(&q.Limit, "limit", 50, "most `rows`, up to 1000")
	complete(c, "action", func() []string {
		return []string{admin.Replay, admin.Kick, admin.Drain, admin.QuarantineReplay, admin.QuarantineDrop}
	})
	c.RunE = func(c *cobra.Command, _ []string) error {
		q.Before = before.ms
		if q.Limit < 1 || q.Limit > mostRows {
			return usagef("--limit is 1 to %d", mostRows)
		}
		if err := k.open(); err != nil {
			return err
		}
		defer k.close()
		answer := admin.RecordsAnswer{}
		if err := k.ask(c.Context(), admin.Records, q, &answer); err != nil {
			return err
		}
		if k.json() {
			return jsonLine(k.out, answer)
		}
		return k.records(answer.Records, q.Limit)
	}
	return Usage(c)
}

func (k *console) records(records []admin.Record, limit int) error {
	if len(records) == 0 {
		return line(k.out, "There are no records that match.")
	}
	now := k.now()
	t := &table{columns: []column{
		{title: "WHEN", code: in(dim)},
		{title: "WHO", cut: true},
		{title: "ACTION", code: in(bold)},
		{title: "COUNT", right: true},
		{title: "WHAT", wrap: true},
		{title: "NOTE", wrap: true, code: in(green)},
	}}
	for _, r := range records {
		what := filterWords(r.Filter, now)
		if r.Detail != "" {
			what += "; " + r.Detail
		}
		t.row(clock(r.At, now), r.By.Who, r.Action, thousands(r.Count), what, r.By.Note)
	}
	if err := t.write(k.out); err != nil {
		return err
	}
	if len(records) == limit {
		oldest := moment{ms: records[len(records)-1].At}
		k.say("next page: %s", again(k.command, []string{"before"}, "--before", oldest.String()))
	}
	return nil
}

// place is where a member of a filter stands: what names one message or user first.
func place(name string) int {
	order := []string{"number", "node", "user", "device", "topic", "to", "id"}
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

// filterWords is a record's filter in a few words: user=alice since=10:15:00.
func filterWords(filter json.RawMessage, now time.Time) string {
	var members map[string]any
	d := json.NewDecoder(strings.NewReader(string(filter)))
	d.UseNumber()
	if len(filter) == 0 {
		return ""
	}
	if d.Decode(&members) != nil {
		return string(filter)
	}
	var words []string
	names := sortedKeys(members)
	slices.SortStableFunc(names, func(a, b string) int { return place(a) - place(b) })
	for _, name := range names {
		value := members[name]
		if name == "tenant" && value == subject.DefaultTenant && len(members) > 1 {
			continue
		}
		if id, text := value.(string); text && name == "node" {
			value = short(id)
		}
		if ms, number := value.(json.Number); number && (name == "since" || name == "until") {
			n, err := ms.Int64()
			if err == nil {
				value = clock(n, now)
			}
		}
		if _, nested := value.(map[string]any); nested {
			text, _ := json.Marshal(value) //nolint:errchkjson // it was JSON
			value = string(text)
		}
		words = append(words, fmt.Sprintf("%s=%v", name, value))
	}
	if len(words) == 0 {
		return "everything"
	}
	return strings.Join(words, " ")
}
