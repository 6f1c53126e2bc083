package verdict

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// forever is the end of what had not ended when the history did.
const forever = math.MaxInt64

// op is an operation and what is known of its message.
type op struct {
	record.Op
	box   *mailbox
	place int    // among the operations of its mailbox
	seq   uint64 // the first that was told; 0 until then
	by    string // the device or the door that told it
	first int64  // when the first device got it; 0 until then
}

func (o *op) number(seq uint64, by string) {
	if o.seq == 0 {
		o.seq, o.by = seq, by
	}
}

// mailbox is one address.
type mailbox struct {
	name  string
	ops   []*op
	bySeq []*op // index 0 is unused: sequences begin with 1
}

// at returns what has a sequence, nil if nobody has said.
func (m *mailbox) at(seq uint64) *op {
	if seq >= uint64(len(m.bySeq)) {
		return nil
	}
	return m.bySeq[seq]
}

func (m *mailbox) set(seq uint64, o *op) {
	if missing := int(seq) + 1 - len(m.bySeq); missing > 0 { //nolint:gosec // book.possible has bounded it
		m.bySeq = append(m.bySeq, make([]*op, missing)...)
	}
	m.bySeq[seq] = o
}

// book is all of a history but the deliveries.
type book struct {
	run     *record.Run
	ops     []*op
	byID    map[string]*op
	boxes   map[string]*mailbox
	names   map[string]string // each string of operations once, instead of once for each line
	faults  []record.Fault    // injected, by the time of their beginning; Healed is forever where there was none
	reach   []int64           // of faults: the latest healing among the first n+1
	broken  spans             // the windows of the faults
	missed  []record.Fault    // not injected
	links   map[string]*link  // by device
	settled int64             // 0 if the history ends before
}

// readBook reads a history for everything but deliveries.
func readBook(source Source) (*book, error) {
	b := &book{byID: map[string]*op{}, boxes: map[string]*mailbox{}, names: map[string]string{}, links: map[string]*link{}}
	if err := source(b.note); err != nil {
		return nil, err
	}
	if b.run == nil {
		return nil, errors.New("the history does not say what was run: it has no record of kind run")
	}
	b.close()
	return b, nil
}

func (b *book) note(r record.Record) error {
	switch r.Kind {
	case record.KindRun:
		return b.noteRun(r.Run)
	case record.KindOp:
		return b.noteOp(*r.Op)
	case record.KindConn:
		return b.noteConn(r.Conn)
	case record.KindFault:
		b.noteFault(*r.Fault)
	case record.KindPhase:
		if r.Phase.Name == "settled" {
			b.settled = r.Phase.At
		}
	case record.KindGot, record.KindGap: // later, by the follower
	default:
		return fmt.Errorf("a record of the unknown kind %q", r.Kind)
	}
	return nil
}

func (b *book) noteRun(run *record.Run) error {
	if b.run != nil {
		return errors.New("a second run in the same history")
	}
	b.run = run
	for _, d := range run.Devices {
		if b.links[d.Name] != nil {
			return fmt.Errorf("two devices are named %s", d.Name)
		}
		b.links[d.Name] = &link{}
		for _, address := range d.Addresses {
			b.box(address)
		}
	}
	return nil
}

func (b *book) noteOp(o record.Op) error {
	if b.byID[o.ID] != nil {
		return fmt.Errorf("two operations have the id %s", o.ID)
	}
	o.Writer, o.To, o.Code = b.name(o.Writer), b.name(o.To), b.name(o.Code)
	o.Door, o.Result = record.Door(b.name(string(o.Door))), record.Result(b.name(string(o.Result)))
	box := b.box(o.To)
	known := &op{Op: o, box: box, place: len(box.ops)}
	box.ops = append(box.ops, known)
	b.ops = append(b.ops, known)
	b.byID[o.ID] = known
	return nil
}

func (b *book) noteConn(c *record.Conn) error {
	l := b.links[c.Device]
	if l == nil {
		return fmt.Errorf("a connection of %s, which is no device of the run", c.Device)
	}
	return l.note(c)
}

func (b *book) noteFault(f record.Fault) {
	if !f.Injected {
		b.missed = append(b.missed, f)
		return
	}
	if f.Healed == 0 {
		f.Healed = forever
	}
	b.faults = append(b.faults, f)
}

// close sorts what the lines did not bring in order.
func (b *book) close() {
	slices.SortStableFunc(b.faults, func(a, c record.Fault) int { return cmp.Compare(a.From, c.From) })
	latest := int64(0)
	for _, f := range b.faults {
		latest = max(latest, f.Healed)
		b.reach = append(b.reach, latest)
		b.broken = append(b.broken, span{f.From, f.Healed})
	}
	b.broken = b.broken.merged()
	for _, l := range b.links {
		l.close(b.broken)
	}
}

func (b *book) box(address string) *mailbox {
	m := b.boxes[address]
	if m == nil {
		address = b.name(address)
		m = &mailbox{name: address}
		b.boxes[address] = m
	}
	return m
}

func (b *book) name(s string) string {
	if known, ok := b.names[s]; ok {
		return known
	}
	b.names[s] = s
	return s
}

// possible says whether a sequence can be one: the dense slices would not bear any number. A mailbox has at most as
// many as there are operations; a fabric under judgement may number some of them several times.
func (b *book) possible(seq uint64) bool { return seq > 0 && seq <= uint64(len(b.ops))*8+1<<16 }

// during calls each for the faults whose window touches the time from one moment to another, the latest first.
func (b *book) during(from, to int64, each func(record.Fault)) {
	after, _ := slices.BinarySearchFunc(b.faults, to, func(f record.Fault, to int64) int {
		if f.From <= to {
			return -1
		}
		return 1
	})
	for i := after - 1; i >= 0 && b.reach[i] >= from; i-- {
		if b.faults[i].Healed >= from {
			each(b.faults[i])
		}
	}
}
