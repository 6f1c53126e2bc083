package collect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/subject"
)

// reader reads the log as dispatch does, and checks that nothing is passed over.
type reader struct {
	t    *testing.T
	mu   sync.Mutex // protects what follows
	last map[subject.Address]uint64
	seen int
}

func (w *world) readLog(t *testing.T) *reader {
	t.Helper()
	r := &reader{t: t, last: map[subject.Address]uint64{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	out := make(chan jetstream.Msg)
	var reading sync.WaitGroup
	reading.Go(func() {
		if err := partition.Read(ctx, w.js, fabric.MsgStream(0), fabric.DispatchConsumer, out); err != nil {
			t.Error(err)
		}
		close(out)
	})
	reading.Go(func() {
		for m := range out {
			r.take(m)
		}
	})
	t.Cleanup(func() { cancel(); reading.Wait() })
	return r
}

func (r *reader) take(m jetstream.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := message.DecodeEntries(m.Data())
	if err != nil {
		r.t.Error(err)
		return
	}
	r.seen++
	to, seq := entries[0].To, entries[0].From
	if seq > r.last[to]+1 {
		r.t.Errorf("%s: %d came after %d", to, seq, r.last[to])
	}
	r.last[to] = max(r.last[to], seq)
	_ = m.Ack() // lost with the server: it comes again
}

func (r *reader) has(to subject.Address) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last[to]
}

// copied makes a copy of JetStream's folder while NATS is stopped, and returns how to put it back.
func (w *world) copied() (putBack func()) {
	w.t.Helper()
	backup := filepath.Join(w.t.TempDir(), "copy")
	w.restartAfter(func() {
		if err := os.CopyFS(backup, os.DirFS(w.dir)); err != nil {
			w.t.Fatal(err)
		}
	})
	return func() {
		w.t.Helper()
		w.restartAfter(func() {
			if err := os.RemoveAll(w.dir); err != nil {
				w.t.Fatal(err)
			}
			if err := os.CopyFS(w.dir, os.DirFS(backup)); err != nil {
				w.t.Fatal(err)
			}
		})
	}
}

// TestTheStreamsLoseTheirTail: an older copy of JetStream's folder is put back. What is archived is in the log again, a
// reader of the log passes over nothing, and what comes anew is not taken for something old although the streams give
// their numbers out once more.
func TestTheStreamsLoseTheirTail(t *testing.T) {
	for name, meanwhile := range map[string]func(w *world, r *running){
		"while collect goes on": func(*world, *running) {},
		"and collect is killed": func(w *world, r *running) { r.stop(); w.start() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start()
			log := w.readLog(t)
			w.archived(subject.Publish(alice), `0`)
			sent := 1
			send := func(n int) {
				t.Helper()
				for range n {
					if sent%3 == 0 {
						w.archived(subject.Publish(alice), fmt.Sprint(sent))
					} else {
						w.publish(subject.In(alice), fmt.Sprint(sent)) // without an id
					}
					w.drained()
					sent++
				}
			}
			send(20)
			putBack := w.copied()
			send(20)
			before := w.lastOf(fabric.InStream(0))
			w.eventually("all read", func() bool { return log.has(alice) == uint64(sent) })
			putBack()
			meanwhile(w, r)
			begun := time.Now()
			w.eventually("all in the log again", func() bool { return w.distinct() == sent })
			t.Logf("all in the log again after %s", time.Since(begun))
			if now := w.lastOf(fabric.InStream(0)); now >= before {
				t.Fatalf("the input stream is at %d, it was at %d: nothing was lost", now, before)
			}
			send(30)
			w.eventually("all read", func() bool { return log.has(alice) == uint64(sent) })
			w.holds(alice, sent)
		})
	}
}

// TestTheInputComesAgain: what was waiting in the copy has been archived since. It comes again and is found.
func TestTheInputComesAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
	log := w.readLog(t)
	w.archived(subject.Publish(alice), `0`)
	up := w.archive.down()
	const n = 10
	for i := 1; i <= n; i++ {
		if i%2 == 0 {
			w.publish(subject.In(alice), fmt.Sprint(i), "Weft-Id", fmt.Sprint(i))
		} else {
			w.publish(subject.In(alice), fmt.Sprint(i))
		}
	}
	putBack := w.copied()
	up()
	w.eventually("all read", func() bool { return log.has(alice) == n+1 })
	w.drained()
	putBack()
	w.drained()
	w.publish(subject.In(alice), fmt.Sprint(n+1))
	w.drained()
	w.eventually("all read", func() bool { return log.has(alice) == n+2 })
	w.eventually("all in the log again", func() bool { return w.distinct() == n+2 })
	w.holds(alice, n+2)
}

// lastOf is the sequence that a stream gave out last.
func (w *world) lastOf(stream string) uint64 {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// distinct is how many messages the log holds, each counted once.
func (w *world) distinct() int {
	w.t.Helper()
	seen := map[string]bool{}
	for _, m := range w.logEntries() {
		seen[logID(m)] = true
	}
	return len(seen)
}

// holds checks that the archive has the payloads 0 to n-1 of an address, in order.
func (w *world) holds(to subject.Address, n int) {
	w.t.Helper()
	page, err := w.archive.Read(w.t.Context(), to, 0, 0, 1<<20, time.Now())
	if err != nil || len(page.Entries) != n {
		w.t.Fatalf("%d entries, not %d; %v", len(page.Entries), n, err)
	}
	for i, e := range page.Entries {
		if e.From != uint64(i)+1 || string(e.Message.Payload) != fmt.Sprint(i) {
			w.t.Errorf("entry %d is %d: %s", i, e.From, e.Message.Payload)
		}
	}
}
