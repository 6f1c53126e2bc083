package push

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/shared/problem"
)

const (
	// openMost is how many sessions open at once, and turnWait how long a client that has said hello waits for its turn.
	// On 2 cores 2,000 clients that come at once are all welcome in under a second; more at once would only wait in the
	// queues of auth, Redis and archive, until everybody's time is over.
	openMost = 128
	turnWait = 3 * time.Second
	// arrivalsMost is how many connections may be there without a session.
	arrivalsMost = 4096
)

// gate bounds what clients that come cost a node, so that a storm of them neither drowns it nor delays those that are
// here. Who has to come again is told so at once, or within turnWait.
type gate struct {
	most     int64
	patience time.Duration
	arrivals atomic.Int64  // connections without a session
	turns    chan struct{} // holds one element for each session that opens
}

func newGate(arrivals int64, opens int, patience time.Duration) *gate {
	return &gate{most: arrivals, patience: patience, turns: make(chan struct{}, opens)}
}

// arrive lets a connection in; who was let in has to call settle.
func (g *gate) arrive() error {
	if g.arrivals.Add(1) > g.most {
		g.arrivals.Add(-1)
		return problem.New(problem.Unavailable, "too many clients connect to this node at once; try again in a moment")
	}
	return nil
}

// settle notes that a connection has its session, or will never have one.
func (g *gate) settle() { g.arrivals.Add(-1) }

// turn waits until one more session may open; done ends that.
func (g *gate) turn(ctx context.Context) (done func(), err error) {
	limit := time.NewTimer(g.patience)
	defer limit.Stop()
	select {
	case g.turns <- struct{}{}:
		return func() { <-g.turns }, nil
	case <-limit.C:
	case <-ctx.Done():
	}
	return nil, problem.New(problem.Busy, "too many sessions open on this node at once; connect again in a moment")
}
