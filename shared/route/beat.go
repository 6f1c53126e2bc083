package route

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// beat counts up, from what the caller knows if Redis knows less, and says whether it did. Only one of several callers
// finds that Redis has gone back. KEYS: beat. ARGV: known.
const beat = `
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
local lost = 0
if count < tonumber(ARGV[1]) then
  count, lost = tonumber(ARGV[1]), 1
end
redis.call('SET', KEYS[1], count + 1)
return {count + 1, lost}`

// Beat writes to Redis, and so tells whether it can be written to; call it about once a second. lost says that Redis
// was emptied, or came back as it was some time ago, since the last Beat of this process that succeeded: its routes may
// be missing and its heads too low (ForgetHeads). One process of those that call it is told. Of a Cluster it sees one
// shard.
func (t *Table) Beat(ctx context.Context) (lost bool, err error) {
	t.mu.Lock()
	known := t.beats
	t.mu.Unlock()
	answer, err := t.client.Eval(ctx, beat, []string{t.prefix + "beat"}, known).Int64Slice()
	if err == nil && len(answer) != 2 {
		err = fmt.Errorf("%d numbers came", len(answer))
	}
	if err != nil {
		return false, fmt.Errorf("route: beat: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beats = max(t.beats, answer[0])
	return answer[1] == 1, nil
}

// ForgetHeads removes every head: after Redis has gone back they may be too low, and what is too low hides messages,
// while what is absent is asked for. A head that is raised meanwhile may go with them. It walks all keys, a million of
// them in some 2 s, without holding anybody else up.
func (t *Table) ForgetHeads(ctx context.Context) error {
	var err error
	if cluster, ok := t.client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, shard *redis.Client) error { return t.forgetHeads(ctx, shard) })
	} else {
		err = t.forgetHeads(ctx, t.client)
	}
	if err != nil {
		return fmt.Errorf("route: forget the heads: %w", err)
	}
	return nil
}

// forgetHeads does it on one server.
func (t *Table) forgetHeads(ctx context.Context, server redis.Cmdable) error {
	for cursor := uint64(0); ; {
		keys, next, err := server.Scan(ctx, cursor, t.prefix+"{*}:head", scan).Result()
		if err != nil {
			return err
		}
		_, err = server.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, key := range keys { // one by one: in a Cluster they have different slots
				p.Unlink(ctx, key)
			}
			return nil
		})
		if err != nil || next == 0 {
			return err
		}
		cursor = next
	}
}
