package push

import (
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// controlMost bounds the control objects (pongs, errors) that wait for a client that does not read. Messages are
	// bounded by the window.
	controlMost = 256
	// windowFloor is what the smallest object counts in the window, in bytes: gaps are acknowledged like messages.
	windowFloor = 64
	// endMost is how long a session that ends may take for its last words and its client's answer to them.
	endMost = 2 * time.Second
)

// transport is the way to one client. It knows nothing of sequences; the session knows nothing of sockets. One goroutine at
// a time calls Write, Ask and Close, from the session's beginning on.
type transport interface {
	// Write writes objects in order and returns when the transport took them all. A slow client makes it wait, at
	// most for the transport's own deadline.
	Write(objects [][]byte) error
	// Close ends the connection, telling the client the code. It is called once, after the last Write.
	Close(code protocol.CloseCode, reason string)
	// Ask asks the client for an answer that it can't have given before; the session's echo is called with the number
	// when it comes. It waits like Write. A mute client is not asked.
	Ask(number uint32) error
	// Cut ends the connection at once, without a word; whatever waits in it fails. It may be called at any time, and is
	// called again until the session has ended.
	Cut()
}

// session is one connection of one device: its lanes, its window, its outbox. Messages enter through offer, from the
// goroutines of the NATS subscriptions and of the fill workers; they leave through drain.
type session struct {
	id     string
	user   subject.Address
	device string
	node   *Service
	out    transport
	client unique.Handle[string] // what the client calls itself: most share a few names

	mu        sync.Mutex // protects everything below, the lanes included
	who       *identity.Identity
	lanes     []*lane // few: a slice is smaller than a map, and looking through it no slower
	outbox    [][]byte
	control   int  // control objects in the outbox
	queued    int  // bytes in the outbox and with the writer
	going     int  // the part of them that the writer has
	held      int  // bytes that the lanes hold ahead
	draining  bool // a drain goroutine runs
	mute      bool // the client can't answer: what was written counts as heard. Set before the session begins
	unacked   int  // bytes sent and not acknowledged, over all lanes
	fullSince time.Time
	heard     time.Time // when the client last sent anything
	pinged    time.Time
	end       *ending // set once; nothing is accepted after it
	begun     bool    // the client was welcomed

	asked, echoed, vouched uint32    // the pauses of the node after which the client was asked, answered, was found to be here
	owed                   bool      // the question after a pause is yet to be written
	examined               time.Time // when Redis last had this session for its device, or was given it; the keeper's
}

// ending is why a session ends.
type ending struct {
	code   protocol.CloseCode
	reason string
	why    *problem.Problem // nil where there is nothing to say
	at     time.Time
}

// cause is why the session has ended, for who wanted something of it.
func (e *ending) cause() error {
	if e.why == nil {
		return problem.New(problem.Unavailable, "the session has ended; connect again")
	}
	return e.why
}

// offer gives a live item to one lane. It never waits: what can't be sent now is read from the archive later.
func (s *session) offer(l *lane, it item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return
	}
	l.take(it)
	s.shed()
	s.fill(l)
}

// observe tells a lane that sequences up to head exist.
func (s *session) observe(l *lane, head uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.head = max(l.head, head)
	s.fill(l)
}

// fill puts a lane with a hole into the fill queue, unless the window has refused something since the last
// acknowledgement: what would be read could not be sent.
func (s *session) fill(l *lane) {
	if l.filling || l.faulted || s.end != nil || !s.fullSince.IsZero() {
		return
	}
	if _, _, ok := l.missing(); ok {
		l.filling = true
		s.node.fills.push(l)
	}
}

// admit takes size bytes of the window. The window always admits one object, however large.
func (s *session) admit(size int) bool {
	if s.unacked > 0 && s.unacked+size > s.node.cfg.Window {
		if s.fullSince.IsZero() {
			s.fullSince = time.Now()
		}
		return false
	}
	s.unacked += size
	return true
}

// room says whether a lane may hold size bytes more: what a session keeps in memory for a client that does not read is
// its window, or one message.
func (s *session) room(size int) bool { return s.queued+s.held+size <= s.node.cfg.Window }

