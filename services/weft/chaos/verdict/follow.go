package verdict

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// device is what came to one device.
type device struct {
	record.Device
	link    *link
	lanes   map[string]*lane
	session int  // the present one
	fresh   bool // a connection opened, and nothing has said the number of its session yet
}

// follower goes through the deliveries of a history, in the order of its lines.
type follower struct {
	*book
	options  Options
	devices  map[string]*device
	counts   map[Word]int
	cases    []Case
	verdict  Verdict // its totals, while they are counted
	calm     histogram
	stormy   histogram
	outages  map[string]int64 // by kind of fault
	early    int              // messages that were owed when the history ended, and could still have come in time
	widened  spans            // the windows of the faults with the margin
	lateness int64
}

func newFollower(b *book, options Options) *follower {
	f := &follower{
		book: b, options: options, devices: map[string]*device{}, counts: map[Word]int{},
		outages: map[string]int64{}, lateness: b.run.Late,
	}
	for _, at := range b.broken {
		if at.to != forever {
			at.to += options.Margin.Microseconds()
		}
		f.widened = append(f.widened, at)
	}
	f.widened = f.widened.merged()
	f.doors()
	for _, d := range b.run.Devices {
		known := &device{Device: d, link: b.links[d.Name], lanes: map[string]*lane{}}
		for _, address := range d.Addresses {
			known.lanes[address] = &lane{box: b.box(address), legs: map[int]*leg{}, whole: d.App}
		}
		f.devices[d.Name] = known
	}
	return f
}

// doors takes the sequences that the doors told their writers.
func (f *follower) doors() {
	for _, o := range f.ops {
		if o.Seq == 0 {
			continue
		}
		c := Case{Address: o.To, Seq: o.Seq, ID: o.ID, At: o.End}
		switch {
		case !f.possible(o.Seq):
			c.Word, c.Text = Corrupted, "was given a sequence that no message of this run can have"
			f.tell(c, o.Start, o.End)
		case o.box.at(o.Seq) != nil:
			c.Word, c.Text = Diverged, "was given the sequence that "+o.box.at(o.Seq).ID+" was given before"
			f.tell(c, o.Start, o.End)
		default:
			o.number(o.Seq, "the door "+string(o.Door))
			o.box.set(o.Seq, o)
		}
	}
}

func (f *follower) follow(r record.Record) error {
	switch r.Kind {
	case record.KindConn:
		if d := f.devices[r.Conn.Device]; r.Conn.What == "open" {
			d.session, d.fresh = d.session+1, true
		}
	case record.KindGot:
		d := f.devices[r.Got.Device]
		if d == nil {
			return fmt.Errorf("a message at %s, which is no device of the run", r.Got.Device)
		}
		f.got(d, r.Got)
	case record.KindGap:
		d := f.devices[r.Gap.Device]
		if d == nil {
			return fmt.Errorf("a gap at %s, which is no device of the run", r.Gap.Device)
		}
		f.gap(d, *r.Gap)
	}
	return nil
}

// enter takes the number of the session that a delivery came in. Sessions are counted as they open; where the history
// counts otherwise, what was declared gone in the new one moves to the number that it has there.
func (d *device) enter(session int) {
	if session > d.session && d.fresh {
		for _, l := range d.lanes {
			if at := l.legs[d.session]; at != nil && !l.whole {
				delete(l.legs, d.session)
				l.legs[session] = at
			}
		}
	}
	d.fresh = d.fresh && session < d.session // a late word of an earlier session says nothing of this one
	d.session = max(d.session, session)
}

// got judges one delivery.
func (f *follower) got(d *device, g *record.Got) {
	f.verdict.Deliveries++
	d.enter(g.Session)
	o := f.identify(d, g)
	l := d.lanes[g.To]
	if l == nil {
		f.found(Misrouted, d, g, "came under an address that the device has not subscribed to")
		return
	}
	if !f.possible(g.Seq) {
		f.found(Corrupted, d, g, "has a sequence that no message of this run can have")
		return
	}
	word, skipped := l.place(g.Session, g.Seq)
	mine := o != nil && o.box == l.box
	if word == Doubled && mine && !l.got.has(uint64(o.place)) { //nolint:gosec // an index
		word = "" // another message under the same sequence: agree tells
	}
	if word != "" {
		f.found(word, d, g, misplaced(word, skipped, d.App))
	}
	if mine && word != Doubled {
		f.arrive(d, l, o, g)
	}
}

func misplaced(word Word, skipped uint64, app bool) string {
	switch {
	case word == Jumped:
		return fmt.Sprintf("came when %d was due, and no gap says why that was skipped", skipped)
	case word == Reordered:
		return "came after a higher sequence"
	case app:
		return "was handed to the application a second time"
	}
	return "came a second time in the same session"
}

