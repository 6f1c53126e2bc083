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
// it is written it once more, whether it was sent before or not. What is written keeps the frame's order in each session: a
// session that has no room for one of an address gets none of those behind it either. It waits for no client.
func (n *Service) takeReplay(frame *nats.Msg) {
	entries, err := message.DecodeEntries(frame.Data)
	if err != nil {
		n.faults.Note("read a replay", err)
		n.refuse(frame, problem.New(problem.BadRequest, "the frame can't be read: %v", err))
		return
	}
	now := time.Now()
	answer := node.Replayed{Fates: make([]node.Fate, len(entries))}
	full := make(map[*lane]bool)
	for i, e := range entries {
		answer.Fates[i] = node.FateAway
		if !n.hub.holds(e.To) || e.Message == nil || message.EntryOf(e.Message, now).Message == nil {
			continue // nobody has it here, or it has expired and is not shown any more
		}
		answer.Fates[i] = n.hub.replay(e.To, newItem(e.To, e.Entry), full)
	}
	n.reply(frame, object(answer))
}

// replay gives an item to every session of its address once more and returns the best of what became of it. full are lanes
// that had no room for an earlier item of the same frame. What this node knows of the mailbox does not change.
func (h *hub) replay(to subject.Address, it item, full map[*lane]bool) node.Fate {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	best := node.FateAway
	if m := s.mailboxes[to]; m != nil {
		for l := range m.lanes {
			switch fate := l.session.replay(l, it, full); {
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
func (s *session) replay(l *lane, it item, full map[*lane]bool) node.Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.end != nil || l.next == 0 || it.to <= l.acked:
		return node.FateAway
	case full[l]:
		return node.FateFull
	case it.to >= l.next: // it was not sent before: its turn comes as ever
		l.take(it)
		s.shed()
		s.fill(l)
		if it.to < l.next {
			return node.FateSent
		}
	case s.queued+s.held == 0 || s.room(len(it.object)):
		s.write(it.object)
		return node.FateSent
	}
	full[l] = true
	return node.FateFull
}