// shed lets go of what lanes hold until that is true again; they will read it from the archive.
func (s *session) shed() {
	for _, l := range s.lanes {
		if s.room(0) {
			return
		}
		l.forget()
	}
}

// write puts an object into the outbox and sees to it that somebody writes it.
func (s *session) write(object []byte) {
	s.outbox = append(s.outbox, object)
	s.queued += len(object)
	s.wake()
}

// say sends a control object.
func (s *session) say(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sayLocked(object(v))
}

func (s *session) sayLocked(object []byte) {
	if s.end != nil {
		return
	}
	if s.control++; s.control > controlMost {
		s.finishLocked(protocol.CloseSlow, problem.New(problem.TooSlow, "%d answers wait to be read; read them or ask less", controlMost))
		return
	}
	s.write(object)
}

// wake starts the writer unless it runs. There is none while a session is idle: that halves the memory of an idle
// connection (design section 9).
func (s *session) wake() {
	if !s.draining {
		s.draining = true
		s.node.tasks.Go(s.drain)
	}
}

// drain writes the outbox until it is empty, then what the session ends with, if it ends. After a pause of the node it
// asks the client first and leaves the outbox for later.
func (s *session) drain() {
	for {
		batch, ask, end := s.turn()
		var err error
		switch {
		case ask > 0:
			err = s.out.Ask(ask)
		case len(batch) > 0:
			err = s.out.Write(batch)
		case end != nil:
			s.out.Close(end.code, end.reason)
			return
		default:
			return
		}
		if err != nil {
			s.finish(protocol.CloseSlow, nil)
		}
	}
}

// turn takes what the writer has to do next: objects to write, or a question to ask; neither when it is to stop.
func (s *session) turn() (batch [][]byte, ask uint32, end *ending) {
	now := s.node.pulse.check()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute && s.going > 0 {
		s.heard = time.Now()
	}
	s.queued -= s.going // it has been written
	s.going = 0
	if s.end == nil && s.doubtful(now) {
		if s.owed {
			s.owed = false
			return nil, s.asked, nil
		}
		s.draining = false
		return nil, 0, nil
	}
	batch = s.outbox
	if s.end == nil {
		s.node.counts.sent.Add(uint64(len(batch) - s.control)) //nolint:gosec // control objects are in the batch
	}
	s.outbox, s.control, s.going = nil, 0, s.queued
	s.draining = len(batch) > 0
	return batch, 0, s.end
}

// ack handles an acknowledgement of the client: everything of ch up to seq has been handled. A topic that the session
// does not have ends nothing: the client may have sent it before it knew that the topic was gone.
func (s *session) ack(ch string, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, why := s.acknowledged(ch, seq)
	switch {
	case why == nil:
		s.raise(l, seq)
		return nil
	case why.Code == problem.NotSubscribed && strings.HasPrefix(ch, string(subject.Topic)+":"):
		s.sayLocked(object(protocol.Error{T: protocol.TError, Problem: *why}))
		return nil
	}
	return why
}

// ackAll handles acknowledgements that come beside the session: all, or after an error none of them.
func (s *session) ackAll(acks []protocol.Ack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		return problem.New(problem.Unavailable, "a new session of the device %q is just opening; try again in a moment", s.device)
	}
	for _, a := range acks {
		if _, why := s.acknowledged(a.Ch, a.Seq); why != nil {
			return why
		}
	}
	for _, a := range acks {
		s.raise(s.lane(a.Ch), a.Seq)
	}
	return nil
}

// acknowledged is the lane of an acknowledgement that can be taken.
func (s *session) acknowledged(ch string, seq uint64) (*lane, *problem.Problem) {
	l := s.lane(ch)
	switch {
	case l == nil || l.next == 0:
		return nil, problem.New(problem.NotSubscribed, "this session does not have the address %q", ch).In("ch")
	case seq >= l.next:
		return nil, problem.New(problem.AckAhead, "sequence %d of %s was acknowledged, but only %d were sent", seq, l.to, l.next-1).In("seq")
	}
	return l, nil
}

