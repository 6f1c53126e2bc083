package collect

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// settleEvery is how often a term looks for messages that asked for receipts and have expired.
	settleEvery = time.Second
	// settleGrace is how long acknowledgements may be under way: a node hands them over every 50 ms, and at once when it
	// has NATS again.
	settleGrace = 5 * time.Second
	// lapsedMost is how many messages are settled at once, and settlePages how many times so many in one look.
	lapsedMost  = 500
	settlePages = 20
)

// settle closes the receipts of messages that have expired, until ctx ends.
func (t *term) settle(ctx context.Context) error {
	reconnected := t.nc.StatusChanged(nats.CONNECTED)
	defer t.nc.RemoveStatusListener(reconnected)
	return t.settleNowAndThen(ctx, reconnected)
}

// settleNowAndThen waits at the beginning of a term, and after NATS was away: acknowledgements that came in time may be
// still on their way.
func (t *term) settleNowAndThen(ctx context.Context, reconnected <-chan nats.Status) error {
	look := time.NewTicker(settleEvery)
	defer look.Stop()
	from := time.Now().Add(settleGrace)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-reconnected:
			from = time.Now().Add(settleGrace)
		case now := <-look.C:
			if now.Before(from) {
				continue
			}
			if _, err := t.settleLapsed(ctx, now, 0); err != nil && ctx.Err() == nil {
				t.faults.Note("settle receipts", err)
			}
		}
	}
}

// settleDeleted settles what the purge of a moment will delete, and must come before it: afterwards nobody knows who
// asked.
func (t *term) settleDeleted(ctx context.Context, now time.Time) error {
	border := min(now.Add(-t.cfg.Policy.Retention).UnixMilli(), now.Add(-t.cfg.Policy.MinAge).UnixMilli()+1)
	for ctx.Err() == nil {
		if all, err := t.settleLapsed(ctx, now, border); all || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// settleLapsed settles, tells and closes messages that have expired or were archived before a time (ms since 1970), and
// says whether these were all. What fails on the way is done again, with the same receipts. In a partition where there
// are none it costs one look into an index.
func (t *term) settleLapsed(ctx context.Context, now time.Time, deleted int64) (all bool, err error) {
	some, err := t.lapsing(ctx, now.Add(-settleGrace).UnixMilli(), deleted, 1)
	if err != nil || len(some) == 0 {
		return err == nil, err
	}
	expired, err := t.surelyExpired(ctx, now)
	if err != nil {
		return false, err
	}
	for range settlePages {
		lapsed, err := t.lapsing(ctx, expired, deleted, lapsedMost)
		if err != nil || len(lapsed) == 0 {
			return err == nil, err
		}
		var states []archive.Settled
		for _, l := range lapsed {
			states = append(states, l.States...)
		}
		if err := t.settleAndTell(ctx, states); err != nil {
			return false, err
		}
		if err := t.withArchive(ctx, func(ctx context.Context) error { return t.archive.CloseAsked(ctx, lapsed) }); err != nil {
			return false, fmt.Errorf("close: %w", err)
		}
		if len(lapsed) < lapsedMost {
			return true, nil
		}
	}
	return false, nil
}

// surelyExpired is until when messages have expired (ms since 1970) without an acknowledgement being under way that came
// in time: one that waits in WEFT_ACK is not older than the oldest there, and nodes do not keep one for long.
func (t *term) surelyExpired(ctx context.Context, now time.Time) (int64, error) {
	until, err := t.reportedUntil(ctx, subject.AckAll, now)
	return until.Add(-settleGrace).UnixMilli(), err
}

func (t *term) lapsing(ctx context.Context, expired, deleted int64, limit int) ([]archive.Lapsed, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	lapsed, err := t.archive.Lapsed(ctx, t.partition, expired, deleted, limit)
	if err != nil {
		return nil, fmt.Errorf("look for what lapsed: %w", err)
	}
	return lapsed, nil
}
