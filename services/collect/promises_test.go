package collect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// The tests of this file are named for the sentences of the design's section 4, "why it holds".

// hang is an archive that answers nothing until ctx ends; reached tells that somebody waits.
func hang(reached chan<- struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case reached <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

func TestStoreFirst(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	reached, release := make(chan struct{}, 1), make(chan struct{})
	w.archive.disturb(func(ctx context.Context) error {
		reached <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}, nil)
	w.publish(subject.In(alice), `1`)
	<-reached
	if n := w.count(fabric.MsgStream(0)); n != 1 {
		t.Errorf("%d messages in the log before the archive has the second", n)
	}
	if h := w.head(alice); h != 1 {
		t.Errorf("head %d in Redis before the archive has it", h)
	}
	close(release)
	w.logged(2)
}

func TestDenseUniqueInOrderEvenWithTwoOwners(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(), w.start()
	w.archived(subject.Publish(alice), `0`, "Weft-Id", "0")
	// Whoever does not own the partition works on it too, as a paused owner would that comes back.
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	for _, r := range []*running{a, b} {
		working.Go(func() { _ = r.own(ctx, 0) })
	}
	t.Cleanup(func() { cancel(); working.Wait() })
	const n = 300
	for i := 1; i < n; i++ {
		if i%3 == 0 {
			w.archived(subject.Publish(alice), fmt.Sprint(i), "Weft-Id", fmt.Sprint(i))
		} else {
			w.publish(subject.In(alice), fmt.Sprint(i), "Weft-Id", fmt.Sprint(i))
		}
	}
	w.drained()
	page, err := w.archive.Read(t.Context(), alice, 0, 0, 1<<20, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	last := map[int]int{} // per door
	for i, e := range page.Entries {
		if e.Message == nil || e.From != uint64(i)+1 || seen[e.Message.ID] {
			t.Fatalf("entry %d: %+v", i, e)
		}
		seen[e.Message.ID] = true
		number := *decode[int](t, e.Message.Payload)
		door := min(number%3, 1)
		if number < last[door] {
			t.Errorf("%d came after %d", number, last[door])
		}
		last[door] = number
	}
	if len(seen) != n || page.Head != n {
		t.Errorf("%d messages, head %d", len(seen), page.Head)
	}
	inLog := map[uint64]bool{}
	for _, m := range w.stored(fabric.MsgStream(0)) {
		entries, _ := message.DecodeEntries(m.Data)
		inLog[entries[0].From] = true
	}
	if len(inLog) != n {
		t.Errorf("%d of %d in the log", len(inLog), n)
	}
}

func TestTheLivePathIsAHint(t *testing.T) {
	t.Run("heads are raised before the log has the message", func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		w.archived(subject.Publish(alice), `0`)
		free := w.fillLog()
		w.publish(subject.In(alice), `1`)
		w.eventually("seen that the log refuses", func() bool { return r.log.has("publish to the log") })
		if h := w.head(alice); h != 2 {
			t.Errorf("head %d", h)
		}
		free()
		w.logged(2)
	})
	t.Run("heads are never lowered", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.archived(subject.Publish(alice), `0`, "Weft-Id", "a")
		w.archived(subject.Publish(alice), `1`)
		w.archived(subject.Publish(alice), `0`, "Weft-Id", "a")
		if h := w.head(alice); h != 2 {
			t.Errorf("head %d", h)
		}
	})
}

func TestAcknowledgeLast(t *testing.T) {
	t.Run("not while the log refuses", func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		w.archived(subject.Publish(alice), `0`)
		free := w.fillLog()
		w.publish(subject.In(alice), `1`)
		w.eventually("seen that the log refuses", func() bool { return r.log.has("publish to the log") })
		if n := w.count(fabric.InStream(0)); n != 1 {
			t.Errorf("%d messages left in the stream", n)
		}
		if _, p := w.request(subject.Publish(alice), `2`); p == nil || p.Code != problem.Unavailable {
			t.Errorf("meanwhile a request got %v", p)
		}
		free()
		w.logged(2)
		w.drained()
	})
	t.Run("a message without id, stored and not acknowledged, is one message", func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		w.archived(subject.Publish(alice), `0`)
		reached := make(chan struct{}, 1)
		w.archive.disturb(nil, hang(reached)) // stored, and the process does not live to hear it
		w.publish(subject.In(alice), `1`)
		<-reached
		r.stop()
		w.archive.disturb(nil, nil)
		w.start()
		w.drained()
		log := w.logged(2)
		if log[1].Seq != 2 || string(log[1].Payload) != "1" {
			t.Errorf("%+v", log[1])
		}
		if next := w.archived(subject.Publish(alice), `2`); next.Seq != 3 {
			t.Errorf("the next number is %d", next.Seq)
		}
	})
	t.Run("not while quarantine refuses", func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		w.archived(subject.Publish(alice), `0`)
		if err := w.js.DeleteStream(t.Context(), fabric.QuarantineStream); err != nil {
			t.Fatal(err)
		}
		w.publish(subject.In(alice), `{`)
		w.eventually("seen that quarantine refuses", func() bool { return r.log.has("quarantine") })
		if n := w.count(fabric.InStream(0)); n != 1 {
			t.Errorf("%d messages left in the stream", n)
		}
		facts := w.archive.Facts()
		if err := fabric.Create(t.Context(), w.js, fabric.Facts{Epoch: facts.Epoch, Partitions: 1}, fabric.Options{MaxPayload: w.nc.MaxPayload()}); err != nil {
			t.Fatal(err)
		}
		w.drained()
		if n := w.count(fabric.QuarantineStream); n != 1 {
			t.Errorf("%d in quarantine", n)
		}
	})
}

