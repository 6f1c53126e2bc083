package verdict

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// settle judges what only the end shows: what never came, and the order of each mailbox. In a history that was cut off
// nothing has had the time to come.
func (f *follower) settle() {
	for _, name := range slices.Sorted(maps.Keys(f.boxes)) {
		f.order(f.boxes[name])
	}
	for _, known := range f.run.Devices {
		d := f.devices[known.Name]
		for _, address := range known.Addresses {
			l := d.lanes[address]
			l.spare()
			f.lies(d, l)
			for _, o := range l.box.ops {
				if !l.got.has(uint64(o.place)) { //nolint:gosec // an index
					f.absent(d, l, o)
				}
			}
		}
	}
}

// order checks that a writer's messages through one door were numbered as they were written. One that was not
// acknowledged may have come to the archive at any time.
func (f *follower) order(m *mailbox) {
	type way struct {
		writer string
		door   record.Door
	}
	latest := map[way]*op{}
	for _, o := range m.bySeq {
		if o == nil || o.Result != record.OK {
			continue
		}
		by := way{o.Writer, o.Door}
		if before := latest[by]; before != nil && before.Counter > o.Counter {
			f.tell(Case{
				Word: Reordered, Address: m.name, Seq: o.seq, ID: o.ID, At: o.End,
				Text: fmt.Sprintf("was numbered after %s (%d), which %s wrote later", before.ID, before.seq, o.Writer),
			}, o.Start, o.End)
			continue
		}
		latest[by] = o
	}
}

// absent judges a message that a device never got.
func (f *follower) absent(d *device, l *lane, o *op) {
	gap, covered, truthful := l.gone(o)
	if truthful {
		return
	}
	c := Case{Device: d.Name, Address: o.To, Seq: o.seq, ID: o.ID, At: o.End}
	var since int64
	switch {
	case o.Result == record.OK:
		c.Word, since = Lost, o.End
		c.Text = "was acknowledged and never came"
	case o.Result == record.Unknown && o.first > 0:
		c.Word, since = Diverged, max(o.End, o.first)
		c.Text = fmt.Sprintf("never came, though %s got it; its writer has no answer", o.by)
	default:
		return
	}
	switch {
	case covered:
		c.Text += fmt.Sprintf(": it was declared gone (%s), and nothing could have removed it", gap.Why)
		f.tell(c, o.Start, since+f.lateness)
	case d.link.lost.free(since, f.settled) > f.lateness:
		f.tell(c, o.Start, since+f.lateness)
	default:
		f.early++
	}
}

// lies finds gaps over messages that the device had before, and that nothing removes.
func (f *follower) lies(d *device, l *lane) {
	for _, g := range l.gaps {
		for seq := g.From; seq <= g.Until; seq++ {
			o := l.box.at(seq)
			if o == nil || excused(g, o) || !l.got.has(uint64(o.place)) { //nolint:gosec // an index
				continue
			}
			f.tell(Case{
				Word: Diverged, Device: d.Name, Address: o.To, Seq: seq, ID: o.ID, At: g.At,
				Text: fmt.Sprintf("was declared gone (%s) to a device that had it, and nothing could have removed it", g.Why),
			}, g.At, g.At)
		}
	}
}

// conclude puts the verdict together.
func (f *follower) conclude() *Verdict {
	v := f.verdict
	v.Seed, v.Form, v.Started, v.Command, v.Again = f.run.Seed, f.run.Form, f.run.Started, f.run.Command, f.options.Again
	for _, fault := range f.missed {
		if fault.Name == record.Died {
			f.tell(Case{Word: Died, Device: fault.Target, At: fault.From, Text: fault.Note}, fault.From, fault.From)
		}
	}
	v.Cases, v.Calm, v.Stormy = f.cases, f.calm.sum(), f.stormy.sum()
	v.Devices, v.Over = len(f.run.Devices), make(map[string]int)
	for _, d := range f.run.Devices {
		if d.App {
			v.Apps++
		}
		for door, n := range f.links[d.Name].sessions {
			v.Sessions += n
			v.Over[door] += n
		}
	}
	v.Ops, v.Prompt = f.doorTotals(), f.prompt()
	v.Faults = f.faultTotals()
	for _, t := range v.Faults {
		v.InFlight.Part += t.InFlight
		v.InFlight.Of += t.Injected
	}
	v.Reasons = f.doubts(&v)
	v.Outcome = Valid
	if len(v.Reasons) > 0 {
		v.Outcome = Inconclusive
	}
	for _, word := range Words() {
		v.Counts = append(v.Counts, Count{word, f.counts[word]})
		if f.counts[word] > 0 {
			v.Outcome = Invalid
		}
	}
	slices.SortStableFunc(v.Cases, func(a, b Case) int {
		return cmp.Compare(slices.Index(Words(), a.Word), slices.Index(Words(), b.Word))
	})
	return &v
}

