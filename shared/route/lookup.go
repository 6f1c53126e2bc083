package route

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/weftpush/weft/shared/subject"
)

// Lookup raises the heads of a batch and returns the nodes that hold each of its addresses, in one round trip per
// shard; a head is raised before its address's routes are read. On an error the answers that came are there all the
// same: an address that is missing is unknown, an empty list means that no node has it. A Redis that can't be written to,
// because it is full or only a replica, tells the routes that it has with the error; newer ones may be missing. A route
// counts only while its node has a lease.
func (t *Table) Lookup(ctx context.Context, heads map[subject.Address]uint64) (map[subject.Address][]string, error) {
	answers := make(map[subject.Address]*redis.StringSliceCmd, len(heads))
	err := t.pipeline(ctx, func(p redis.Pipeliner) {
		for a, head := range heads {
			key := t.key(a, "head")
			raise(ctx, p, key, head, headMember)
			p.PExpire(ctx, key, headTTL)
			answers[a] = p.HKeys(ctx, t.key(a, "route"))
		}
	})
	nodes := make(map[subject.Address][]string, len(heads))
	for a, answer := range answers {
		if answer.Err() == nil {
			nodes[a] = answer.Val()
		}
	}
	if err != nil {
		return nodes, fmt.Errorf("route: look up %d addresses: %w", len(heads), err)
	}
	return nodes, nil
}