func TestArchiveDown(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	up := w.archive.down()
	const n = 50
	for i := 1; i <= n; i++ {
		w.publish(subject.In(alice), fmt.Sprint(i)) // accepted all the same
	}
	before := w.archive.tried()
	w.eventually("tried again", func() bool { return w.archive.tried() > before+1 })
	for range 3 {
		begun := time.Now()
		_, p := w.request(subject.Publish(alice), `x`, "Content-Type", "text/plain", "Weft-Id", "mine")
		if p == nil || p.Code != problem.Unavailable || !p.Retry || !strings.Contains(p.Message, "mine") || time.Since(begun) > ownerTimeout/2 {
			t.Errorf("%v after %s", p, time.Since(begun))
		}
	}
	if got := w.count(fabric.MsgStream(0)); got != 1 {
		t.Errorf("%d in the log", got)
	}
	up()
	for i, m := range w.logged(n + 1) {
		if m.Seq != uint64(i)+1 || string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("%d: %+v", i, m)
		}
	}
	w.drained()
}

// An archive that stores and fails to say so is asked again: nothing is numbered twice, nobody is answered twice.
func TestArchiveFailsAfterStoring(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	fails := 3
	w.archive.disturb(nil, func(context.Context) error {
		if fails--; fails >= 0 {
			return errors.New("the answer got lost")
		}
		return nil
	})
	w.publish(subject.In(alice), `1`)
	w.publish(subject.In(alice), `2`)
	w.logged(3)
	w.drained()
	if m := w.archived(subject.Publish(alice), `3`); m.Seq != 4 {
		t.Errorf("sequence %d", m.Seq)
	}
}

// A request whose batch fails again and again is answered once.
func TestOneAnswer(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	fails := 3
	w.archive.disturb(func(context.Context) error {
		if fails--; fails >= 0 {
			return errors.New("the archive is down")
		}
		return nil
	}, nil)
	answers, err := w.nc.SubscribeSync(w.nc.NewRespInbox())
	if err != nil {
		t.Fatal(err)
	}
	m := &message.Message{To: alice, ID: "x", Payload: []byte("1")}
	request := &nats.Msg{Subject: subject.Collect(0), Reply: answers.Subject, Data: message.AppendEntry(nil, alice, message.Entry{Message: m})}
	if err := w.nc.PublishMsg(request); err != nil {
		t.Fatal(err)
	}
	w.logged(2) // what was refused may have been stored, so it goes on
	w.archived(subject.Publish(alice), `2`)
	if n, _, err := answers.Pending(); n != 1 || err != nil {
		t.Errorf("%d answers, %v", n, err)
	}
}

func TestRedisIsACache(t *testing.T) {
	t.Run("away", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.archived(subject.Publish(alice), `0`)
		w.stopRedis()
		for i := 1; i < 20; i++ {
			w.archived(subject.Publish(alice), fmt.Sprint(i))
		}
		w.logged(20)
	})
	t.Run("hanging", func(t *testing.T) {
		w := newWorld(t)
		l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		r := w.start(func(c *Config) { c.Redis = "redis://" + l.Addr().String() })
		w.archived(subject.Publish(alice), `0`)
		begun := time.Now()
		for i := 1; i < 10; i++ {
			w.archived(subject.Publish(alice), fmt.Sprint(i))
		}
		if took := time.Since(begun); took > 4*hintTimeout {
			t.Errorf("9 messages took %s", took)
		}
		if !r.log.has("raise heads in Redis") {
			t.Error("nobody was told")
		}
	})
}