// doubts are the reasons why a run that shows nothing wrong shows nothing at all.
func (f *follower) doubts(v *Verdict) []string {
	var out []string
	doubt := func(is bool, format string, args ...any) {
		if is {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	written := slices.ContainsFunc(f.ops, func(o *op) bool { return o.Result == record.OK })
	doubt(f.settled == 0, "the history ends before the run had settled")
	doubt(f.settled > 0 && f.early > 0, "the run ended too early: %d deliveries were still owed, and could have come in time", f.early)
	doubt(len(f.run.Devices) == 0, "there were no devices")
	doubt(!written, "no message was acknowledged")
	doubt(written && !v.Prompt.reaches(promptPercent), "outside fault windows %d of %d operations were acknowledged within %s; it takes %d %%",
		v.Prompt.Part, v.Prompt.Of, f.options.Prompt, promptPercent)
	doubt(v.InFlight.Of == 0 && !f.options.Faultless, "no fault was injected")
	doubt(v.InFlight.Of > 0 && !v.InFlight.reaches(inFlightPercent), "messages were in flight at %d of %d faults; it takes %d %%",
		v.InFlight.Part, v.InFlight.Of, inFlightPercent)
	for _, fault := range f.faults {
		doubt(fault.Healed == forever, "the fault %s of %s was never healed", fault.Name, fault.Target)
	}
	return out
}

// prompt counts the operations that no fault touched, and those of them that were acknowledged promptly. One that took
// too long is looked at for as long as it should have taken: a fault that came after it was late does not excuse it.
func (f *follower) prompt() Share {
	var s Share
	most := f.options.Prompt.Microseconds()
	for _, o := range f.ops {
		if f.widened.touch(o.Start, min(o.End, o.Start+most)) {
			continue
		}
		s.Of++
		if o.Result == record.OK && o.End-o.Start <= most {
			s.Part++
		}
	}
	return s
}

func (f *follower) doorTotals() []OpTotal {
	counts := map[OpTotal]int{}
	for _, o := range f.ops {
		counts[OpTotal{Door: o.Door, Result: o.Result}]++
	}
	var out []OpTotal
	for t, n := range counts {
		t.Count = n
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b OpTotal) int {
		return cmp.Or(cmp.Compare(a.Door, b.Door), cmp.Compare(a.Result, b.Result))
	})
	return out
}

func (f *follower) faultTotals() []FaultTotal {
	totals := map[string]*FaultTotal{}
	of := func(name string) *FaultTotal {
		if totals[name] == nil {
			totals[name] = &FaultTotal{Name: name, Outage: f.outages[name]}
		}
		return totals[name]
	}
	for _, fault := range f.faults {
		t := of(fault.Name)
		t.Injected++
		if fault.InFlight > 0 {
			t.InFlight++
		}
		if fault.Healed != forever {
			t.Window = max(t.Window, fault.Healed-fault.From)
		}
	}
	for _, fault := range f.missed {
		if fault.Name == record.Died {
			continue
		}
		t := of(fault.Name)
		t.Missed++
		if !slices.Contains(t.Notes, fault.Note) {
			t.Notes = append(t.Notes, fault.Note)
		}
	}
	var out []FaultTotal
	for _, name := range slices.Sorted(maps.Keys(totals)) {
		out = append(out, *totals[name])
	}
	return out
}
