package embed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/partition"
)

// board is where the work of all instances of a test signs in and out.
type board struct {
	t       *testing.T
	log     *slog.Logger
	mu      sync.Mutex       // protects the rest
	workers map[int][]string // by partition; two at once for one are a paused owner and its successor
	most    int              // workers that any partition ever had at once
	begun   map[string]int   // how often each instance signed in
	changed chan struct{}    // closed at each change
	lines   strings.Builder  // what was logged
}

func newBoard(t *testing.T) *board {
	b := &board{t: t, workers: map[int][]string{}, begun: map[string]int{}, changed: make(chan struct{})}
	b.log = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return b
}

// Write takes a line of the log.
func (b *board) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lines.Write(line)
}

func (b *board) logged(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.lines.String(), what)
}

func (b *board) change(p int, workers func([]string) []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.workers[p] = workers(b.workers[p])
	b.most = max(b.most, len(b.workers[p]))
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) signIn(p int, instance string) {
	b.change(p, func(w []string) []string {
		b.begun[instance]++
		return append(slices.Clip(w), instance)
	})
}

func (b *board) signOut(p int, instance string) {
	b.change(p, func(w []string) []string {
		return slices.DeleteFunc(slices.Clone(w), func(s string) bool { return s == instance })
	})
}

func (b *board) look() (map[int][]string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.workers), b.changed
}

// await waits until the board is as it should be, and returns how long that took.
func (b *board) await(what string, right func(map[int][]string) bool) time.Duration {
	b.t.Helper()
	begin, late := time.Now(), time.After(patience)
	for {
		workers, changed := b.look()
		if right(workers) {
			return time.Since(begin)
		}
		select {
		case <-changed:
		case <-late:
			b.t.Fatalf("never %s: %v", what, workers)
		}
	}
}

// all says whether each of n partitions has exactly one worker, and each of the instances has some.
func all(n int, instances ...string) func(map[int][]string) bool {
	return func(workers map[int][]string) bool {
		seen := map[string]bool{}
		for p := range n {
			if len(workers[p]) != 1 || !slices.Contains(instances, workers[p][0]) {
				return false
			}
			seen[workers[p][0]] = true
		}
		return len(seen) == len(instances)
	}
}

// instance is one caller of partition.Own.
type instance struct {
	js   jetstream.JetStream
	end  context.CancelFunc
	done chan error
}

func (i *instance) stop() error {
	i.end()
	return <-i.done
}

// join starts an instance whose work signs in and waits for its end.
func (b *board) join(url, id string, partitions int) *instance {
	return b.joinWith(url, id, partitions, func(ctx context.Context, p int) error {
		b.signIn(p, id)
		defer b.signOut(p, id)
		<-ctx.Done()
		return nil
	})
}

func (b *board) joinWith(url, id string, partitions int, work partition.Work) *instance {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{js: connect(b.t, url), end: cancel, done: make(chan error, 1)}
	config := partition.Config{Stage: "collect", Instance: id, Partitions: partitions, Log: b.log}
	var running sync.WaitGroup
	running.Go(func() { i.done <- partition.Own(ctx, i.js, config, work) })
	b.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return i
}

func TestInstancesShareAndHandOver(t *testing.T) {
	const n = 16
	s, _ := startFabric(t, n)
	b := newBoard(t)
	b.join(s.URL(), "a", n)
	t.Logf("the first has all after %s", b.await("a alone", all(n, "a")))
	second := b.join(s.URL(), "b", n)
	t.Logf("the second has its part after %s", b.await("a and b", all(n, "a", "b")))
	b.join(s.URL(), "c", n)
	b.await("a, b and c", all(n, "a", "b", "c"))

	begin := time.Now()
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	b.await("a and c", all(n, "a", "c"))
	took := time.Since(begin)
	t.Logf("handed over after a clean stop in %s", took)
	if took > time.Second {
		t.Errorf("the hand-over took %s, want below 1 s", took)
	}
	if b.most > 1 {
		t.Errorf("a partition had %d workers at once", b.most)
	}
}

func TestTakeoverAfterAKill(t *testing.T) {
	const n = 16
	s, _ := startFabric(t, n)
	b := newBoard(t)
	b.join(s.URL(), "a", n)
	victim := b.join(s.URL(), "b", n)
	b.await("a and b", all(n, "a", "b"))

	victim.js.Conn().Close() // it works on, but nobody hears of it any more
	took := b.await("everything at a", func(workers map[int][]string) bool {
		for p := range n {
			if !slices.Contains(workers[p], "a") {
				return false
			}
		}
		return true
	})
	t.Logf("taken over in %s", took)
	if took > 3*time.Second {
		t.Errorf("the takeover took %s, want below 3 s", took)
	}
	if took < time.Second {
		t.Errorf("the takeover took only %s: a short disturbance would do the same", took)
	}
}

