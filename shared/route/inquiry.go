package route

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// Devices returns where the devices of each user are connected, in the order of users: device → Holder
// (`<node>/<session>`), only of nodes that have a lease. On an error the answers that came are there all the same: nil is
// unknown, and an empty map means that no device is connected.
func (t *Table) Devices(ctx context.Context, users []subject.Address) ([]map[string]string, error) {
	devices := make([]map[string]string, len(users))
	alive, err := t.Nodes(ctx)
	if err != nil {
		return devices, err
	}
	for first := 0; first < len(users); first += chunk {
		part := users[first:min(first+chunk, len(users))]
		answers := make([]*redis.MapStringStringCmd, len(part))
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for i, user := range part {
				answers[i] = p.HGetAll(ctx, t.key(user, "devices"))
			}
		})
		for i, answer := range answers {
			if answer.Err() == nil {
				devices[first+i] = connected(answer.Val(), alive)
			}
		}
		if err != nil {
			return devices, fmt.Errorf("route: look up the devices of %d users: %w", len(users), err)
		}
	}
	return devices, nil
}

// connected are the entries whose node is among the sorted ones that are alive. What a node that died has left stays in
// Redis until its device comes again.
func connected(holders map[string]string, alive []string) map[string]string {
	some := make(map[string]string, len(holders))
	for device, holder := range holders {
		node, _, _ := strings.Cut(holder, "/")
		if _, lives := slices.BinarySearch(alive, node); lives {
			some[device] = holder
		}
	}
	return some
}

// Health says how Redis is and what could be better. Of a Cluster it is one shard that speaks. Problem is left empty: it
// is what the error says. What a server refuses to tell (a hosted one its configuration) is left out.
func (t *Table) Health(ctx context.Context) (admin.Health, error) {
	h := admin.Health{Kind: "redis"}
	begun := time.Now()
	if err := t.client.Set(ctx, t.prefix+"probe", begun.UnixMilli(), time.Minute).Err(); err != nil {
		return h, fmt.Errorf("route: write to Redis: %w", err)
	}
	h.Millis = float64(time.Since(begun).Microseconds()) / 1000
	if now, err := t.client.Time(ctx).Result(); err == nil {
		h.Clock = now.UnixMilli()
	}
	info := t.info(ctx)
	h.Version = info["redis_version"]
	if valkey := info["valkey_version"]; valkey != "" {
		h.Version = "Valkey " + valkey
	}
	h.Warnings = warnings(info)
	return h, nil
}

// info is what the server says of itself; empty where it does not.
func (t *Table) info(ctx context.Context) map[string]string {
	said := map[string]string{}
	for _, section := range []string{"server", "memory", "stats"} { // several at once only from Redis 7.0 on
		text, err := t.client.Info(ctx, section).Result()
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				said[name] = value
			}
		}
	}
	return said
}

// warnings are what works and is a risk.
func warnings(info map[string]string) []admin.Warn {
	var list []admin.Warn
	warn := func(what, remedy string) { list = append(list, admin.Warn{What: what, Remedy: remedy}) }
	if major, _, _ := strings.Cut(info["redis_version"], "."); major != "" && info["valkey_version"] == "" {
		if n, err := strconv.Atoi(major); err == nil && n < 7 {
			warn("Redis "+info["redis_version"]+" is older than Weft is tested with", "use Redis 7.0 or later, or Valkey")
		}
	}
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" { // all keys of Weft have an expiry
		warn("maxmemory-policy is "+policy+": a full Redis evicts heads and routes that are in use, and messages are late",
			"set maxmemory-policy to noeviction: Weft notices a Redis that refuses writes and goes on without it")
	}
	used, _ := strconv.ParseInt(info["used_memory"], 10, 64)
	if most, _ := strconv.ParseInt(info["maxmemory"], 10, 64); most > 0 && used > most/10*9 {
		warn(fmt.Sprintf("Redis uses %d of its %d MiB", used>>20, most>>20), "raise maxmemory")
	}
	if n, _ := strconv.Atoi(info["evicted_keys"]); n > 0 {
		warn(fmt.Sprintf("Redis has evicted %d keys since it started", n), "raise maxmemory, and set maxmemory-policy to noeviction")
	}
	return list
}
