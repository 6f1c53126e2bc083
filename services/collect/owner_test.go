package collect

import (
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

// holder is the instance that owns the partition.
func (w *world) holder() string {
	w.t.Helper()
	bucket, err := w.js.KeyValue(w.t.Context(), fabric.OwnersBucket)
	if err != nil {
		return ""
	}
	lease, err := bucket.Get(w.t.Context(), fabric.LeaseKey(stage, 0))
	if err != nil {
		return ""
	}
	return string(lease.Value())
}

// TestTakenOverAndHandedOver kills and stops owners and measures for how long nobody archives.
func TestTakenOverAndHandedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owners := map[string]*child{}
	join := func() {
		c := w.owner()
		owners[c.said] = c
	}
	join()
	join()
	for _, end := range []struct {
		name  string
		end   func(*child)
		bound time.Duration
	}{
		{"SIGTERM", func(c *child) { _ = c.process.Signal(syscall.SIGTERM) }, time.Second},
		{"SIGTERM", func(c *child) { _ = c.process.Signal(syscall.SIGTERM) }, time.Second},
		{"kill -9", (*child).kill, 3 * time.Second},
		{"kill -9", (*child).kill, 3 * time.Second},
	} {
		<-time.After(2 * partition.DefaultBeat) // they know each other
		w.archived(subject.Publish(alice), `0`)
		var owner *child
		w.eventually("owned", func() bool { owner = owners[w.holder()]; return owner != nil })
		delete(owners, owner.said)
		begun := time.Now()
		end.end(owner)
		w.archived(subject.Publish(alice), `1`)
		took := time.Since(begun)
		<-owner.gone
		t.Logf("%s: archived again after %s, gone after %s", end.name, took, time.Since(begun))
		if took > end.bound {
			t.Errorf("%s: taken over after %s", end.name, took)
		}
		join()
	}
	w.logged(8)
}

// TestNATSIsAwayForLong: collect goes on by itself, with the connection that the processes have.
func TestNATSIsAwayForLong(t *testing.T) {
	t.Parallel()
	const away = 5 * time.Second // 20 s make no difference; the connection tries again every 250 to 500 ms
	w := newWorld(t)
	w.dial = func() *nats.Conn {
		base := service.Base{NATS: w.nats.URL()}
		nc, err := base.Connect("collect", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
		t.Cleanup(func() { nc.Close(); <-closed })
		return nc
	}
	w.start()
	w.archived(subject.Publish(alice), `0`)
	for i := range 2 {
		w.restartAfter(func() { <-time.After(away) })
		begun := time.Now()
		w.archived(subject.Publish(alice), fmt.Sprint(i+1))
		w.publish(subject.In(alice), fmt.Sprint(i+1))
		w.drained()
		t.Logf("both doors work %s after NATS was back", time.Since(begun))
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("both doors work after %s only", took)
		}
	}
	w.logged(5)
}
