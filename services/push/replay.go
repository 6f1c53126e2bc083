package push

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// takeReplay does with each message of a frame what an operator's replay asks: who has its address and has not acknowledged
// it is written it once more, whether it was sent before or not. What is written keeps the order of the replay in each session: one
// that has no room for a message gets none of those behind it either, in this frame or a later one. It waits for no client.
func (n *Service) takeReplay(frame *nats.Msg) {
	entries, err := message.DecodeEntries(frame.Data)
	if err != nil {
		n.faults.Note("read a replay", err)
		n.refuse(frame, problem.New(problem.BadRequest, "the frame can't be read: %v", err))
		return
	}
	now, run := time.Now(), frame.Header.Get(node.HeaderReplay)
	answer := node.Replayed{Fates: make([]node.Fate, len(entries))}
	for i, e := range entries {
		answer.Fates[i] = node.FateAway
		if !n.hub.holds(e.To) || e.Message == nil || message.EntryOf(e.Message, now).Message == nil {
			continue // nobody has it here, or it has expired and is not shown any more
		}
		answer.Fates[i] = n.hub.replay(e.To, newItem(e.To, e.Entry), run)
	}
	n.reply(frame, object(answer))
}

// roomWithin is how long a replay waits for a session that has no room: a client that reads, or acknowledges, makes some
// sooner.
const roomWithin = time.Second

// repetition is what a lane knows of the replay that came to it last.
type repetition struct {
	run  string
	from uint64 // what had not been sent when it came: it is sent once, as ever, and not again
	upTo uint64 // what was sent again: once, also when the replay does not hear of it and asks anew
	// passed is where there was no room; nothing behind it is sent again before it. A client may acknowledge as it handles, and
	// would acknowledge what it was not sent again.
	passed uint64
	since  time.Time // when there was no room for it first
}

// replay gives an item to every session of its address once more and returns the best of what became of it. What this node
// knows of the mailbox does not change.
func (h *hub) replay(to subject.Address, it item, run string) node.Fate {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	best := node.FateAway
	if m := s.mailboxes[to]; m != nil {
		for l := range m.lanes {
			switch fate := l.session.replay(l, it, run); {
			case fate == node.FateSent, best == node.FateAway:
				best = fate
			}
		}
	}
	return best
}

// replay writes an item once more if the client has not acknowledged it. One that was sent before takes no room in the
// window again, and the lane stays where it is. But what waits to be written is bounded as ever, so a client that does not
// read is not sent it.
func (s *session) replay(l *lane, it item, run string) node.Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil || l.next == 0 || it.to <= l.acked {
		return node.FateAway
	}
	if l.again == nil || l.again.run != run {
		l.again = &repetition{run: run, from: l.next}
	}
	switch r := l.again; {
	case it.to >= r.from:
		if it.to >= l.next {
			l.take(it)
			s.shed()
			s.fill(l)
		}
		if it.to >= l.next {
			return fullFor(s.fullSince)
		}
	case it.to <= r.upTo:
	case l.acked < r.passed && r.passed < it.to:
		return fullFor(r.since)
	case s.queued+s.held > 0 && !s.room(len(it.object)):
		if r.passed != it.to {
			r.passed, r.since = it.to, time.Now()
		}
		return fullFor(r.since)
	default:
		r.passed, r.upTo = 0, it.to
		s.write(it.object)
	}
	return node.FateSent
}

// fullFor is the fate of a message for which there has been no room since then, or, where that is zero, for a moment.
func fullFor(since time.Time) node.Fate {
	if !since.IsZero() && time.Since(since) > roomWithin {
		return node.FateAway
	}
	return node.FateFull
}
