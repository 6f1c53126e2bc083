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
	limit := time.NewTimer(n.cfg.Drain + drainGrace)
	defer limit.Stop()
	n.depart(time.Now().Add(n.cfg.Drain))
	asked := n.all()
	n.log.Info("draining", "sessions", len(asked), "within", n.cfg.Drain)
	for _, s := range asked {
		s.askToLeave()
	}
	select {
	case <-n.emptied:
		return nil
	case <-ctx.Done():
	case <-limit.C:
	}
	return fmt.Errorf("push: %d of %d sessions have not left; they are closed", len(n.all()), len(asked))
}

// depart lets no session open from here on. Sessions that are opening are told in their welcome's company.
func (n *Service) depart(until time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.until.Store(until.UnixMilli())
	n.noteEmpty()
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
