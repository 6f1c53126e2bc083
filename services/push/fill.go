package push

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// fillers is how many mailboxes a node reads at once: enough to hide the round trip, few enough not to drown the
	// archive when thousands of clients come back together.
	fillers = 16
	// readTimeout is how long a page may take.
	readTimeout = 2 * time.Second
	// sharedPage is the size of a page of a shared address, in bytes: the same for all sessions, so that one read
	// serves those that miss the same range.
	sharedPage = 64 << 10
)

// A page for one session is as large as the room in its window, and a quarter of the window at least: what does not fit
// is held, so that a client that acknowledges each message by itself does not cost a read each.

// fillQueue holds the lanes that wait to be filled, each at most once (lane.filling says so). push never waits.
type fillQueue struct {
	mu      sync.Mutex // protects lanes
	lanes   []*lane
	waiting chan struct{} // has room for one: a lane may be there
}

func newFillQueue() *fillQueue { return &fillQueue{waiting: make(chan struct{}, 1)} }

func (q *fillQueue) push(l *lane) {
	q.mu.Lock()
	q.lanes = append(q.lanes, l)
	q.mu.Unlock()
	q.signal()
}

func (q *fillQueue) signal() {
	select {
	case q.waiting <- struct{}{}:
	default:
	}
}

// pop waits for a lane; nil when ctx has ended.
func (q *fillQueue) pop(ctx context.Context) *lane {
	for {
		q.mu.Lock()
		if len(q.lanes) > 0 {
			l := q.lanes[0]
			q.lanes = q.lanes[1:]
			more := len(q.lanes) > 0
			q.mu.Unlock()
			if more {
				q.signal() // another worker may go on
			}
			return l
		}
		q.lanes = nil
		q.mu.Unlock()
		select {
		case <-q.waiting:
		case <-ctx.Done():
			return nil
		}
	}
}

// fillLanes is one worker: it gives lanes what they miss, a page at a time, so that none waits long for another.
func (n *Service) fillLanes(ctx context.Context) error {
	for l := n.fills.pop(ctx); l != nil; l = n.fills.pop(ctx) {
		after, upTo, room, ok := l.session.reading(l)
		if !ok {
			continue
		}
		n.counts.filled.Add(1)
		items, head, err := n.page(ctx, l.to, after, upTo, room)
		if err != nil && ctx.Err() == nil {
			n.faults.Note("read a mailbox", err)
		}
		l.session.filled(l, after, items, head, err)
	}
	return nil
}

// reading says what a lane needs now; when that is nothing any more, the lane is out of the queue.
func (s *session) reading(l *lane) (after, upTo uint64, room int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, upTo, ok = l.missing()
	ok = ok && s.end == nil
	l.filling = ok
	window := s.node.cfg.Window
	return after, upTo, max(window-s.unacked, window/4), ok
}

// filled gives a lane what was read for it behind after. A read that failed or brought the lane nothing to send is
// tried again at the next tick, and no sooner.
func (s *session) filled(l *lane, after uint64, items []item, head uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.filling = false
	if s.end == nil {
		l.refill(items, head)
		s.shed()
	}
	l.faulted = err != nil || (l.next == after+1 && s.fullSince.IsZero())
	s.fill(l)
}

// offerPage gives a lane what was read for another session of its address.
func (s *session) offerPage(l *lane, items []item, head uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return
	}
	l.refill(items, head)
	s.shed()
	s.fill(l)
}

// page reads a part of a mailbox: from what this node remembers of a shared address, else from the archive, once for
// all sessions that miss the same range: those that wait for it are given it, too.
func (n *Service) page(ctx context.Context, to subject.Address, after, upTo uint64, room int) ([]item, uint64, error) {
	if to.Kind == subject.User {
		return n.read(ctx, to, after, upTo, room)
	}
	if items := n.hub.recent(to, after); items != nil {
		return items, items[len(items)-1].to, nil
	}
	type page struct {
		items []item
		head  uint64
	}
	v, err, _ := n.shared.Do(fmt.Sprintf("%s/%d", to.Tokens(), after), func() (any, error) {
		items, head, err := n.read(ctx, to, after, 0, sharedPage)
		n.hub.spread(to, items, head)
		return page{items, head}, err
	})
	if err != nil {
		return nil, 0, err
	}
	p := v.(page) //nolint:forcetypeassert // the function above returns nothing else
	return p.items, p.head, nil
}

func (n *Service) read(ctx context.Context, to subject.Address, after, upTo uint64, room int) ([]item, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	page, err := history.Read(ctx, n.nc, to, after, upTo, max(room, 1))
	if err != nil {
		return nil, 0, err
	}
	items := make([]item, len(page.Entries))
	for i, e := range page.Entries {
		items[i] = newItem(to, e)
	}
	return items, page.Head, nil
}
