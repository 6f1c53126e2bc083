package push

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// shards is how many locks the hub's map is spread over (centrifuge's hub has 64 as well).
	shards = 64
	// recentMost and recentBytes are how many of the last items, and bytes of them, a node keeps of each shared address.
	recentMost  = 256
	recentBytes = 1 << 20
)

// hub knows which sessions of this node hold an address.
type hub struct {
	seed       maphash.Seed
	generation atomic.Uint64 // of the last mailbox that began
	users      atomic.Int64  // that have a mailbox here
	shards     [shards]shard
}

type shard struct {
	mu        sync.RWMutex // protects the map and each mailbox's lanes
	mailboxes map[subject.Address]*mailbox
}

// mailbox is an address that sessions of this node hold.
type mailbox struct {
	to         subject.Address
	generation uint64             // of the route; a later mailbox of the address has a higher one
	lanes      map[*lane]struct{} // protected by the shard

	mu         sync.Mutex // protects everything below
	routed     time.Time  // when the route was written, or known to be lost
	written    bool       // Redis has the route, as far as this node knows
	compared   time.Time  // when the head was last compared with the archive
	head       uint64     // highest sequence that came by
	empty      bool       // the archive had nothing when it was asked, and nothing came since
	recent     []item     // of a shared address: the last items, without holes
	recentSize int        // bytes of recent
}

func newHub() *hub {
	h := &hub{seed: maphash.MakeSeed()}
	for i := range h.shards {
		h.shards[i].mailboxes = make(map[subject.Address]*mailbox)
	}
	return h
}

func (h *hub) shard(to subject.Address) *shard {
	return &h.shards[maphash.Comparable(h.seed, to)%shards]
}

// join adds a lane, which nobody else has yet, and returns its mailbox. The lane learns what the mailbox knows of the
// head: nobody will tell it again.
func (h *hub) join(l *lane) *mailbox {
	s := h.shard(l.to)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mailboxes[l.to]
	if m == nil {
		m = &mailbox{to: l.to, generation: h.generation.Add(1), lanes: make(map[*lane]struct{}, 1), compared: time.Now()}
		s.mailboxes[l.to] = m
		if l.to.Kind == subject.User {
			h.users.Add(1)
		}
	}
	l.head = m.known()
	m.lanes[l] = struct{}{}
	return m
}

// leave removes a lane. When it was the last one the mailbox is gone and its route may go: last is its registration.
func (h *hub) leave(l *lane) (last *route.Registration) {
	s := h.shard(l.to)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mailboxes[l.to]
	if m == nil {
		return nil
	}
	delete(m.lanes, l)
	if len(m.lanes) > 0 {
		return nil
	}
	delete(s.mailboxes, l.to)
	if l.to.Kind == subject.User {
		h.users.Add(-1)
	}
	return &route.Registration{Address: l.to, Generation: m.generation}
}

// deliver gives an item to every session of the address; without any it does nothing.
func (h *hub) deliver(to subject.Address, it item) {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.mailboxes[to]
	if m == nil {
		return
	}
	m.note(it)
	for l := range m.lanes {
		l.session.offer(l, it)
	}
}

// holds says whether a session of this node has the address: frames for all nodes are mostly for others.
func (h *hub) holds(to subject.Address) bool {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mailboxes[to] != nil
}

// session finds the session of a device, which has joined with its user's mailbox; of two, one that is replaced just now,
// the later one.
func (h *hub) session(user subject.Address, device string) (found *session) {
	s := h.shard(user)
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.mailboxes[user]
	if m == nil {
		return nil
	}
	for l := range m.lanes {
		if l.session.user == user && l.session.device == device && (found == nil || l.session.id > found.id) {
			found = l.session
		}
	}
	return found
}

// spread gives a page of a shared address to every session that waits for it.
func (h *hub) spread(to subject.Address, items []item, head uint64) {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.mailboxes[to]; m != nil {
		for l := range m.lanes {
			l.session.offerPage(l, items, head)
		}
	}
}

// observe tells the sessions of an address that sequences up to head exist, if that is news to this node.
func (h *hub) observe(to subject.Address, head uint64) {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.mailboxes[to]
	if m == nil || !m.raise(head) {
		return
	}
	for l := range m.lanes {
		l.session.observe(l, head)
	}
}

// recent returns the last items of a shared address from after+1 on, or nil if this node does not have that one.
func (h *hub) recent(to subject.Address, after uint64) []item {
	s := h.shard(to)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.mailboxes[to]; m != nil {
		return m.since(after)
	}
	return nil
}

// each calls fn for every mailbox of one shard, as it was at the start of the call.
func (h *hub) each(i int, fn func(*mailbox)) {
	s := &h.shards[i]
	s.mu.RLock()
	all := make([]*mailbox, 0, len(s.mailboxes))
	for _, m := range s.mailboxes {
		all = append(all, m)
	}
	s.mu.RUnlock()
	for _, m := range all {
		fn(m)
	}
}

// note remembers that an item came by.
func (m *mailbox) note(it item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.head, m.empty = max(m.head, it.to), false
	if m.to.Kind == subject.User {
		return
	}
	if n := len(m.recent); n > 0 && m.recent[n-1].to+1 != it.from {
		if it.from <= m.recent[n-1].to {
			return // seen before
		}
		m.recent, m.recentSize = nil, 0 // a hole: what is before it is of no use to anyone who reads on
	}
	if len(m.recent) == recentMost || m.recentSize+len(it.object) > recentBytes {
		m.recent = append(make([]item, 0, recentMost), m.recent[(len(m.recent)+1)/2:]...)
		m.recentSize = 0
		for _, kept := range m.recent {
			m.recentSize += len(kept.object)
		}
	}
	m.recent = append(m.recent, it)
	m.recentSize += len(it.object)
}

// known is the highest sequence that came by.
func (m *mailbox) known() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head
}

// raise notes a head and says whether it is news.
func (m *mailbox) raise(head uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if head <= m.head {
		return false
	}
	m.head, m.empty = head, false
	return true
}

func (m *mailbox) since(after uint64) []item {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, it := range m.recent {
		if it.from <= after+1 && it.to > after {
			return m.recent[i:]
		}
	}
	return nil
}

// setRouted notes that the route was written, or that it is lost; at is when the writing began, so that a route whose
// loss was noticed meanwhile counts as lost.
func (m *mailbox) setRouted(at time.Time, written bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !at.Before(m.routed) {
		m.routed, m.written = at, written
	}
}

// needsRoute says whether the route has to be written: it is not in Redis, or will soon have been there for its life.
func (m *mailbox) needsRoute(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.written || now.Sub(m.routed) > route.TTL/4
}
