package route_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

const ttl = 10 * time.Second

func lease(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	assertNodes(t, table)
	assertRenewed(t, table, "n2", false)
	assertRenewed(t, table, "n1", false)
	assertNodes(t, table, "n1", "n2")
	s.forward(t, 9*time.Second)
	assertRenewed(t, table, "n1", false)
	s.forward(t, 9*time.Second)
	assertNodes(t, table, "n1")
	assertRenewed(t, table, "n2", true) // its lease had lapsed
	assertRenewed(t, table, "n2", false)
	assertNodes(t, table, "n1", "n2")
	must(t, table.Leave(ctx, "n1"))
	assertNodes(t, table, "n2")
}

// voided is the classic fault of keeping devices of several nodes under one expiry: the device that is alive keeps
// the dead node's route. It may: the lapsed lease voids it.
func voided(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	for _, node := range []string{"dead", "alive"} {
		assertRenewed(t, table, node, false)
		_, err := table.Connect(ctx, session(node, "s1", node+" device", alice()))
		must(t, err)
	}
	s.forward(t, 9*time.Second)
	assertRenewed(t, table, "alive", false)
	_, err := table.Connect(ctx, session("alive", "s2", "alive device", alice()))
	must(t, err)
	s.forward(t, 2*time.Second)
	nodes, err := table.Nodes(ctx)
	must(t, err)
	held, err := table.Routes(ctx, []subject.Address{alice()})
	must(t, err)
	valid := slices.DeleteFunc(held[0], func(node string) bool { return !slices.Contains(nodes, node) })
	if !slices.Equal(valid, []string{"alive"}) {
		t.Errorf("alice is on %q, want only the node that is alive", valid)
	}
}

func emptied(t *testing.T, s *server) {
	table := s.open(t)
	assertRenewed(t, table, "n1", false)
	assertRenewed(t, table, "n1", false)
	s.flush(t)
	assertRenewed(t, table, "n1", true)
	assertRenewed(t, table, "n1", false)
	assertNodes(t, table, "n1")
}

// rolledBack puts an older lease back, as a restore or a fail-over to a replica that was behind does.
func rolledBack(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	key := "weft:" + subject.Encode(epochOf(t)) + ":node:n1"
	assertRenewed(t, table, "n1", false)
	older := s.client.Get(ctx, key).Val()
	assertRenewed(t, table, "n1", false)
	must(t, s.client.Set(ctx, key, older, ttl).Err())
	assertRenewed(t, table, "n1", true)
	assertRenewed(t, table, "n1", false)
}

func scriptsFlushed(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	for range 2 {
		assertRenewed(t, table, "n1", false)
		_, err := table.Connect(ctx, session("n1", "s1", "phone", alice(), news()))
		must(t, err)
		must(t, table.Unregister(ctx, "n1", []route.Registration{{Address: news(), Generation: 1}}))
		assertRoutes(t, table, alice(), "n1")
		assertRoutes(t, table, news())
		s.shards(t, func(ctx context.Context, c *redis.Client) error { return c.ScriptFlush(ctx).Err() })
	}
}

// TestRestored restarts a real Redis from a snapshot: the node must hear of it, and only once.
func TestRestored(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	first := startProcess(t, dir, port)
	s := reach(t, "redis://127.0.0.1:"+port)
	table, ctx := s.open(t), t.Context()
	assertRenewed(t, table, "n1", false)
	must(t, s.client.Save(ctx).Err())
	assertRenewed(t, table, "n1", false)
	must(t, table.Register(ctx, "n1", []route.Registration{{Address: alice()}}))
	first.stop()
	if lost, err := table.Renew(ctx, "n1", ttl); err == nil || lost {
		t.Errorf("renewed without Redis: lost %t, %v; want only an error", lost, err)
	}
	startProcess(t, dir, port)
	assertRoutes(t, table, alice())
	assertRenewed(t, table, "n1", true)
	assertRenewed(t, table, "n1", false)
}

// TestUnanswered loses the answer of a renewal that Redis did: neither does that alone count as a loss, nor does it
// hide one.
func TestUnanswered(t *testing.T) {
	s := startRedis(t)
	link := newLink(t, s.host)
	table, err := route.Open("redis://"+link.address()+"?max_retries=-1&read_timeout=200ms", "epoch")
	must(t, err)
	defer func() { must(t, table.Close()) }()
	for _, flushed := range []bool{false, true} {
		if lost, err := table.Renew(t.Context(), "n1", ttl); err != nil || lost {
			t.Fatalf("lost %t, %v; want neither", lost, err)
		}
		if flushed {
			s.flush(t)
		}
		link.mute()
		if _, err := table.Renew(t.Context(), "n1", ttl); err == nil {
			t.Fatal("the link is mute, but the renewal was answered")
		}
		link.unmute()
		if lost, err := table.Renew(t.Context(), "n1", ttl); err != nil || lost != flushed {
			t.Errorf("after an unanswered renewal, flushed %t: lost %t, %v", flushed, lost, err)
		}
	}
}

// TestLapse lets a lease lapse by Redis' own clock.
func TestLapse(t *testing.T) {
	table := startRedis(t).open(t)
	_, err := table.Renew(t.Context(), "n1", 30*time.Millisecond)
	must(t, err)
	eventually(t, "the lease lapses", func() bool {
		nodes, err := table.Nodes(t.Context())
		return err == nil && len(nodes) == 0
	})
}

func assertRenewed(t *testing.T, table *route.Table, node string, wantLost bool) {
	t.Helper()
	lost, err := table.Renew(t.Context(), node, ttl)
	must(t, err)
	if lost != wantLost {
		t.Errorf("renewal of %s says lost %t, want %t", node, lost, wantLost)
	}
}

func assertNodes(t *testing.T, table *route.Table, want ...string) {
	t.Helper()
	got, err := table.Nodes(t.Context())
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("alive are %q, want %q", got, want)
	}
}
