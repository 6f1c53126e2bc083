package client

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoffLeast is the limit of the first pause.
const backoffLeast = 250 * time.Millisecond

// backoff spreads attempts: each pause is random between 0 and a limit that doubles from 250 ms to most. Full jitter
// keeps the devices of a node that died from coming back together.
type backoff struct {
	most  time.Duration
	limit time.Duration // of the last pause; 0 before the first
}

func (b *backoff) next() time.Duration {
	b.limit = min(max(2*b.limit, backoffLeast), b.most)
	return rand.N(b.limit) //nolint:gosec // nobody gains by guessing it
}

func (b *backoff) reset() { b.limit = 0 }

// wait waits for d or the end of ctx, and returns ctx's error then.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
