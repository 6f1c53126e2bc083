package route

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/weftpush/weft/shared/subject"
)

// headMember is the one member of a head.
const headMember = "head"

// Cursor is what a device of a user has acknowledged in an address.
type Cursor struct {
	User    subject.Address
	Device  string
	Address subject.Address
	Seq     uint64
}

func cursorMember(device string, a subject.Address) string {
	return subject.Encode(device) + "/" + a.Tokens()
}

func floorMember(a subject.Address) string { return "/" + a.Tokens() }

// RaiseHeads raises heads; one that is higher in Redis stays. Calls commute.
func (t *Table) RaiseHeads(ctx context.Context, heads map[subject.Address]uint64) error {
	for part := range slices.Chunk(slices.Collect(maps.Keys(heads)), chunk) {
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for _, a := range part {
				key := t.key(a, "head")
				raise(ctx, p, key, heads[a], headMember)
				p.PExpire(ctx, key, headTTL)
			}
		})
		if err != nil {
			return fmt.Errorf("route: raise %d heads: %w", len(heads), err)
		}
	}
	return nil
}

// DropHeads removes heads that could not be raised: too low a head hides messages from whoever connects, and one that is
// absent is asked for. A Redis that is full refuses to raise, and still removes.
func (t *Table) DropHeads(ctx context.Context, addresses iter.Seq[subject.Address]) error {
	for part := range slices.Chunk(slices.Collect(addresses), chunk) {
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for _, a := range part {
				p.Unlink(ctx, t.key(a, "head"))
			}
		})
		if err != nil {
			return fmt.Errorf("route: drop heads: %w", err)
		}
	}
	return nil
}

// Heads returns the head of each address, in their order; 0 is unknown.
func (t *Table) Heads(ctx context.Context, addresses []subject.Address) ([]uint64, error) {
	heads := make([]uint64, 0, len(addresses))
	for part := range slices.Chunk(addresses, chunk) {
		answers := make([]*redis.FloatCmd, len(part))
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for i, a := range part {
				answers[i] = p.ZScore(ctx, t.key(a, "head"), headMember)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("route: read %d heads: %w", len(addresses), err)
		}
		for _, answer := range answers {
			heads = append(heads, uint64(answer.Val()))
		}
	}
	return heads, nil
}

// RaiseCursors raises cursors, and with them the floors of their users; one that is higher in Redis stays. Calls
// commute.
func (t *Table) RaiseCursors(ctx context.Context, cursors []Cursor) error {
	for part := range slices.Chunk(cursors, chunk) {
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for _, c := range part {
				key := t.key(c.User, "cursors")
				raise(ctx, p, key, c.Seq, cursorMember(c.Device, c.Address), floorMember(c.Address))
				p.PExpire(ctx, key, deviceTTL)
			}
		})
		if err != nil {
			return fmt.Errorf("route: raise %d cursors: %w", len(cursors), err)
		}
	}
	return nil
}

func raise(ctx context.Context, p redis.Pipeliner, key string, seq uint64, members ...string) {
	scores := make([]redis.Z, len(members))
	for i, m := range members {
		scores[i] = redis.Z{Score: float64(seq), Member: m}
	}
	p.ZAddArgs(ctx, key, redis.ZAddArgs{GT: true, Members: scores})
}
