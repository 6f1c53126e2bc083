package load

import (
	"context"
	"sync"
	"time"
)

// burst is how many operations may begin at once after nothing began for a while.
const burst = 10

// pace lets operations begin, so many a second in all, in the order in which they ask.
type pace struct {
	every time.Duration // 0 for no limit

	mu   sync.Mutex // protects next
	next time.Time  // when the next one may begin
}

// newPace makes a pace of so many a second; 0 for no limit.
func newPace(rate float64) *pace {
	p := new(pace)
	if rate > 0 {
		p.every = time.Duration(float64(time.Second) / rate)
	}
	return p
}

// wait waits for its turn or the end of ctx, and returns ctx's error then. A turn that was not taken is lost.
func (p *pace) wait(ctx context.Context) error {
	now := time.Now()
	p.mu.Lock()
	if least := now.Add(-burst * p.every); p.next.Before(least) {
		p.next = least
	}
	turn := p.next
	p.next = turn.Add(p.every)
	p.mu.Unlock()
	return wait(ctx, turn.Sub(now))
}

// wait waits for d or the end of ctx, and returns ctx's error then.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
