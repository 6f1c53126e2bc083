package push

import (
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// pauseMost is how long a node may not have run before it counts as paused: others may have taken its devices over
// meanwhile. It is half the lease, and many times what a busy machine lets a goroutine wait.
const pauseMost = 5 * time.Second

// pulse finds out that this process did not run for a while: it was stopped, or its machine was suspended. Whoever is
// about to write or to report presence asks it first, so that nothing goes out between waking and the next tick.
type pulse struct {
	clock func() (wall time.Time, ran time.Duration)
	last  atomic.Pointer[beat] // replaced by whoever looks; read by everybody
}

// beat is what was seen when the process was last known to run.
type beat struct {
	wall   time.Time
	ran    time.Duration // on the monotonic clock, which stands still while some machines are suspended
	pauses uint32        // how often the process was found to have been paused
	woke   time.Time     // when it was found out last
}

func newPulse() *pulse {
	start := time.Now()
	p := &pulse{clock: func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(start)
	}}
	p.last.Store(&beat{wall: start.Round(0)})
	return p
}

// check is the state now: with one more pause if this is the first look after one.
func (p *pulse) check() *beat { return p.look(false) }

// tick is check for the one who calls it about every second: the process runs.
func (p *pulse) tick() *beat { return p.look(true) }

func (p *pulse) look(ticks bool) *beat {
	for {
		last := p.last.Load()
		wall, ran := p.clock()
		paused := max(wall.Sub(last.wall), ran-last.ran) > pauseMost // either clock may have stood still or been set back
		if !paused && !ticks {
			return last
		}
		now := &beat{wall: wall, ran: ran, pauses: last.pauses, woke: last.woke}
		if paused {
			now.pauses++
			now.woke = time.Now()
		}
		if p.last.CompareAndSwap(last, now) {
			return now
		}
	}
}

// doubtful says whether the session may not write to its client yet: the node was paused, and since then the client
// has not answered or the keeper has not looked whether the device is still here. At the first call after a pause the
// client is owed a question, and has a heartbeat to answer it: what it said meanwhile was not heard. A mute client is not
// asked; its session ends once its device was looked for.
func (s *session) doubtful(b *beat) bool {
	if s.asked < b.pauses {
		s.asked, s.owed = b.pauses, !s.mute
		if least := b.woke.Add(-s.node.cfg.Heartbeat); s.heard.Before(least) {
			s.heard = least
		}
		if !s.fullSince.IsZero() {
			s.fullSince = b.woke
		}
	}
	return s.echoed < b.pauses || s.vouched < b.pauses
}

// echo notes that the client answered the question after a pause; what it sent before may have waited in the socket.
func (s *session) echo(pause uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.echoed = max(s.echoed, min(pause, s.asked))
	s.release()
}

// vouch notes that nobody else had the device after a pause, as far as the keeper could find out. A client that can't
// say that it is still there is sent away, to connect again from where it is.
func (s *session) vouch(pause uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vouched = max(s.vouched, pause)
	if s.mute && s.echoed < pause {
		s.finishLocked(protocol.CloseDraining, problem.New(problem.Unavailable, "this node was paused, and can't ask whether this client is still here; connect again"))
		return
	}
	s.release()
}

// release lets the writer go on with what was held back, if it may.
func (s *session) release() {
	if len(s.outbox) > 0 {
		s.wake()
	}
}
