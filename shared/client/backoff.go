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
	round int // attempts with the same limit; 0 is 1
	tries int // pauses since the beginning or reset
}

func (b *backoff) next() time.Duration {
	limit := b.limit()
	b.tries++
	return rand.N(limit) //nolint:gosec // nobody gains by guessing it
}

// limit is what the next pause is below.
func (b *backoff) limit() time.Duration {
	limit := backoffLeast
	for n := b.tries / max(b.round, 1); n > 0 && limit < b.most; n-- {
		limit *= 2
	}
	return min(limit, b.most)
}

func (b *backoff) reset() { b.tries = 0 }

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
