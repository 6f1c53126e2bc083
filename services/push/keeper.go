package push

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// leaseTTL is how long a dead node's routes stay valid.
	leaseTTL = 10 * time.Second
	// keepEvery is how often the lease is renewed, missing routes are written and heads compared.
	keepEvery = time.Second
	// sweepMost is how many addresses are compared with Redis in one round: 5,000 a second.
	sweepMost = 5000
	// archiveEvery is how often each address is compared with the archive itself, and archiveMost how many in one
	// round: it finds what even Redis does not know.
	archiveEvery = 10 * time.Minute
	archiveMost  = 500
)

// keep is the keeper: it keeps the node's lease and routes in Redis and looks for what the live path lost. A round
// runs every second, and at once when somebody asks for it or NATS has reconnected.
func (n *Service) keep(ctx context.Context) error {
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	reconnected := n.nc.StatusChanged(nats.CONNECTED)
	defer n.nc.RemoveStatusListener(reconnected)
	k := keeper{Service: n}
	for {
		k.round(ctx)
		select {
		case <-ctx.Done():
			return k.leave(ctx)
		case <-ticker.C:
		case <-n.sweeping:
		case <-reconnected:
		}
	}
}

// sweepSoon asks for a round now.
func (n *Service) sweepSoon() {
	select {
	case n.sweeping <- struct{}{}:
	default:
	}
}

// keeper is the state of the keeper's goroutine.
type keeper struct {
	*Service
	shard int // where the sweep goes on
	ready bool
}

func (k *keeper) round(ctx context.Context) {
	lost, err := k.table.Renew(ctx, k.id, leaseTTL)
	if err != nil {
		if ctx.Err() == nil {
			k.faults.Note("renew the lease", err)
		}
		return
	}
	if lost && k.ready {
		k.log.Warn("redis has lost what it knew of this node; writing every route again")
		k.forgetRoutes()
	}
	if !k.ready {
		k.ready = true
		close(k.Service.ready)
	}
	k.repair(ctx)
	k.sweep(ctx)
}

// forgetRoutes notes that no route is in Redis any more.
func (k *keeper) forgetRoutes() {
	for i := range shards {
		k.hub.each(i, func(m *mailbox) { m.setRouted(time.Time{}) })
	}
}

// repair writes the routes that are missing: Redis was away when their sessions opened, or lost them.
func (k *keeper) repair(ctx context.Context) {
	now := time.Now()
	for i := range shards {
		var missing []*mailbox
		var regs []route.Registration
		k.hub.each(i, func(m *mailbox) {
			if m.needsRoute(now) {
				missing = append(missing, m)
				regs = append(regs, route.Registration{Address: m.to, Generation: m.generation, Write: true})
			}
		})
		if len(regs) == 0 {
			continue
		}
		if err := k.table.Register(ctx, k.id, regs); err != nil {
			k.faults.Note("write routes again", err)
			return
		}
		for _, m := range missing {
			m.setRouted(now)
		}
	}
}

// sweep compares the heads of up to sweepMost addresses with Redis, going on where the last round ended, and of a few
// with the archive. A head that is higher than what came by shows a lost tail; the lanes fetch it.
func (k *keeper) sweep(ctx context.Context) {
	var swept, due []*mailbox
	now := time.Now()
	for range shards {
		k.hub.each(k.shard, func(m *mailbox) {
			swept = append(swept, m)
			if len(due) < archiveMost && m.due(now) {
				due = append(due, m)
			}
		})
		k.shard = (k.shard + 1) % shards
		if len(swept) >= sweepMost {
			break
		}
	}
	k.compare(swept, "compare heads with Redis", func(list []subject.Address) ([]uint64, error) {
		return k.table.Heads(ctx, list)
	})
	k.compare(due, "compare heads with the archive", func(list []subject.Address) ([]uint64, error) {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		return history.Heads(ctx, k.nc, list)
	})
}

// compare asks for heads and tells the sessions of each address about a higher one.
func (k *keeper) compare(mailboxes []*mailbox, step string, ask func([]subject.Address) ([]uint64, error)) {
	if len(mailboxes) == 0 {
		return
	}
	list := make([]subject.Address, len(mailboxes))
	for i, m := range mailboxes {
		list[i] = m.to
	}
	heads, err := ask(list)
	if err != nil {
		k.faults.Note(step, err)
		return
	}
	for i, head := range heads {
		k.hub.observe(list[i], head)
	}
}

// leave removes the node from Redis, so that nobody sends it anything for the rest of the lease.
func (k *keeper) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	if err := k.table.Leave(ctx, k.id); err != nil {
		return fmt.Errorf("push: give up the lease: %w", err)
	}
	return nil
}

// due says whether it is time to compare the address with the archive, and notes that it is done.
func (m *mailbox) due(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.compared) < archiveEvery {
		return false
	}
	m.compared = now
	return true
}
