package collect

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/service"
)

// purged is an archive that counts its purges.
type purged struct {
	archive.Archive
	times atomic.Int32
}

func (p *purged) Purge(context.Context, int, archive.Policy, time.Time) (int, error) {
	p.times.Add(1)
	return 0, nil
}

func (p *purged) Lapsed(context.Context, int, int64, int64, int) ([]archive.Lapsed, error) {
	return nil, nil
}

// A term purges a minute after its begin at the latest, so that a fabric whose terms are short purges, too.
func TestATermPurgesSoonAfterItsBegin(t *testing.T) {
	for every, want := range map[time.Duration][3]int32{ // after 59 s, after 61 s, and an hour later
		time.Hour:        {0, 1, 2},
		20 * time.Minute: {0, 1, 4},
		40 * time.Second: {1, 1, 91},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := slog.New(slog.DiscardHandler)
			a := new(purged)
			s := &Service{cfg: DefaultConfig(), log: log, faults: service.NewFaults(log), archive: a}
			s.cfg.PurgeEvery = every
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- (&term{Service: s}).purge(ctx) }()
			for i, d := range []time.Duration{59 * time.Second, 2 * time.Second, time.Hour} {
				<-time.After(d)
				synctest.Wait()
				if got := a.times.Load(); got != want[i] {
					t.Errorf("every %s: %d purges at look %d, want %d", every, got, i, want[i])
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
