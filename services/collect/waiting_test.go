package collect

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

func undeliveredAfter(d time.Duration) func(*Config) {
	return func(c *Config) { c.UndeliveredAfter = d }
}

// put publishes a message at the stream door and returns when the archive has it.
func (w *world) put(to subject.Address, id string, headers ...string) {
	w.t.Helper()
	m := &nats.Msg{Subject: subject.In(to), Data: []byte(`"x"`), Header: nats.Header{message.HeaderID: {id}}}
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	if _, err := w.js.PublishMsg(w.t.Context(), m); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(id+" is archived", func() bool {
		found, _, err := w.archive.Find(w.t.Context(), to.Tenant, id, 10)
		return err == nil && len(found) > 0
	})
}

// waits are the messages told as undelivered, each as often as it was.
func (w *world) waits() (ids []string) {
	w.t.Helper()
	for _, e := range w.happened() {
		if e.What == event.Undelivered {
			ids = append(ids, e.Message.ID)
		}
	}
	return ids
}

func TestWhatWaitsIsToldOnce(t *testing.T) {
	t.Parallel() // it waits for clocks, mostly
	const after = 3 * time.Second
	w := newWorld(t)
	past := &message.Message{To: subject.UserAddress("default", "dave"), ID: "long ago", At: time.Now().UnixMilli(), ContentType: "text/plain", Payload: []byte("x")}
	if _, err := w.archive.Append(t.Context(), 0, []*message.Message{past}, archive.Heads{}); err != nil {
		t.Fatal(err)
	}
	<-time.After(after + 100*time.Millisecond) // a fabric with a past: this has waited for long when it is first looked at

	r := w.start(undeliveredAfter(after))
	w.put(alice, "acknowledged")
	w.put(alice, "waits", message.HeaderReceipt, "delivered", message.HeaderType, "mail")
	w.put(bob, "expires", message.HeaderTTL, "1s")
	w.put(subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}, "to all")
	w.put(bob, "waits too")
	if err := w.archive.Advance(t.Context(), []history.Cursor{{Tenant: "default", User: "alice", Device: "phone", Address: alice.Tokens(), Seq: 1}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("all is told", func() bool { return len(w.waits()) >= 2 })
	if got := fmt.Sprint(w.waits()); got != "[waits waits too]" {
		t.Errorf("told as undelivered are %s", got)
	}
	for _, e := range w.happened() {
		m := e.Message
		early := e.At < m.Archived+after.Milliseconds()
		if e.User != m.To[len("user:"):] || early || m.Waiting != after.Milliseconds() || m.Receipt != (m.ID == "waits") || m.ID == "waits" && (m.Type != "mail" || m.Seq != 2) {
			t.Errorf("%+v, %+v", e, m)
		}
		if held := time.Now().UnixMilli() - e.At; held < 0 {
			t.Errorf("%+v is told %d ms before its time", e, -held)
		}
	}
	r.stop()
	w.start(undeliveredAfter(after))
	w.put(bob, "later")
	w.eventually("the next is told", func() bool { return len(w.waits()) >= 3 })
	if got := fmt.Sprint(w.waits()); got != "[waits waits too later]" {
		t.Errorf("told as undelivered are %s", got)
	}
}

// TestACrashBeforeTheMarkMoves tells it again, under the same id: the stream has it once.
func TestACrashBeforeTheMarkMoves(t *testing.T) {
	t.Parallel() // it waits for clocks, mostly
	w := newWorld(t)
	w.fromTheBeginning()
	moves := make(chan struct{}, 1000)
	b := &brittle{Archive: w.archive.Archive, fail: func(step string) (bool, bool) {
		if step == "move" {
			moves <- struct{}{}
		}
		return step == "move", false
	}}
	w.archive.Archive = b
	r := w.start(undeliveredAfter(time.Second))
	w.put(alice, "waits")
	<-moves
	<-moves
	r.stop()
	b.mu.Lock()
	b.fail = func(string) (bool, bool) { return false, false }
	b.mu.Unlock()
	w.start(undeliveredAfter(time.Second))
	w.put(alice, "next")
	w.eventually("the next is told", func() bool { return len(w.waits()) >= 2 })
	if got := fmt.Sprint(w.waits()); got != "[waits next]" {
		t.Errorf("told as undelivered are %s", got)
	}
}

// TestNothingIsSaidToWaitWhileAcknowledgementsDo: they are in WEFT_ACK, and the archive does not take them.
func TestNothingIsSaidToWaitWhileAcknowledgementsDo(t *testing.T) {
	t.Parallel() // it waits for clocks, mostly
	w := newWorld(t)
	w.fromTheBeginning()
	tries := make(chan struct{}, 1000)
	b := &brittle{Archive: w.archive.Archive, fail: func(step string) (bool, bool) {
		if step == "advance" {
			tries <- struct{}{}
		}
		return step == "advance", false
	}}
	w.archive.Archive = b
	w.start(undeliveredAfter(time.Second))
	w.put(alice, "acknowledged")
	body := fmt.Sprintf(`[{"tenant":"default","user":"alice","device":"phone","address":%q,"seq":1}]`, alice.Tokens())
	if _, err := w.js.Publish(t.Context(), subject.Ack("one"), []byte(body)); err != nil {
		t.Fatal(err)
	}
	for range 4 { // after 1, 3 and 7 s again: by then it has waited for long enough, and was looked at
		<-tries
	}
	b.mu.Lock()
	b.fail = func(string) (bool, bool) { return false, false }
	b.mu.Unlock()
	w.put(bob, "next")
	w.eventually("the next is told", func() bool { return len(w.waits()) >= 1 })
	if got := fmt.Sprint(w.waits()); got != "[next]" {
		t.Errorf("told as undelivered are %s", got)
	}
}

// slowReader is an archive in whose answer something else happens before it arrives.
type slowReader struct {
	archive.Archive
	meanwhile func()
}

func (s *slowReader) Standing(ctx context.Context, addresses []subject.Address, device string) (map[subject.Address]archive.Standing, error) {
	standing, err := s.Archive.Standing(ctx, addresses, device)
	if do := s.meanwhile; do != nil {
		s.meanwhile = nil
		do()
	}
	return standing, err
}

// fromTheBeginning lets whoever looks for what waits leave nothing out as the past; call it before the first collect.
func (w *world) fromTheBeginning() {
	w.t.Helper()
	if _, err := w.archive.Mark(w.t.Context(), 0, archive.Mark{}); err != nil {
		w.t.Fatal(err)
	}
}

// walker looks for what waits when a test wants it to; make it before the first collect, whose mark would be later.
func (w *world) walker(s *slowReader, after time.Duration) *waiting {
	w.t.Helper()
	service := w.settler().Service
	service.archive, service.cfg.UndeliveredAfter = s, after
	w.fromTheBeginning()
	return &waiting{Service: service}
}

// TestWhatIsAcknowledgedAsItIsLookedAt does not count as waiting: the acknowledgement came in time, and was taken in between
// the look at the cursors and the look at what is under way.
func TestWhatIsAcknowledgedAsItIsLookedAt(t *testing.T) {
	w := newWorld(t)
	b := w.books()
	const after = time.Minute
	walker := w.walker(&slowReader{Archive: b, meanwhile: func() { b.fail(""); w.ackDrained() }}, after)
	w.start(undeliveredAfter(0))
	w.put(alice, "acknowledged")
	w.put(bob, "waits")
	b.fail("before advance")
	w.ack(upTo(alice, "phone", 1))
	b.hasFailed(t)
	if err := walker.round(t.Context(), time.Now().Add(2*after)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.waits()); got != "[waits]" {
		t.Errorf("told as undelivered are %s", got)
	}
}

// TestACollectThatWasPausedTellsNothing of what it looked at before: others have told it, or it was acknowledged since.
func TestACollectThatWasPausedTellsNothing(t *testing.T) {
	w := newWorld(t)
	walker := w.walker(&slowReader{Archive: w.archive}, -2*announceWithin) // so that a message of just now has waited for long
	w.start(undeliveredAfter(0))
	w.put(alice, "waits")
	looked := time.Now().Add(-announceWithin - time.Second)
	if err := walker.round(t.Context(), looked); err == nil || len(w.waits()) > 0 {
		t.Errorf("told as undelivered are %v, %v", w.waits(), err)
	}
	if err := walker.round(t.Context(), time.Now()); err != nil || len(w.waits()) != 1 {
		t.Errorf("at the next look told as undelivered are %v, %v", w.waits(), err)
	}
}