// identify returns the operation that a delivery is of, if there is one, and says what is wrong with its content.
func (f *follower) identify(d *device, g *record.Got) *op {
	o := f.byID[g.ID]
	switch {
	case !g.Sound:
		f.found(Corrupted, d, g, "has a payload whose checksum is wrong")
	case o == nil:
		if f.settled > 0 { // the line of an operation comes when it ends: a history that was cut off may lack it
			f.found(Invented, d, g, "was published by nobody")
		}
	case o.Result == record.Failed:
		f.found(Invented, d, g, "was refused for good when it was published: "+o.Code)
	case g.Writer != o.Writer || g.Counter != o.Counter:
		f.found(Corrupted, d, g, fmt.Sprintf("has the payload of another message, %s's number %d", g.Writer, g.Counter))
	case g.For != g.To:
		f.found(Misrouted, d, g, "was addressed to "+g.For)
	case o.To != g.To:
		f.found(Corrupted, d, g, "has a payload that says it is for this address; it was published to "+o.To)
	}
	return o
}

// arrive judges what a message that is where it belongs says about the sequence, and its time if it is the first.
func (f *follower) arrive(d *device, l *lane, o *op, g *record.Got) {
	f.agree(d, o, g)
	if o.first == 0 {
		o.first = max(g.At, 1)
	}
	place := uint64(o.place) //nolint:gosec // an index
	if l.got.has(place) {
		if o.seq == g.Seq {
			f.verdict.Resent++
		} else {
			f.found(Doubled, d, g, fmt.Sprintf("came a second time, under another sequence than %d", o.seq))
		}
		return
	}
	l.got.add(place)
	f.clock(d, o, g)
}

// agree compares the sequence of a message with what was said of both before.
func (f *follower) agree(d *device, o *op, g *record.Got) {
	h := o.box.at(g.Seq)
	switch {
	case h == nil && o.seq == 0:
		o.number(g.Seq, d.Name)
		o.box.set(g.Seq, o)
	case h == nil:
		f.found(Diverged, d, g, fmt.Sprintf("has the sequence %d according to %s", o.seq, o.by))
	case h != o:
		f.found(Diverged, d, g, fmt.Sprintf("has a sequence that is that of %s according to %s", h.ID, h.by))
		o.number(g.Seq, d.Name)
	}
}

// clock takes the time that a message took, and judges it.
func (f *follower) clock(d *device, o *op, g *record.Got) {
	since := max(o.End, d.link.returned(g.At))
	took := max(g.At-since, 0)
	if f.widened.touch(o.Start, g.At) {
		f.stormy.add(took)
	} else {
		f.calm.add(took)
	}
	f.during(o.End, g.At, func(fault record.Fault) {
		f.outages[fault.Name] = max(f.outages[fault.Name], g.At-max(since, fault.From))
	})
	if free := d.link.late.free(o.End, g.At); free > f.lateness {
		f.found(Late, d, g, fmt.Sprintf("came %s after it was acknowledged; for %s of them nothing was broken and the device was connected",
			seconds(g.At-o.End), seconds(free)))
	}
}

// gap judges one declared gap.
func (f *follower) gap(d *device, g record.Gap) {
	f.verdict.Gaps++
	g.Why = f.name(g.Why)
	l := d.lanes[g.To]
	about := &record.Got{Device: d.Name, At: g.At, To: g.To, Seq: g.From}
	switch {
	case l == nil:
		f.found(Misrouted, d, about, "is a gap under an address that the device has not subscribed to")
		return
	case g.Until < g.From || !f.possible(g.From) || !f.possible(g.Until):
		f.found(Corrupted, d, about, fmt.Sprintf("is a gap up to %d, which no range of this run can be", g.Until))
		return
	}
	g.To = l.box.name
	if due, exact := l.pass(d.session, g); !exact {
		f.found(Jumped, d, about, fmt.Sprintf("is a gap up to %d (%s) where %d was due: it does not cover exactly what is missing", g.Until, g.Why, due))
	}
}

// found notes what is wrong with a delivery, and names the faults that were under way since its message was written.
func (f *follower) found(word Word, d *device, g *record.Got, text string) {
	from := g.At
	if o := f.byID[g.ID]; o != nil {
		from = min(from, o.Start)
	}
	f.tell(Case{Word: word, Device: d.Name, Address: g.To, Seq: g.Seq, ID: g.ID, At: g.At, Text: text}, from, g.At)
}

// tell notes a case, with the faults that were under way between two moments if few of its word were before.
func (f *follower) tell(c Case, from, to int64) {
	f.counts[c.Word]++
	if f.counts[c.Word] > f.options.Cases {
		return
	}
	c.Fault = f.blame(from, to)
	f.cases = append(f.cases, c)
}

// blame names the faults that were under way between two moments, the first three of them.
func (f *follower) blame(from, to int64) string {
	var names []string
	f.during(from, to, func(fault record.Fault) {
		names = append(names, fmt.Sprintf("%s of %s (%s to %s)", fault.Name, fault.Target, seconds(fault.From), seconds(fault.Healed)))
	})
	slices.Reverse(names)
	if more := len(names) - 3; more > 0 {
		names = append(names[:3], fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
