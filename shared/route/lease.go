package route

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// lease is what this process knows of the lease of a node of its own.
type lease struct {
	asked uint64 // the count of the last renewal that was tried
	known uint64 // the count of the last renewal that was answered
	birth uint64 // the count at which the lease in Redis began, as of that answer; 0 before the first
}

// renew writes a lease, `<count>/<birth>`. The birth is handed on from renewal to renewal while what is in Redis is
// not older than what the node knows to have written, and begins anew when it is. It is kept in Redis, and not
// concluded from the answer alone, so that an answer that got lost hides nothing.
//
// KEYS: lease. ARGV: known, asked, TTL in ms.
const renew = `
local count, birth = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)/(%d+)$')
if not count or tonumber(count) < tonumber(ARGV[1]) then
  birth = ARGV[2]
end
redis.call('SET', KEYS[1], ARGV[2] .. '/' .. birth, 'PX', ARGV[3])
return tonumber(birth)`

// Renew keeps a node of this process alive for ttl more; call it three times in that time, never twice at once for
// one node. lost says that Redis was emptied, restored or behind since the last renewal that succeeded, or that the
// lease had lapsed: what the node wrote may be gone, and it must register everything again. What is lost in less
// than the time between two renewals before a fail-over, or on one shard of a Cluster alone, it does not see: that
// is healed when routes are written again within their TTL.
func (t *Table) Renew(ctx context.Context, node string, ttl time.Duration) (lost bool, err error) {
	l := t.ask(node)
	birth, err := t.client.Eval(ctx, renew, []string{t.leaseKey(node)}, l.known, l.asked, ttl.Milliseconds()).Uint64()
	if err != nil {
		return false, fmt.Errorf("route: renew the lease of %s: %w", node, err)
	}
	// After the lease, or Nodes might find a member without one and remove it.
	if err := t.client.SAdd(ctx, t.prefix+"nodes", node).Err(); err != nil {
		return false, fmt.Errorf("route: enter %s among the nodes: %w", node, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leases[node] = lease{asked: l.asked, known: l.asked, birth: birth}
	return l.birth != 0 && l.birth != birth, nil
}

// ask counts a renewal up before it is tried.
func (t *Table) ask(node string) lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leases[node]
	l.asked++
	t.leases[node] = l
	return l
}

// Leave ends a node's lease at once: its routes are void from then on.
func (t *Table) Leave(ctx context.Context, node string) error {
	t.mu.Lock()
	delete(t.leases, node)
	t.mu.Unlock()
	err := t.pipeline(ctx, func(p redis.Pipeliner) {
		p.Del(ctx, t.leaseKey(node))
		p.SRem(ctx, t.prefix+"nodes", node)
	})
	if err != nil {
		return fmt.Errorf("route: end the lease of %s: %w", node, err)
	}
	return nil
}

// Nodes returns the nodes that are alive, sorted, and removes from the set those whose lease has lapsed. A node that
// comes back in that very moment is among them again from its next renewal on.
func (t *Table) Nodes(ctx context.Context) ([]string, error) {
	members, err := t.client.SMembers(ctx, t.prefix+"nodes").Result()
	if err != nil {
		return nil, fmt.Errorf("route: list the nodes: %w", err)
	}
	leases := make([]*redis.IntCmd, len(members))
	err = t.pipeline(ctx, func(p redis.Pipeliner) {
		for i, node := range members {
			leases[i] = p.Exists(ctx, t.leaseKey(node))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("route: look at the leases of %d nodes: %w", len(members), err)
	}
	var alive []string
	var dead []any
	for i, node := range members {
		if leases[i].Val() == 1 {
			alive = append(alive, node)
		} else {
			dead = append(dead, node)
		}
	}
	if len(dead) > 0 {
		// A failure does no harm: they are found dead again next time.
		_ = t.client.SRem(ctx, t.prefix+"nodes", dead...).Err()
	}
	slices.Sort(alive)
	return alive, nil
}

func (t *Table) leaseKey(node string) string { return t.prefix + "node:" + node }
