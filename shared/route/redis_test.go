package route_test

import (
	"context"
	"maps"
	"reflect"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// goneBack is noticed once, and its heads, which may be too low, are forgotten; nothing else is.
func goneBack(t *testing.T, s *server) {
	first, second, ctx := s.open(t), s.open(t), t.Context()
	beat := func(table *route.Table, want bool) {
		t.Helper()
		if lost, err := table.Beat(ctx); err != nil || lost != want {
			t.Errorf("gone back: %v, %v; want %v", lost, err, want)
		}
	}
	for range 3 {
		beat(first, false)
		beat(second, false)
	}
	s.flush(t)
	must(t, first.Register(ctx, "n1", []route.Registration{{Address: alice()}}))
	must(t, first.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 3, news(): 4, everyone(): 5}))
	beat(first, true)
	beat(first, false)
	beat(second, false)
	must(t, first.ForgetHeads(ctx))
	assertHeads(t, first, map[subject.Address]uint64{alice(): 0, news(): 0, everyone(): 0})
	assertRoutes(t, first, alice(), "n1")
	beat(first, false)
	must(t, first.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 3, news(): 4}))
	must(t, first.DropHeads(ctx, maps.Keys(map[subject.Address]bool{alice(): true})))
	assertHeads(t, first, map[subject.Address]uint64{alice(): 0, news(): 4})
}

// A Redis that is full or a replica refuses to be written to, and still tells what it knows; when it takes writes again
// everything goes on.
func TestRefusedWrites(t *testing.T) {
	for name, does := range map[string][2][]any{
		"full":      {{"CONFIG", "SET", "maxmemory", "1"}, {"CONFIG", "SET", "maxmemory", "0"}},
		"read-only": {{"REPLICAOF", "127.0.0.1", "1"}, {"REPLICAOF", "NO", "ONE"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			table, ctx := s.open(t), t.Context()
			must(t, table.Register(ctx, "n1", []route.Registration{{Address: alice()}}))
			assertRenewed(t, table, "n1", false)
			must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 3}))
			must(t, s.client.Do(ctx, does[0]...).Err())
			got, err := table.Lookup(ctx, map[subject.Address]uint64{alice(): 7, news(): 1})
			if want := map[subject.Address][]string{alice(): {"n1"}, news(): {}}; err == nil || !reflect.DeepEqual(got, want) {
				t.Errorf("routes are %q, %v; want %q and an error", got, err, want)
			}
			if _, err := table.Beat(ctx); err == nil {
				t.Error("it is said to take writes")
			}
			if _, err := table.Renew(ctx, "n1", ttl); err == nil {
				t.Error("a lease was renewed")
			}
			assertNodes(t, table, "n1")
			left := map[subject.Address]uint64{alice(): 3}
			if err := table.DropHeads(ctx, maps.Keys(left)); err == nil {
				left[alice()] = 0
			}
			if name == "full" && left[alice()] != 0 {
				t.Error("a head that is too low can't be removed")
			}
			assertHeads(t, table, left)
			must(t, s.client.Do(ctx, does[1]...).Err())
			if lost, err := table.Beat(ctx); err != nil || lost {
				t.Errorf("gone back: %v, %v", lost, err)
			}
			assertRenewed(t, table, "n1", false)
			_, err = table.Lookup(ctx, map[subject.Address]uint64{alice(): 7})
			must(t, err)
			assertHeads(t, table, map[subject.Address]uint64{alice(): 7})
		})
	}
}

// A Redis that is paused holds nobody longer than his own time, however many ask, and nobody at all once it goes on.
func TestPaused(t *testing.T) {
	port := freePort(t)
	process := startProcess(t, t.TempDir(), port)
	table, err := route.Open("redis://127.0.0.1:"+port, "epoch") // as in production, without a time-out of its own
	must(t, err)
	defer func() { must(t, table.Close()) }()
	ctx := t.Context()
	for range 20 { // connections that are open already
		assertHeads(t, table, map[subject.Address]uint64{alice(): 0})
	}
	must(t, process.pause())
	var group errgroup.Group
	begun := time.Now()
	for range 300 { // many more than the pool has connections
		group.Go(func() error {
			short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			if _, err := table.Connect(short, session("n1", "s1", "phone", alice())); err == nil {
				t.Error("connected")
			}
			return nil
		})
		group.Go(func() error { // no time of his own
			if err := table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 1}); err == nil {
				t.Error("raised")
			}
			return nil
		})
		group.Go(func() error {
			if _, err := table.Renew(ctx, "n1", ttl); err == nil {
				t.Error("renewed")
			}
			return nil
		})
	}
	must(t, group.Wait())
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("900 calls at once were held for %s", took)
	} else {
		t.Logf("900 calls at once were held for %s", took)
	}
	must(t, process.resume())
	begun = time.Now()
	_, err = table.Connect(ctx, session("n1", "s1", "phone", alice()))
	must(t, err)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the first call after the pause took %s", took)
	}
}

// pause stops the process, as a machine under pressure does; resume lets it go on.
func (p process) pause() error  { return p.signal(syscall.SIGSTOP) }
func (p process) resume() error { return p.signal(syscall.SIGCONT) }
