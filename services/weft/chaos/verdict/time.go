package verdict

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// span is a time from one moment to another.
type span struct{ from, to int64 }

// spans are times in order that do not touch, once merged.
type spans []span

// merged returns the union of the times.
func (s spans) merged() spans {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := s[:0:0]
	for _, next := range s {
		if n := len(out); n > 0 && next.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, next.to)
		} else {
			out = append(out, next)
		}
	}
	return out
}

// free is the longest stretch between two moments that none of the times touches. They must be merged.
func (s spans) free(from, to int64) int64 {
	longest := int64(0)
	for _, busy := range s[s.after(from):] {
		if busy.from >= to {
			break
		}
		longest = max(longest, busy.from-from)
		from = busy.to
	}
	return max(longest, to-from)
}

// touch says whether one of the times touches the one between two moments. They must be merged.
func (s spans) touch(from, to int64) bool {
	i := s.after(from)
	return i < len(s) && s[i].from <= to
}

// after is the first of the times that ends at a moment or later.
func (s spans) after(moment int64) int {
	i, _ := slices.BinarySearchFunc(s, moment, func(busy span, moment int64) int { return cmp.Compare(busy.to, moment) })
	return i
}

// link is when a device was connected.
type link struct {
	sessions map[string]int // by the door that they came through
	away     spans          // it stayed away on purpose
	cut      spans          // it was not connected, or away

	since, gone int64 // of the time under way: not connected, away; -1 when it is connected, is not away
	begun       bool

	// What excuses a message that is not there: for late everything that is broken or cut, for lost only what is broken
	// and what the device wanted. A device that nobody lets in any more has lost what it is owed.
	late, lost spans
}

// note takes what happened to the connection, in order.
func (l *link) note(c *record.Conn) error {
	if !l.begun {
		l.begun, l.since, l.gone = true, 0, -1
	}
	switch c.What {
	case "open":
		if l.sessions == nil {
			l.sessions = make(map[string]int)
		}
		l.sessions[c.Over]++
		l.back(c.At)
		l.join(c.At)
	case "closed":
		if l.since < 0 {
			l.since = c.At
		}
	case "away":
		if l.gone < 0 {
			l.gone = c.At
		}
	case "back":
		l.back(c.At)
	default:
		return fmt.Errorf("a connection of %s is said to be %q, which is none of open, closed, away, back", c.Device, c.What)
	}
	return nil
}

func (l *link) back(at int64) {
	if l.gone >= 0 {
		l.away = append(l.away, span{l.gone, at})
		l.gone = -1
	}
}

func (l *link) join(at int64) {
	if l.since >= 0 {
		l.cut = append(l.cut, span{l.since, at})
		l.since = -1
	}
}

// close ends what had not ended, and sums up.
func (l *link) close(broken spans) {
	if l.begun {
		l.back(forever)
		l.join(forever)
	}
	l.cut = append(l.cut, l.away...).merged()
	l.lost = append(slices.Clone(broken), l.away...).merged()
	l.late = append(slices.Clone(broken), l.cut...).merged()
}

// returned is the end of the last time up to a moment that the device was not connected or away; 0 if there was none.
func (l *link) returned(moment int64) int64 {
	if i := l.cut.after(moment + 1); i > 0 {
		return l.cut[i-1].to
	}
	return 0
}

// seconds writes a moment or a duration for people.
func seconds(us int64) string {
	switch {
	case us == forever:
		return "the end"
	case us < 1_000_000:
		return fmt.Sprintf("%.1f ms", float64(us)/1e3)
	}
	return fmt.Sprintf("%.2f s", float64(us)/1e6)
}
