package collect

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/subject"
)

// TestAMessageThatKills is set aside after a bounded number of deaths; those before it and behind it are not.
func TestAMessageThatKills(t *testing.T) {
	t.Parallel() // it waits for takeovers, mostly
	w := newWorld(t)
	w.owner().stop(t)
	for i := range 3 {
		w.publish(subject.In(user(i)), fmt.Sprint(i))
	}
	w.publish(subject.In(alice), deadly, "Weft-Id", "bad")
	w.publish(subject.In(alice), `"behind"`)
	deaths := 0
	for w.count(fabric.QuarantineStream) == 0 {
		c := w.owner()
		select {
		case <-c.gone:
			deaths++
		case <-w.quarantined():
			w.drained()
			c.stop(t)
		}
		if deaths > 2*partition.Deadly {
			t.Fatal("still dying")
		}
	}
	t.Logf("%d owners died", deaths)
	if deaths > partition.Deadly+partition.Suspicious {
		t.Errorf("%d owners died", deaths)
	}
	if log := w.logged(4); string(log[3].Payload) != `"behind"` || log[3].Seq != 1 {
		t.Errorf("%+v", log[3])
	}
	w.isPoison("bad")
}

// owner starts a collect in a process of its own.
func (w *world) owner() *child { return w.spawn(roleOwner) }

// stop ends it as an operator does.
func (c *child) stop(t *testing.T) {
	t.Helper()
	if err := c.process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	<-c.gone
}

// quarantined is closed when something is in quarantine, or the test ends.
func (w *world) quarantined() <-chan struct{} {
	there := make(chan struct{})
	look := time.NewTicker(50 * time.Millisecond)
	w.t.Cleanup(look.Stop)
	go func() {
		defer close(there)
		for {
			select {
			case <-look.C:
			case <-w.t.Context().Done():
				return
			}
			s, err := w.js.Stream(w.t.Context(), fabric.QuarantineStream)
			if err != nil || s.CachedInfo().State.Msgs > 0 {
				return
			}
		}
	}()
	return there
}

// TestKillsProveNothing kills owner after owner, at moments of all kinds while the archive is down, then under load.
func TestKillsProveNothing(t *testing.T) {
	t.Parallel() // it waits for takeovers, mostly
	w := newWorld(t)
	w.owner().stop(t)
	if err := os.WriteFile(w.file+hangs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const n = 100
	for i := range n {
		w.publish(subject.In(user(i%5)), fmt.Sprint(i))
	}
	kill := func(i int) {
		c := w.owner()
		select {
		case <-time.After(1700*time.Millisecond + time.Duration(i)*200*time.Millisecond): // the takeover takes some 1.5 s
		case <-c.gone:
			t.Error("it died by itself")
		}
		c.kill()
	}
	for i := range partition.Deadly + 2 { // in the time of the first attempt, mostly
		kill(i)
	}
	if err := os.Remove(w.file + hangs); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		kill(i)
	}
	last := w.owner()
	w.drained()
	last.stop(t)
	if set := w.count(fabric.QuarantineStream); set > 0 {
		t.Errorf("%d in quarantine", set)
	}
	w.logged(n)
}
