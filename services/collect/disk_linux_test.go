package collect

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// TestTheDiskIsFull: nats-server meets the end of the disk. It then gives no answer, and a stream that met it takes
// nothing until the server is started again: of Weft nothing has to be.
func TestTheDiskIsFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not injected: a small disk (tmpfs) can be mounted by root only")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("not injected: a small disk (tmpfs) can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	w := newWorldOn(t, embed.NATSOptions{Dir: dir, Partitions: 1, MaxStore: 1 << 30})
	w.start()
	accepted := map[string]bool{w.archived(subject.Publish(alice), `0`).ID: true}
	n, refused := 0, (*problem.Problem)(nil)
	for refused == nil { // what is archived lies in the log: it is the one that gets full
		begun := time.Now()
		id := fmt.Sprint("r", n)
		_, refused = w.request(subject.Publish(alice), bulky, "Weft-Id", id)
		if took := time.Since(begun); took > soon {
			t.Errorf("the request door took %s", took)
		}
		accepted[id] = true // refused, it may have been archived: it is sent again
		n++
	}
	t.Logf("after %d messages: %v", n, refused)
	if refused.Code != problem.Unavailable || !strings.Contains(refused.Message, "the log") {
		t.Error(refused)
	}
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			begun := time.Now()
			if _, p := w.request(subject.Publish(user(i)), `1`); p == nil || p.Code != problem.Unavailable || time.Since(begun) > soon {
				t.Errorf("the request door: %v after %s", p, time.Since(begun))
			}
		})
	}
	all.Wait()
	took, err := w.tries("s")
	t.Logf("the stream door after %s: %v", took, err)
	if err == nil {
		accepted["s"] = true
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	w.restart()
	begun := time.Now()
	for id := range accepted {
		if strings.HasPrefix(id, "r") {
			w.archived(subject.Publish(alice), bulky, "Weft-Id", id)
		}
	}
	w.publish(subject.In(alice), bulky, "Weft-Id", "s")
	w.drained()
	accepted["s"] = true
	t.Logf("everything archived and logged %s after the server was back", time.Since(begun))
	w.once(accepted)
	if set := w.count(fabric.QuarantineStream); set > 0 {
		t.Errorf("%d in quarantine", set)
	}
}
