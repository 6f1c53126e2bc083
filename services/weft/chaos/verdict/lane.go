package verdict

import (
	"slices"

	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/message"
)

// numbers is a set of small numbers.
type numbers []uint64

func (b numbers) has(n uint64) bool { return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }

func (b *numbers) add(n uint64) {
	if missing := int(n/64) + 1 - len(*b); missing > 0 { //nolint:gosec // book.possible has bounded it
		*b = append(*b, make(numbers, missing)...)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

// lane is one address at one device.
type lane struct {
	box    *mailbox
	got    numbers // operations of the mailbox whose message came
	top    uint64  // the highest sequence that came or was declared gone
	gaps   []record.Gap
	legs   map[int]*leg // what came in each session; at an application all of its life is one
	whole  bool         // it is an application's
	spared int          // sequences in gaps that may be those of expired messages that nobody got
}

// leg is a run of sequences that have to follow each other.
type leg struct {
	next  uint64 // the sequence that has to come
	first uint64 // the one that it began with
	holes []hole // inside it: declared gone, or skipped
}

type hole struct{ from, to uint64 }

// leg returns that of a session. A new one may begin with anything up to the sequence after the highest that the
// device knows of: what it has not acknowledged comes again. All devices were there before the first message, so
// the first of all begins with 1.
func (l *lane) leg(session int, seq uint64) *leg {
	if l.whole {
		session = 0
	}
	at := l.legs[session]
	if at == nil {
		begin := min(seq, l.top+1)
		at = &leg{next: begin, first: begin}
		l.legs[session] = at
	}
	return at
}

// place notes that a sequence came in a session. It returns the word for what is wrong with it; a jump also returns
// the first sequence that was skipped.
func (l *lane) place(session int, seq uint64) (Word, uint64) {
	at := l.leg(session, seq)
	l.top = max(l.top, seq)
	switch skipped := at.next; {
	case seq == skipped:
		at.next++
	case seq > skipped:
		at.skip(seq)
		at.next++
		return Jumped, skipped
	case seq < at.first || at.missed(seq):
		return Reordered, 0
	default:
		return Doubled, 0
	}
	return "", 0
}

// pass notes that a range was declared gone in a session. It returns false and the sequence that had to come if the
// range does not begin with it. An application may be told of more than it lacks: it is told again of a range whose
// beginning it had in an earlier session.
func (l *lane) pass(session int, g record.Gap) (due uint64, exact bool) {
	at := l.leg(session, g.From)
	due = at.next
	exact = g.From == due || l.whole && g.From < due && g.Until >= due
	if g.Until >= due {
		at.skip(g.Until + 1)
	}
	l.top = max(l.top, g.Until)
	l.gaps = append(l.gaps, g)
	return due, exact
}

func (at *leg) skip(next uint64) {
	at.holes = append(at.holes, hole{at.next, next - 1})
	at.next = next
}

func (at *leg) missed(seq uint64) bool {
	return slices.ContainsFunc(at.holes, func(h hole) bool { return h.from <= seq && seq <= h.to })
}

// excused says whether a gap tells the truth about a message: it had expired when the device was told. Nothing else
// removes messages in a run.
func excused(g record.Gap, o *op) bool {
	const truncated = 50_000 // µs: the server's clock counts ms, and is not the judge's
	return g.Why == string(message.WhyExpired) && o.TTL > 0 && g.At >= o.Start+o.TTL-truncated
}

// gone returns the gap that covers the message of an operation, the truthful one if there are several. A message whose
// sequence nobody knows is covered by any sequence in an expired range that is nobody else's, each used once.
func (l *lane) gone(o *op) (gap record.Gap, covered, truthful bool) {
	if o.seq == 0 {
		if o.Result == record.OK && o.TTL > 0 && l.spared > 0 {
			l.spared--
			return record.Gap{}, true, true
		}
		return record.Gap{}, false, false
	}
	for _, g := range l.gaps {
		if g.From <= o.seq && o.seq <= g.Until {
			if excused(g, o) {
				return g, true, true
			}
			gap, covered = g, true
		}
	}
	return gap, covered, false
}

// spare counts the sequences that expired ranges cover and that are nobody's.
func (l *lane) spare() {
	var counted numbers
	for _, g := range l.gaps {
		if g.Why != string(message.WhyExpired) {
			continue
		}
		for seq := g.From; seq <= g.Until; seq++ {
			if l.box.at(seq) == nil && !counted.has(seq) {
				counted.add(seq)
				l.spared++
			}
		}
	}
}
