package collect

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// soon is the second within which requests are refused, and what a loaded machine adds.
const soon = time.Second + 500*time.Millisecond

// refusedWithin sends requests at once and returns how long the slowest refusal took.
func (w *world) refusedWithin(n int, id string) (slowest time.Duration) {
	w.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			begun := time.Now()
			_, p := w.request(subject.Publish(user(i%5)), `1`, "Weft-Id", fmt.Sprint(id, i))
			took := time.Since(begun)
			if p == nil || p.Code != problem.Unavailable || !p.Retry {
				w.t.Errorf("a request got %v", p)
			}
			mu.Lock()
			defer mu.Unlock()
			slowest = max(slowest, took)
		})
	}
	all.Wait()
	return slowest
}

// TestTheArchiveIsLocked has another process hold the archive's lock, as a paused one would.
func TestTheArchiveIsLocked(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	before := runtime.NumGoroutine()
	unlock := w.lock()
	if took := w.refusedWithin(20, "first"); took > soon {
		t.Errorf("the first were refused after %s", took)
	} else {
		t.Logf("the first were refused after %s", took)
	}
	for range 3 {
		if took := w.refusedWithin(100, "later"); took > 500*time.Millisecond {
			t.Errorf("later ones were refused after %s", took)
		} else {
			t.Logf("later ones were refused after %s", took)
		}
	}
	const n = 50
	for i := 1; i <= n; i++ {
		w.publish(subject.In(alice), fmt.Sprint(i))
	}
	if got := w.count(fabric.MsgStream(0)); got != 1 {
		t.Errorf("%d in the log", got)
	}
	if now := runtime.NumGoroutine(); now > before+30 {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	w.readsWhileLocked(t)
	unlock()
	begun := time.Now()
	w.drained()
	t.Logf("everything acknowledged %s after the lock was given back", time.Since(begun))
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("delivery went on after %s", took)
	}
	last := uint64(0)
	for _, raw := range w.logEntries() {
		if raw.To != alice {
			continue // a request that was refused may have been archived
		}
		if raw.Seq != last+1 || string(raw.Payload) != fmt.Sprint(last) {
			t.Errorf("%d after %d: %s", raw.Seq, last, raw.Payload)
		}
		last = raw.Seq
	}
	if last != n+1 {
		t.Errorf("alice has %d", last)
	}
	if set := w.count(fabric.QuarantineStream); set > 0 {
		t.Errorf("%d in quarantine", set)
	}
}

// readsWhileLocked opens devices that nobody knows, which can't be written down, and reads a mailbox meanwhile.
func (w *world) readsWhileLocked(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var opening sync.WaitGroup
	for i := range 10 {
		opening.Go(func() {
			begun := time.Now()
			_, err := history.Open(ctx, w.nc, history.OpenRequest{Tenant: "default", User: "alice", Device: fmt.Sprint("d", i), Addresses: []string{alice.Tokens()}})
			if took := time.Since(begun); err == nil || problem.From(err).Code != problem.Unavailable || took > 2*readTimeout {
				t.Errorf("a new device: %v after %s", err, took)
			}
		})
	}
	opening.Wait()
	opening.Go(func() { // somebody still finds out whether devices can be opened
		_, _ = history.Open(ctx, w.nc, history.OpenRequest{Tenant: "default", User: "alice", Device: "d", Addresses: []string{alice.Tokens()}})
	})
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for range 20 {
		<-look.C
		if page, err := history.Read(ctx, w.nc, alice, 0, 0, 1000); err != nil || page.Head != 1 {
			t.Errorf("a mailbox: %+v, %v", page, err)
		}
	}
	opening.Wait()
}

// TestTheArchiveHangs has an archive that does not even heed its context.
func TestTheArchiveHangs(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	release := make(chan struct{})
	hang := func(context.Context) error { <-release; return nil }
	w.archive.disturb(hang, nil)
	w.archive.disturbPings(hang)
	if took := w.refusedWithin(20, "first"); took > soon {
		t.Errorf("the first were refused after %s", took)
	}
	if took := w.refusedWithin(200, "later"); took > 500*time.Millisecond {
		t.Errorf("later ones were refused after %s", took)
	}
	w.publish(subject.In(alice), `1`)
	close(release)
	begun := time.Now()
	w.drained()
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("delivery went on after %s", took)
	}
	if m := w.archived(subject.Publish(alice), `2`); m.Seq != 3 {
		t.Errorf("sequence %d", m.Seq)
	}
}

// sleepy is an archive whose reads hang until they are given up.
type sleepy struct {
	archive.Archive
	awake chan struct{}
}

func (s sleepy) Heads(ctx context.Context, addresses []subject.Address) (map[subject.Address]uint64, error) {
	select {
	case <-s.awake:
		return s.Archive.Heads(ctx, addresses)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestReadsOfAnArchiveThatHangs asks more than are worked on at once: nobody waits for those before him.
func TestReadsOfAnArchiveThatHangs(t *testing.T) {
	w := newWorld(t)
	awake := make(chan struct{})
	w.archive.Archive = sleepy{w.archive.Archive, awake}
	w.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := func() (time.Duration, error) {
		begun := time.Now()
		_, err := history.Heads(ctx, w.nc, []subject.Address{alice})
		return time.Since(begun), err
	}
	var all sync.WaitGroup
	for range 4 * handlers {
		all.Go(func() {
			took, err := ask()
			if p := problem.From(err); err == nil || p.Code != problem.Unavailable || took > 2*readTimeout+time.Second {
				t.Errorf("%v after %s", err, took)
			}
		})
	}
	all.Wait()
	close(awake)
	w.eventually("answered again", func() bool { _, err := ask(); return err == nil })
	if took, err := ask(); err != nil || took > time.Second {
		t.Errorf("%v after %s", err, took)
	}
}

func TestPOSTWhileTheArchiveIsLocked(t *testing.T) {
	d := newDoor(t)
	unlock := d.lock()
	defer unlock()
	for range 3 {
		begun := time.Now()
		status, header, body := d.post("good", `{"to":"user:alice","data":1}`)
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || time.Since(begun) > soon {
			t.Errorf("%d after %s: %s", status, time.Since(begun), body)
		}
	}
}
