package push

import (
	"context"
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
	// absentAfter is how long an address whose head Redis does not know is left alone. Heads are forgotten when Redis has
	// gone back, right ones among them: a tail that was lost at that moment would stay hidden for archiveEvery.
	absentAfter = 2 * time.Second
)

// keep is the keeper: it keeps the node's lease and routes in Redis and looks for what the live path lost. A round
// runs every second, and at once when somebody asks for it or NATS has reconnected.
func (n *Service) keep(ctx context.Context) error {
	ticker := time.NewTicker(n.keeping)
	defer ticker.Stop()
	reconnected := n.nc.StatusChanged(nats.CONNECTED)
	defer n.nc.RemoveStatusListener(reconnected)
	k := keeper{Service: n}
	for {
		k.round(ctx)
		select {
		case <-ctx.Done():
			k.leave(ctx)
			return nil
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
	shard    int // where the sweep goes on
	ready    bool
	examined uint32 // the pause of the node after which every device was looked up
	lost     bool   // Redis has lost what it knew, and the devices are not entered again yet
}

func (k *keeper) round(ctx context.Context) {
	lost, err := k.appear(ctx)
	if !k.ready && k.subscribed(ctx) {
		k.ready = true
		close(k.Service.ready) // without Redis as well: dispatch asks all nodes then
	}
	swept, due := k.next()
	if err == nil {
		if lost {
			k.log.Warn("redis has lost what it knew of this node; writing every route again")
			k.forgetRoutes()
			k.lost = true
		}
		k.repair(ctx)
		k.examine(ctx)
		k.sweep(ctx, swept)
	} else if ctx.Err() == nil {
		k.faults.Note("renew the lease", err)
	}
	k.sweepArchive(ctx, due)
}

// appear renews the lease. After a pause of the node that has to wait until it is known which devices are elsewhere.
func (k *keeper) appear(ctx context.Context) (lost bool, err error) {
	if pause := k.pulse.check().pauses; pause != k.examined {
		if err := k.reexamine(ctx, pause); err != nil {
			return false, err
		}
	}
	return k.table.Renew(ctx, k.id, leaseTTL)
}

// subscribed says whether the server has seen the node's subscriptions.
func (k *keeper) subscribed(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return k.nc.FlushWithContext(ctx) == nil
}

// forgetRoutes notes that no route is in Redis any more. Heads are not to be relied on either: a client that connected
// meanwhile may have been told one that is too low, so each address is compared with the archive as soon as its turn comes.
func (k *keeper) forgetRoutes() {
	now := time.Now()
	for i := range shards {
		k.hub.each(i, func(m *mailbox) {
			m.setRouted(now, false)
			m.setCompared(time.Time{})
		})
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
			m.setRouted(now, true)
		}
	}
}

// next are the mailboxes whose heads this round compares with Redis, going on where the last one ended, and those
// among them that are due to be compared with the archive.
func (k *keeper) next() (swept, due []*mailbox) {
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
	return swept, due
}

// sweep compares heads with Redis. One that is higher than what came by shows a lost tail; the lanes fetch it.
func (k *keeper) sweep(ctx context.Context, mailboxes []*mailbox) {
	if len(mailboxes) == 0 {
		return
	}
	list := addresses(mailboxes)
	heads, err := k.table.Heads(ctx, list)
	if err != nil {
		k.faults.Note("compare heads with Redis", err)
		return
	}
	now := time.Now()
	for i, head := range heads {
		if head == 0 {
			mailboxes[i].unknown(now)
		}
		k.hub.observe(list[i], head)
	}
}

// sweepArchive does the same with the archive, whatever Redis says or does not, and tells Redis.
func (k *keeper) sweepArchive(ctx context.Context, mailboxes []*mailbox) {
	if len(mailboxes) == 0 {
		return
	}
	list := addresses(mailboxes)
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	heads, err := history.Heads(ctx, k.nc, list)
	if err != nil {
		k.faults.Note("compare heads with the archive", err)
		return // they stay due
	}
	now := time.Now()
	raise := make(map[subject.Address]uint64, len(heads))
	for i, head := range heads {
		mailboxes[i].setCompared(now)
		mailboxes[i].setEmpty(head == 0)
		k.hub.observe(list[i], head)
		if head > 0 {
			raise[list[i]] = head
		}
	}
	if err := k.table.RaiseHeads(ctx, raise); err != nil {
		k.faults.Note("raise heads", err)
	}
}

func addresses(mailboxes []*mailbox) []subject.Address {
	list := make([]subject.Address, len(mailboxes))
	for i, m := range mailboxes {
		list[i] = m.to
	}
	return list
}

// leave removes the node from Redis, so that nobody sends it anything for the rest of the lease. Redis away is no
// reason to fail: the lease lapses.
func (k *keeper) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	if err := k.table.Leave(ctx, k.id); err != nil {
		k.faults.Note("give up the lease", err)
	}
}

// due says whether it is time to compare the address with the archive.
func (m *mailbox) due(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.compared) >= archiveEvery
}

func (m *mailbox) setCompared(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compared = at
}

// unknown notes that Redis does not know the head: the archive is asked soon, unless it has nothing of the address.
func (m *mailbox) unknown(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.empty && now.Sub(m.compared) >= absentAfter {
		m.compared = time.Time{}
	}
}

func (m *mailbox) setEmpty(empty bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.empty = empty && m.head == 0
}