func TestAPausedOwnerStopsWhenItSeesItsSuccessor(t *testing.T) {
	const n = 8
	s, _ := startFabric(t, n)
	wire := startProxy(t, s.URL())
	b := newBoard(t)
	b.join(wire.url(), "a", n)
	b.await("a alone", all(n, "a"))
	wire.freeze()
	b.join(s.URL(), "b", n)
	b.await("b beside a", func(workers map[int][]string) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(workers)), func(w []string) bool { return len(w) != 2 })
	})
	wire.thaw()
	b.await("a and b, each its own", all(n, "a", "b"))
	workers, _ := b.look()
	own := 0
	for _, w := range workers {
		if w[0] == "a" {
			own++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.begun["a"] != n+own { // everything of its first term ended, and what it has now was begun anew
		t.Errorf("a began %d times, want %d and again the %d it has", b.begun["a"], n, own)
	}
}

func TestAStallOfNATSKillsNobody(t *testing.T) {
	const n = 16
	s, _ := startFabric(t, n)
	first, second := startProxy(t, s.URL()), startProxy(t, s.URL())
	b := newBoard(t)
	b.join(first.url(), "a", n)
	b.join(second.url(), "b", n)
	b.await("a and b", all(n, "a", "b"))

	first.freeze()
	second.freeze()
	b.quiet("while NATS was away", 3*time.Second) // longer than it takes to declare somebody dead
	first.thaw()                                  // a hears its own heartbeats of 3 s before any of b
	b.quiet("when NATS was back for one", 300*time.Millisecond)
	second.thaw()
	b.join(s.URL(), "c", n) // it is served only after both have noticed it
	b.await("a, b and c", all(n, "a", "b", "c"))
	if b.logged("taking over") || b.most > 1 {
		t.Error("somebody was held for dead")
	}
}

// quiet fails the test if anybody signs in or out within d.
func (b *board) quiet(when string, d time.Duration) {
	b.t.Helper()
	_, changed := b.look()
	select {
	case <-changed:
		b.t.Errorf("somebody stopped or began %s", when)
	case <-time.After(d):
	}
}

func TestOwnersSurviveARestartOfTheServer(t *testing.T) {
	const n = 4
	r := startRestartable(t, n)
	b := newBoard(t)
	b.join(r.url, "a", n)
	b.join(r.url, "c", n)
	b.await("a and c", all(n, "a", "c"))
	r.restart()
	b.join(r.url, "d", n)
	t.Logf("a third has its part %s after the restart", b.await("a, c and d", all(n, "a", "c", "d")))
	if b.most > 1 || b.logged("taking over") {
		t.Error("the restart made somebody dead")
	}
}

func TestFailedWorkRestsAndIsTriedAgain(t *testing.T) {
	s, _ := startFabric(t, 1)
	b := newBoard(t)
	tries, begin := 0, time.Now()
	b.joinWith(s.URL(), "a", 1, func(ctx context.Context, p int) error {
		if tries++; tries == 1 {
			return errors.New("the archive is away")
		}
		b.signIn(p, fmt.Sprint("try ", tries))
		<-ctx.Done()
		return nil
	})
	b.await("a second try", all(1, "try 2"))
	if rested := time.Since(begin); rested < time.Second {
		t.Errorf("tried again after %s, want a rest of 1 s", rested)
	}
	if !b.logged("the archive is away") {
		t.Error("the failure was not logged")
	}
}

func TestNobodyBeginsBeforeTheOldWorkHasReturned(t *testing.T) {
	const n = 2
	s, _ := startFabric(t, n)
	b := newBoard(t)
	told, release := make(chan struct{}, n), make(chan struct{})
	old := b.joinWith(s.URL(), "a", n, func(ctx context.Context, p int) error {
		b.signIn(p, "a")
		<-ctx.Done()
		told <- struct{}{}
		<-release
		b.signOut(p, "a")
		return nil
	})
	b.await("a alone", all(n, "a"))
	b.join(s.URL(), "successor", n)
	old.end()
	for range n {
		<-told
	}
	b.quiet("before the work had returned", 3*time.Second) // longer than it takes to declare somebody dead
	close(release)
	if took := b.await("the successor alone", all(n, "successor")); took > time.Second {
		t.Errorf("the hand-over took %s after the work returned", took)
	}
	if b.most > 1 {
		t.Error("a partition had two workers at once")
	}
}

func TestOwnRefusesBadNames(t *testing.T) {
	_, js := startFabric(t, 1)
	for _, c := range []partition.Config{
		{Stage: "collect", Instance: "a.b", Partitions: 1},
		{Stage: "", Instance: "a", Partitions: 1},
		{Stage: "collect", Instance: "a", Partitions: 0},
	} {
		if err := partition.Own(t.Context(), js, c, nil); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