func TestNothingForgottenByTheLog(t *testing.T) {
	fill := func(w *world, n int) {
		for i := range n {
			w.publish(subject.In(alice), fmt.Sprint(i))
		}
		w.logged(n)
		w.drained()
	}
	// lose empties the log as a power failure does: a server that starts again knows no ids of what it lost.
	lose := func(w *world) {
		s, err := w.js.Stream(t.Context(), fabric.MsgStream(0))
		if err == nil {
			err = s.Purge(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		w.restart()
	}
	sequences := func(w *world) map[uint64]bool {
		seen := map[uint64]bool{}
		for _, m := range w.stored(fabric.MsgStream(0)) {
			entries, _ := message.DecodeEntries(m.Data)
			seen[entries[0].From] = true
		}
		return seen
	}
	t.Run("a new term", func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		fill(w, 10)
		r.stop()
		lose(w)
		w.start()
		w.eventually("published again", func() bool { return len(sequences(w)) == 10 })
	})
	t.Run("the rest after a failure in the middle", func(t *testing.T) {
		w := newWorld(t)
		r := w.start()
		fill(w, 3)
		r.stop()
		old := &aged{faulty: w.archive}
		s, err := New(r.cfg, w.nc, r.Service.log)
		if err != nil {
			t.Fatal(err)
		}
		s.archive, s.js = old, w.js
		term := &term{Service: s}
		lose(w)
		term.republish(t.Context())
		if old.calls != 2 || old.since[0] != old.since[1] {
			t.Errorf("asked the archive from %v on", old.since)
		}
		if got := len(sequences(w)); got != 3 {
			t.Errorf("%d of 3 in the log", got)
		}
	})
	t.Run("a reconnect", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		fill(w, 5)
		lose(w)
		w.eventually("published again", func() bool { return len(sequences(w)) == 5 })
	})
	t.Run("a log that has gone back", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		fill(w, 5)
		if err := w.js.DeleteStream(t.Context(), fabric.MsgStream(0)); err != nil {
			t.Fatal(err)
		}
		facts := w.archive.Facts()
		if err := fabric.Create(t.Context(), w.js, fabric.Facts{Epoch: facts.Epoch, Partitions: 1}, fabric.Options{MaxPayload: w.nc.MaxPayload()}); err != nil {
			t.Fatal(err)
		}
		w.archived(subject.Publish(alice), `5`)
		w.eventually("published again", func() bool { return len(sequences(w)) == 6 })
	})
}

// aged is an archive whose Since fails after its first chunk, once.
type aged struct {
	*faulty
	calls int
	since []int64
}

func (a *aged) Since(ctx context.Context, p int, archived int64, fn func([]*message.Message) error) error {
	a.calls++
	a.since = append(a.since, archived)
	if a.calls > 1 {
		return a.faulty.Since(ctx, p, archived, fn)
	}
	return errors.Join(a.faulty.Since(ctx, p, archived, func(all []*message.Message) error { return fn(all[:1]) }), errors.New("lost the archive"))
}

func TestNothingHidden(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	long := strings.Repeat("t", 250)
	for i := range 3000 {
		w.publish(subject.In(alice), `1`, "Weft-Id", fmt.Sprint(long, i), "Weft-Type", long)
	}
	w.publish(subject.In(alice), `2`, "Weft-TTL", "1ms")
	w.drained()
	w.archived(subject.Publish(alice), `3`)
	w.drained()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // an answer that is too large never comes
	defer cancel()
	var next uint64 = 1
	pages := 0
	for ; next <= 3002; pages++ {
		page, err := history.Read(ctx, w.nc, alice, next-1, 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if page.Head != 3002 || page.Epoch != r.archive.Facts().Epoch || len(page.Entries) == 0 {
			t.Fatalf("head %d, epoch %q, %d entries", page.Head, page.Epoch, len(page.Entries))
		}
		for _, e := range page.Entries {
			if e.From != next || e.To < e.From || (e.Message == nil) != (e.Why != "") {
				t.Fatalf("expected %d: %+v", next, e)
			}
			if (e.From == 3001) != (e.Why == message.WhyExpired) {
				t.Errorf("%d: %q", e.From, e.Why)
			}
			next = e.To + 1
		}
	}
	if pages < 2 {
		t.Errorf("%d page", pages) // 3,000 messages with long ids and types are more than one NATS message
	}
}

func TestPurgeKeepsTheHead(t *testing.T) {
	w := newWorld(t)
	short := func(c *Config) {
		c.Policy, c.PurgeEvery = archive.Policy{Retention: time.Millisecond}, 20*time.Millisecond
	}
	r := w.start(short)
	for range 3 {
		w.archived(subject.Publish(alice), `1`)
	}
	w.eventually("purged", func() bool {
		page, err := w.archive.Read(t.Context(), alice, 0, 0, 1<<20, time.Now())
		return err == nil && page.Head == 3 && len(page.Entries) > 0 && page.Entries[0].Why == message.WhyRetention
	})
	r.stop()
	w.start(short)
	if m := w.archived(subject.Publish(alice), `1`); m.Seq != 4 {
		t.Errorf("sequence %d after the purge", m.Seq)
	}
}