// raise raises the cursor of a lane, unless it is there already.
func (s *session) raise(l *lane, seq uint64) {
	if seq > l.acked {
		s.node.counts.acked.Add(1)
		s.node.acks.add(s.user, s.device, l.to, seq)
		s.free(l.ack(seq))
	}
}

// settled says whether the device's next session begins behind seq of an address by itself: it was acknowledged, and that
// was handed over.
func (s *session) settled(ch string, seq uint64) bool {
	s.mu.Lock()
	l := s.lane(ch)
	acked := l != nil && l.acked >= seq
	s.mu.Unlock()
	return acked && len(s.node.acks.waiting(s.user, s.device, []subject.Address{l.to})) == 0
}

// free gives room in the window back, to any lane that waits for some.
func (s *session) free(size int) {
	s.unacked -= size
	s.fullSince = time.Time{}
	if s.end != nil {
		return
	}
	for _, l := range s.lanes {
		l.flush()
	}
	s.shed()
	for _, l := range s.lanes {
		s.fill(l)
	}
}

// lane finds the lane of an address as the wire writes it; the empty string is the user's own mailbox.
func (s *session) lane(ch string) *lane {
	if ch == "" {
		ch = s.user.String()
	}
	for _, l := range s.lanes {
		if l.to.String() == ch {
			return l
		}
	}
	return nil
}

// hear notes that the client is alive.
func (s *session) hear() {
	s.mu.Lock()
	s.heard = time.Now()
	s.mu.Unlock()
}

// tick is called about eight times a heartbeat: it pings, ends what is silent, slow or expired, cuts what does not end,
// and tries failed fills again.
func (s *session) tick(now time.Time) {
	if s.judge(now, s.node.pulse.check()) {
		s.out.Cut()
	}
}

// judge says whether the connection has to be cut: its client does not take the last words. One that was silent and
// does not take what is written either is gone.
func (s *session) judge(now time.Time, b *beat) (cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil && s.begun {
		stuck := s.draining
		s.supervise(now, b)
		return stuck && s.end != nil && s.end.silent()
	}
	return s.end != nil && s.begun && (s.end.silent() || now.Sub(s.end.at) > endMost)
}

func (e *ending) silent() bool { return e.reason == string(problem.Silent) }

// supervise does for an open session what tick says.
func (s *session) supervise(now time.Time, b *beat) {
	beat := s.node.cfg.Heartbeat
	doubtful := s.doubtful(b)
	if s.owed {
		s.wake()
	}
	switch silent := now.Sub(s.heard); {
	case s.who.Expired(now):
		s.finishLocked(protocol.CloseToken, problem.New(problem.TokenExpired, "the token has expired; connect with a fresh one"))
		return
	case silent > 2*beat, doubtful && now.Sub(b.woke) > 2*beat:
		s.finishLocked(protocol.CloseSlow, problem.New(problem.Silent, "nothing was heard for two heartbeats of %s", beat))
		return
	case !s.fullSince.IsZero() && now.Sub(s.fullSince) > s.node.cfg.SlowAfter:
		s.finishLocked(protocol.CloseSlow, problem.New(problem.TooSlow, "nothing of %d unacknowledged bytes was acknowledged for %s", s.unacked, s.node.cfg.SlowAfter))
		return
	case silent > beat && now.Sub(s.pinged) > beat:
		s.pinged = now
		s.sayLocked(ping)
	}
	for _, l := range s.lanes {
		l.faulted = false
		s.fill(l)
	}
}

// finish ends the session: the client is told the problem, if there is one, then the close code. What waits in the
// outbox is dropped: it was not acknowledged, so it will come again. A session that has not begun writes nothing: begin
// fails with the problem.
func (s *session) finish(code protocol.CloseCode, why *problem.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(code, why)
}

func (s *session) finishLocked(code protocol.CloseCode, why *problem.Problem) {
	if s.end != nil {
		return
	}
	s.end = &ending{code: code, why: why, at: time.Now()}
	s.outbox, s.queued = nil, s.going
	if !s.begun {
		return
	}
	if why != nil {
		s.end.reason = string(why.Code)
		s.outbox = [][]byte{object(protocol.Error{T: protocol.TError, Problem: *why})}
	}
	s.wake()
}
