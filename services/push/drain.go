package push

import (
	"context"
	"fmt"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// drainGrace is how much longer than it was told a client may take to leave.
const drainGrace = 2 * time.Second

// Drain implements service.Drainer: it refuses new connections, asks every client to connect elsewhere at a random
// moment within the configured time, and serves those that are still here until all have left or that time and 2 s are
// over. With 10 s no second sees more than some tenth of them leave. It needs neither NATS nor Redis to end.
func (n *Service) Drain(ctx context.Context) error {
	if n.cfg.Drain == 0 {
		return nil
	}
	asked := n.askAllToLeave()
	if len(n.all()) == 0 {
		return nil
	}
	limit := time.NewTimer(time.Until(time.UnixMilli(n.until.Load()).Add(drainGrace)))
	defer limit.Stop()
	select {
	case <-n.emptied:
		return nil
	case <-ctx.Done():
	case <-limit.C:
	}
	return fmt.Errorf("push: %d of %d sessions have not left; they are closed", len(n.all()), asked)
}

// drainForGood does the same for an operator, and returns how many sessions were asked: the process stays, and takes no
// session any more; who has not left in time is closed. Asking twice changes nothing.
func (n *Service) drainForGood() (asked int) {
	if n.Refuses() {
		return len(n.all())
	}
	asked = n.askAllToLeave()
	n.tasks.Go(func() {
		limit := time.NewTimer(n.cfg.Drain + drainGrace)
		defer limit.Stop()
		select {
		case <-n.emptied: // also when Run ends
		case <-limit.C:
			n.closeAll()
		}
	})
	return asked
}

// askAllToLeave lets no session open from here on and asks those that are open, unless that has been done, and returns how
// many there are.
func (n *Service) askAllToLeave() int {
	first := n.depart(time.Now().Add(n.cfg.Drain))
	asked := n.all()
	if first {
		n.log.Info("draining", "sessions", len(asked), "within", n.cfg.Drain)
		for _, s := range asked {
			s.askToLeave()
		}
	}
	return len(asked)
}

// Refuses implements service.Refuser: the node drains, or has.
func (n *Service) Refuses() bool { return n.until.Load() != 0 }

// depart lets no session open from here on, and says whether it is the first to do so. Sessions that are opening are told
// in their welcome's company.
func (n *Service) depart(until time.Time) (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if first = n.until.CompareAndSwap(0, until.UnixMilli()); first {
		n.noteEmpty()
	}
	return first
}

// noteEmpty tells Drain that the last session has left. n.mu is held.
func (n *Service) noteEmpty() {
	if n.until.Load() != 0 && len(n.sessions) == 0 {
		n.empty()
	}
}

// askToLeave tells a client to connect elsewhere; one that is not welcome yet hears it behind its welcome.
func (s *session) askToLeave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		s.sayDrain()
	}
}

// sayDrain does that with what is left of the time.
func (s *session) sayDrain() {
	if until := s.node.until.Load(); until != 0 {
		within := max(until-time.Now().UnixMilli(), 0)
		s.sayLocked(object(protocol.Drain{T: protocol.TDrain, Within: within}))
	}
}

// leaving is what a client is told that comes to a node which goes away.
func leaving() *problem.Problem {
	return problem.New(problem.Draining, "this node is going away; connect again")
}
