package verdict

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table writes the verdict for people: the words, what it rests on, and the first cases.
func (v *Verdict) Table(w io.Writer) error {
	t := &table{to: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.head(v)
	t.totals(v)
	t.faults(v)
	t.latencies(v)
	t.cases(v)
	t.flush()
	return t.err
}

// table keeps the first error of writing.
type table struct {
	to  *tabwriter.Writer
	err error
}

// row writes cells, which are aligned with those of the rows around them.
func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, cell := range cells {
		text[i] = fmt.Sprint(cell)
	}
	t.line("%s", strings.Join(text, "\t"))
}

// line writes a line as it is.
func (t *table) line(format string, args ...any) {
	if _, err := fmt.Fprintf(t.to, format+"\n", args...); err != nil && t.err == nil {
		t.err = err
	}
}

// flush ends a block of rows that are aligned with each other.
func (t *table) flush() {
	if err := t.to.Flush(); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *table) head(v *Verdict) {
	t.line("%s (form %s, seed %d, begun %s)", strings.ToUpper(string(v.Outcome)), v.Form, v.Seed, v.Started)
	for _, reason := range v.Reasons {
		t.line("  inconclusive: %s", reason)
	}
	t.line("repeat it:   %s", v.Command)
	if v.Again != "" {
		t.line("judge again: %s", v.Again)
	}
	t.line("")
	var words, counts []any
	for _, c := range v.Counts {
		words, counts = append(words, c.Word), append(counts, c.Count)
	}
	t.row(words...)
	t.row(counts...)
	t.flush()
}

func (t *table) totals(v *Verdict) {
	t.line("")
	t.row("operations", "door", "result")
	for _, o := range v.Ops {
		t.row(o.Count, o.Door, o.Result)
	}
	t.flush()
	t.line("")
	t.row("acknowledged promptly outside fault windows", v.Prompt)
	t.row("faults injected with messages in flight", v.InFlight)
	t.row("devices", fmt.Sprintf("%d, %d of them on the Go client", v.Devices, v.Apps))
	t.row("sessions", fmt.Sprintf("%d%s", v.Sessions, v.doors()))
	t.row("deliveries", fmt.Sprintf("%d, %d of them sent again to the next session", v.Deliveries, v.Resent))
	t.row("gaps", v.Gaps)
	t.flush()
}

// doors says how many sessions came through which door.
func (v *Verdict) doors() string {
	var list []string
	for _, door := range slices.Sorted(maps.Keys(v.Over)) {
		list = append(list, fmt.Sprintf("%d %s", v.Over[door], door))
	}
	if len(list) < 2 {
		return ""
	}
	return ": " + strings.Join(list, ", ")
}

// String is for people.
func (s Share) String() string {
	if s.Of == 0 {
		return "0 of 0"
	}
	return fmt.Sprintf("%d of %d (%.1f %%)", s.Part, s.Of, float64(s.Part)*100/float64(s.Of))
}

func (t *table) faults(v *Verdict) {
	if len(v.Faults) == 0 {
		return
	}
	t.line("")
	t.row("fault", "injected", "in flight", "longest", "longest wait of a message", "not injected")
	for _, f := range v.Faults {
		missed := "0"
		if f.Missed > 0 {
			missed = fmt.Sprintf("%d: %s", f.Missed, strings.Join(f.Notes, "; "))
		}
		t.row(f.Name, f.Injected, f.InFlight, seconds(f.Window), seconds(f.Outage), missed)
	}
	t.flush()
}

func (t *table) latencies(v *Verdict) {
	t.line("")
	t.row("acknowledged → at a device", "deliveries", "p50", "p99", "most")
	for _, l := range []struct {
		name string
		of   Latency
	}{{"outside fault windows", v.Calm}, {"inside", v.Stormy}} {
		t.row(l.name, l.of.Count, seconds(l.of.P50), seconds(l.of.P99), seconds(l.of.Most))
	}
	t.flush()
}

// cases writes what was found in sentences.
func (t *table) cases(v *Verdict) {
	for _, count := range v.Counts {
		if count.Count == 0 {
			continue
		}
		told := slices.DeleteFunc(slices.Clone(v.Cases), func(c Case) bool { return c.Word != count.Word })
		t.line("")
		t.line("%s, %d of %d:", count.Word, len(told), count.Count)
		for _, c := range told {
			t.line("  %s", c)
		}
	}
}

// String is the case as a sentence.
func (c Case) String() string {
	where := c.Address
	if c.Device != "" {
		where = c.Device + ", " + c.Address
	}
	seq, id := "an unknown sequence", "a gap"
	if c.Seq > 0 {
		seq = fmt.Sprint(c.Seq)
	}
	if c.ID != "" {
		id = c.ID
	}
	fault := "no fault was under way"
	if c.Fault != "" {
		fault = "under way: " + c.Fault
	}
	if c.Word == Died {
		return fmt.Sprintf("%s %s; at %s, %s", c.Device, c.Text, seconds(c.At), fault)
	}
	return fmt.Sprintf("%s %s (%s) %s; at %s, %s", where, seq, id, c.Text, seconds(c.At), fault)
}
