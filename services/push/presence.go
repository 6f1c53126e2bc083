package push

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// presenceEvery is how often it is reported who came and who went: a storm of clients makes ten messages a second.
	presenceEvery = 100 * time.Millisecond
	// presenceMost is the most users in one message: with the longest ids 200 KB.
	presenceMost = 500
	// censusEvery is how often all users are named again: it mends what NATS lost after it had taken it.
	censusEvery = 10 * time.Minute
	// presenceTimeout bounds one attempt to report, and leaveTimeout the last words of a node.
	presenceTimeout = 5 * time.Second
	leaveTimeout    = 2 * time.Second
)

// presence knows whom to report: users whose sessions came or went. Whether a user is here is looked up when it is
// reported, by one goroutine that gives every message the next number, so the last report of a user is the true one.
type presence struct {
	examined atomic.Uint32 // the pause of the node after which every session was looked at; written by the keeper
	wanted   atomic.Bool   // everybody has to be named again

	mu      sync.Mutex // protects changed
	changed map[subject.Address]int64
}

func newPresence() *presence { return &presence{changed: make(map[subject.Address]int64)} }

// note says that a session of a user has begun or ended. It never waits.
func (p *presence) note(user subject.Address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed[user] = time.Now().UnixMilli()
}

// take is who changed since the last time, and when.
func (p *presence) take() map[subject.Address]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.changed) == 0 {
		return nil
	}
	changed := p.changed
	p.changed = make(map[subject.Address]int64)
	return changed
}

// present says whether a user has sessions here that were welcomed and have not ended, and since when (ms since 1970).
func (h *hub) present(user subject.Address) (since int64, on bool) {
	s := h.shard(user)
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.mailboxes[user]
	if m == nil {
		return 0, false
	}
	for l := range m.lanes {
		if at, there := l.session.present(); there && l.session.user == user && (!on || at < since) {
			since, on = at, true
		}
	}
	return since, on
}

// present says when the session's connection came in, if it was welcomed and has not ended.
func (s *session) present() (at int64, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return began(s.id), s.begun && s.end == nil
}

// reporter reports presence. All of it belongs to one goroutine.
type reporter struct {
	*Service
	js     jetstream.JetStream
	number uint64    // of the last message
	named  time.Time // when everybody was named last
}

// reportPresence reports who comes and goes until ctx ends, when no session is left, and then that the node has nobody any
// more. A node that was paused reports nothing before it was looked whether its devices are elsewhere.
func (n *Service) reportPresence(ctx context.Context, js jetstream.JetStream) error {
	r := &reporter{Service: n, js: js, named: time.Now()}
	beat := time.NewTicker(presenceEvery)
	defer beat.Stop()
	reconnected := n.nc.StatusChanged(nats.CONNECTED)
	defer n.nc.RemoveStatusListener(reconnected)
	pauses := n.presence.examined.Load()
	for {
		select {
		case <-ctx.Done():
			r.leave(context.WithoutCancel(ctx))
			return nil
		case <-reconnected:
			n.presence.wanted.Store(true) // what was under way may be lost
		case now := <-beat.C:
			if now.Sub(r.named) >= censusEvery {
				n.presence.wanted.Store(true)
			}
		}
		examined := n.presence.examined.Load()
		if n.pulse.check().pauses != examined {
			continue
		}
		if examined != pauses {
			pauses = examined
			n.presence.wanted.Store(true)
		}
		r.round(ctx)
	}
}

// round reports what has changed. What could not be reported stays for the next time, and all behind it: it is looked up
// again then.
func (r *reporter) round(ctx context.Context) {
	if r.presence.wanted.Swap(false) {
		if err := r.census(ctx); err != nil {
			r.presence.wanted.Store(true)
			r.faults.Note("name all users", err)
			return
		}
	}
	changed := r.presence.take()
	some := make([]ledger.Seen, 0, min(len(changed), presenceMost))
	works := true
	for user, at := range changed {
		some = append(some, r.look(user, at))
		if len(some) == presenceMost {
			works = r.reportOrKeep(ctx, some, works)
			some = some[:0]
		}
	}
	r.reportOrKeep(ctx, some, works)
}

// look is what there is to say of a user who came or went at a time.
func (r *reporter) look(user subject.Address, at int64) ledger.Seen {
	if since, on := r.hub.present(user); on {
		return ledger.Seen{User: user.Tokens(), On: true, At: since}
	}
	return ledger.Seen{User: user.Tokens(), At: at}
}

// reportOrKeep reports users, where the reports before it worked, and says whether that works still.
func (r *reporter) reportOrKeep(ctx context.Context, some []ledger.Seen, works bool) bool {
	if works && len(some) > 0 {
		if err := r.report(ctx, ledger.Presence{Users: some}); err != nil {
			r.faults.Note("report who is here", err)
			works = false
		}
	}
	if !works {
		r.presence.keep(some)
	}
	return works
}

// keep puts users back who could not be reported.
func (p *presence) keep(some []ledger.Seen) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seen := range some {
		user, err := subject.ParseTokens(seen.User)
		if _, newer := p.changed[user]; err == nil && !newer {
			p.changed[user] = seen.At
		}
	}
}

// census names everybody who is here, and then says that all others whom the node had named before are not.
func (r *reporter) census(ctx context.Context) error {
	before := r.number + 1
	r.number = before
	var some []ledger.Seen
	for i := range shards {
		var users []subject.Address
		r.hub.each(i, func(m *mailbox) {
			if m.to.Kind == subject.User {
				users = append(users, m.to)
			}
		})
		for _, user := range users {
			since, on := r.hub.present(user)
			if !on {
				continue
			}
			if some = append(some, ledger.Seen{User: user.Tokens(), On: true, At: since}); len(some) == presenceMost {
				if err := r.report(ctx, ledger.Presence{Users: some}); err != nil {
					return err
				}
				some = some[:0]
			}
		}
	}
	r.named = time.Now()
	return r.report(ctx, ledger.Presence{Users: some, Rest: before, At: r.named.UnixMilli()})
}

// leave says that the node has nobody any more. Where that gets lost, collect finds that the node is gone.
func (r *reporter) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := r.report(ctx, ledger.Presence{Rest: r.number + 1, At: time.Now().UnixMilli(), Leaving: true}); err != nil {
		r.faults.Note("report that nobody is here any more", err)
	}
}

// report publishes one message, under the next number, and returns when the stream has it.
func (r *reporter) report(ctx context.Context, p ledger.Presence) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	r.number++
	p.Number = r.number
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = r.js.PublishMsg(ctx, &nats.Msg{
		Subject: subject.Presence(r.id), Data: body, Header: nats.Header{history.HeaderEpoch: {r.epoch}},
	})
	return err
}
