package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/subject"
)

// books is an archive whose ledger fails where a test wants it to: before a step, or after it is stored.
type books struct {
	archive.Archive

	mu     sync.Mutex // protects what follows
	failAt string
	failed chan struct{} // a signal for each failure
	times  map[string]int
}

var errBooks = errors.New("the ledger fails")

// books puts them before the world's archive.
func (w *world) books() *books {
	b := &books{Archive: w.archive.Archive, failed: make(chan struct{}, 1), times: make(map[string]int)}
	w.archive.Archive = b
	return b
}

// fail makes a step fail from now on; none if it is empty.
func (b *books) fail(at string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failAt = at
}

func (b *books) at(step string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.times[step]++
	if step != b.failAt {
		return nil
	}
	select {
	case b.failed <- struct{}{}:
	default:
	}
	return errBooks
}

// hasFailed waits until it has.
func (b *books) hasFailed(t *testing.T) {
	t.Helper()
	select {
	case <-b.failed:
	case <-time.After(patience):
		t.Fatal("the ledger was not asked to do what fails")
	}
}

func (b *books) count(step string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.times[step]
}

// step does one, unless it fails before, and says that it failed after.
func (b *books) step(name string, do func() error) error {
	if err := b.at("before " + name); err != nil {
		return err
	}
	return errors.Join(do(), b.at("after "+name))
}

func (b *books) Asked(ctx context.Context, cursors []history.Cursor) (owed []archive.Settled, err error) {
	err = b.step("asked", func() (err error) { owed, err = b.Archive.Asked(ctx, cursors); return err })
	return owed, err
}

func (b *books) Settle(ctx context.Context, states []archive.Settled) (hold []archive.Settled, err error) {
	err = b.step("settle", func() (err error) { hold, err = b.Archive.Settle(ctx, states); return err })
	return hold, err
}

func (b *books) Advance(ctx context.Context, cursors []history.Cursor) error {
	return b.step("advance", func() error { return b.Archive.Advance(ctx, cursors) })
}

func (b *books) CloseAsked(ctx context.Context, lapsed []archive.Lapsed) error {
	return b.step("close", func() error { return b.Archive.CloseAsked(ctx, lapsed) })
}

// open makes devices of a user known.
func (w *world) open(user subject.Address, devices ...string) {
	w.t.Helper()
	for _, d := range devices {
		_, err := w.archive.Open(w.t.Context(), history.OpenRequest{Tenant: user.Tenant, User: user.ID, Device: d, Addresses: []string{user.Tokens()}})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// asked archives n messages to a user whose publisher wants receipts.
func (w *world) asked(to subject.Address, n int, pairs ...string) (last uint64) {
	w.t.Helper()
	for range n {
		last = w.archived(subject.Publish(to), `1`, append(pairs, message.HeaderReceipt, "delivered")...).Seq
	}
	return last
}

// later waits for the next millisecond.
func (w *world) later() {
	w.t.Helper()
	now := time.Now().UnixMilli()
	w.eventually("a millisecond later", func() bool { return time.Now().UnixMilli() > now })
}

// ack hands acknowledgements of devices over, as a push node does.
func (w *world) ack(cursors ...history.Cursor) {
	w.t.Helper()
	body, err := json.Marshal(cursors)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.js.PublishMsg(w.t.Context(), &nats.Msg{
		Subject: subject.Ack("node-1"), Data: body, Header: nats.Header{history.HeaderEpoch: {w.archive.Facts().Epoch}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// upTo is what a device says that has handled a user's messages.
func upTo(user subject.Address, device string, seq uint64) history.Cursor {
	return history.Cursor{Tenant: user.Tenant, User: user.ID, Device: device, Address: user.Tokens(), Seq: seq, At: time.Now().UnixMilli()}
}

func (w *world) ackDrained() {
	w.t.Helper()
	w.eventually("every acknowledgement taken in", func() bool { return w.count(fabric.AckStream) == 0 })
}

// told are the receipts of devices, as `device/sequence state`; the test fails where one message has two at a device, or
// one receipt has two names.
func (w *world) told() map[string]message.Receipt {
	w.t.Helper()
	all := map[string]message.Receipt{}
	names := map[string]bool{}
	for _, raw := range w.stored(fabric.ReceiptStream) {
		r := *decode[message.Receipt](w.t, raw.Data)
		to, err := subject.ParseAddress(subject.DefaultTenant, r.To)
		if err != nil || raw.Subject != subject.Receipt(to.Tokens()) || r.ID == "" || r.Seq == 0 || r.At == 0 {
			w.t.Errorf("%s: %s", raw.Subject, raw.Data)
		}
		if raw.Header.Get(jetstream.MsgIDHeader) != r.Receipt || r.Receipt == "" {
			w.t.Errorf("the receipt %q has the id %q", r.Receipt, raw.Header.Get(jetstream.MsgIDHeader))
		}
		key := fmt.Sprintf("%s/%s/%d", r.To, r.Device, r.Seq)
		if first, twice := all[key]; twice && first != r {
			w.t.Errorf("%s was told %+v and %+v", key, first, r)
		} else if !twice && names[r.Receipt] {
			w.t.Errorf("%s has the name of another receipt", key)
		}
		all[key], names[r.Receipt] = r, true
	}
	return all
}

// isTold checks that exactly these receipts were published, in whatever order.
func (w *world) isTold(state message.State, keys ...string) {
	w.t.Helper()
	told := w.told()
	for _, key := range keys {
		if told[key].State != state {
			w.t.Errorf("%s is told as %q, want %s", key, told[key].State, state)
		}
	}
	for key, r := range told {
		if !slices.Contains(keys, key) {
			w.t.Errorf("%s was told: %+v", key, r)
		}
	}
}

func keysOf(user subject.Address, device string, from, to uint64) (keys []string) {
	for seq := from; seq <= to; seq++ {
		keys = append(keys, fmt.Sprintf("%s/%s/%d", user, device, seq))
	}
	return keys
}

// cursorOf is how far the archive knows a device to be.
func (w *world) cursorOf(user subject.Address, device string) uint64 {
	w.t.Helper()
	answer, err := w.archive.Open(w.t.Context(), history.OpenRequest{Tenant: user.Tenant, User: user.ID, Device: device, Addresses: []string{user.Tokens()}})
	if err != nil {
		w.t.Fatal(err)
	}
	return answer.Positions[user.Tokens()].Cursor
}

// TestEachMessageHasOneReceiptOfEachDevice, of those that were known when it was archived, once they acknowledged it.
func TestEachMessageHasOneReceiptOfEachDevice(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.open(alice, "phone", "tablet", "muted")
	w.asked(alice, 2)
	w.archived(subject.Publish(alice), `3`) // did not ask
	w.asked(alice, 1)
	w.later() // what is of the same millisecond counts as known
	w.open(alice, "late")
	if told := w.told(); len(told) > 0 {
		t.Errorf("told before anybody acknowledged: %v", told)
	}
	begun := time.Now().UnixMilli()
	w.ack(upTo(alice, "phone", 1), upTo(alice, "tablet", 4), upTo(alice, "late", 4), upTo(alice, "phone", 2))
	w.ack(upTo(alice, "phone", 4))
	w.ack(upTo(alice, "stranger", 4), upTo(user(1), "phone", 1))
	w.ack(upTo(alice, "phone", 4), upTo(alice, "tablet", 3))
	w.ackDrained()
	want := append(keysOf(alice, "phone", 1, 2), keysOf(alice, "tablet", 1, 2)...)
	w.isTold(message.StateDelivered, append(want, keysOf(alice, "phone", 4, 4)[0], keysOf(alice, "tablet", 4, 4)[0])...)
	for key, r := range w.told() {
		if r.At < begun || r.At > time.Now().UnixMilli() {
			t.Errorf("%s at %d, acknowledged after %d", key, r.At, begun)
		}
	}
	w.asked(alice, 1)
	w.ack(upTo(alice, "late", 5))
	w.ackDrained()
	if _, known := w.told()[keysOf(alice, "late", 5, 5)[0]]; !known {
		t.Error("a device that came has no receipt of what came after it")
	}
}

// TestReceiptsSurviveACrashBetweenAnyTwoSteps: what was done is done again by somebody else, with the same receipts.
func TestReceiptsSurviveACrashBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"before asked", "after asked", "before settle", "after settle", "before advance", "after advance"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.books()
			first := w.start()
			w.open(alice, "phone", "muted")
			last := w.asked(alice, 3)
			b.fail(step)
			w.ack(upTo(alice, "phone", last))
			b.hasFailed(t)
			if told := w.told(); len(told) > 0 && step != "before advance" && step != "after advance" {
				t.Errorf("told before it was stored: %v", told)
			}
			first.stop()
			if w.count(fabric.AckStream) == 0 {
				t.Fatal("the acknowledgement is lost")
			}
			b.fail("")
			w.start()
			w.ackDrained()
			w.isTold(message.StateDelivered, keysOf(alice, "phone", 1, last)...)
			if at := w.cursorOf(alice, "phone"); at != last {
				t.Errorf("the cursor is at %d", at)
			}
		})
	}
}

// TestReceiptsWaitForTheirStream: while it refuses, nothing is lost, and cursors that owe no receipt rise.
func TestReceiptsWaitForTheirStream(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.open(alice, "phone", "muted")
	bob := user(1)
	w.open(bob, "phone")
	last := w.asked(alice, 3)
	w.archived(subject.Publish(bob), `1`)
	limit := func(bytes int64) {
		s, err := w.js.Stream(t.Context(), fabric.ReceiptStream)
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		c.MaxBytes, c.Discard = bytes, jetstream.DiscardNew
		if _, err := w.js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	w.ack(upTo(alice, "phone", last), upTo(bob, "phone", 1))
	w.eventually("seen that the stream refuses", func() bool { return r.log.has("publish receipts") })
	w.eventually("raised what owes nothing", func() bool { return w.cursorOf(bob, "phone") == 1 })
	if at := w.cursorOf(alice, "phone"); at != 0 {
		t.Errorf("the cursor is at %d, and its receipts are not out", at)
	}
	if w.count(fabric.AckStream) == 0 {
		t.Fatal("the acknowledgement is lost")
	}
	limit(-1)
	w.ackDrained()
	w.isTold(message.StateDelivered, keysOf(alice, "phone", 1, last)...)
	if at := w.cursorOf(alice, "phone"); at != last {
		t.Errorf("the cursor is at %d", at)
	}
}

// TestTwoCollectsTellTheSame of acknowledgements that both take in, over and over, while they are stopped and started.
func TestTwoCollectsTellTheSame(t *testing.T) {
	w := newWorld(t)
	w.start()
	a := w.start()
	const users, each = 8, 20
	for u := range users {
		w.open(user(u), "phone", "tablet")
		w.asked(user(u), each)
	}
	var want []string
	for seq := uint64(1); seq <= each; seq++ {
		for u := range users {
			w.ack(upTo(user(u), "phone", seq), upTo(user(u), "tablet", seq/2), upTo(user(u), "phone", seq/3))
		}
		if seq%7 == 0 {
			a.stop()
			a = w.start()
		}
	}
	for u := range users {
		want = append(append(want, keysOf(user(u), "phone", 1, each)...), keysOf(user(u), "tablet", 1, each/2)...)
	}
	w.eventually("all told", func() bool { return w.count(fabric.ReceiptStream) >= len(want) })
	w.isTold(message.StateDelivered, want...)
}

// TestNobodyWhoAskedCostsNothing but one look for each batch.
func TestNobodyWhoAskedCostsNothing(t *testing.T) {
	w := newWorld(t)
	b := w.books()
	w.start()
	w.open(alice, "phone")
	w.archived(subject.Publish(alice), `1`)
	w.ack(upTo(alice, "phone", 1))
	w.ackDrained()
	if asked, settled := b.count("before asked"), b.count("before settle"); asked != 1 || settled != 0 {
		t.Errorf("asked %d times, settled %d times", asked, settled)
	}
	if at := w.cursorOf(alice, "phone"); at != 1 {
		t.Errorf("the cursor is at %d", at)
	}
}

// TestAcknowledgementsOfAnyNode: one of before says no time, one has a clock that is ahead, one can't be read, one is of
// another archive. The ledger has the node, and no time that has not been.
func TestAcknowledgementsOfAnyNode(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.open(alice, "old", "ahead", "other")
	w.asked(alice, 1)
	begun := time.Now().UnixMilli()
	old, ahead := upTo(alice, "old", 1), upTo(alice, "ahead", 1)
	old.At, ahead.At = 0, time.Now().Add(time.Hour).UnixMilli()
	w.ack(old, ahead)
	for _, m := range []*nats.Msg{
		{Subject: subject.Ack("x"), Data: []byte("no JSON")},
		{Subject: subject.Routed("x"), Data: []byte("{}")},
		{Subject: subject.Ack("x"), Data: []byte(`[{"tenant":"default","user":"alice","device":"other","address":"default.user.alice","seq":1}]`), Header: nats.Header{history.HeaderEpoch: {"another"}}},
	} {
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	w.ackDrained()
	w.isTold(message.StateDelivered, append(keysOf(alice, "old", 1, 1), keysOf(alice, "ahead", 1, 1)...)...)
	for key, r := range w.told() {
		if r.At < begun || r.At > time.Now().UnixMilli() {
			t.Errorf("%s at %d", key, r.At)
		}
	}
	steps, err := w.archive.Steps(t.Context(), alice, 1)
	if err != nil || len(steps.Acked) != 2 || steps.Acked[0].Node != "node-1" || steps.Acked[1].Node != "node-1" {
		t.Errorf("%+v, %v", steps, err)
	}
}

// TestRoutesAreNoted in the archive, of this archive only.
func TestRoutesAreNoted(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`)
	w.archived(subject.Publish(alice), `2`)
	report := func(epoch string, r ledger.Routed) {
		body, err := json.Marshal([]ledger.Routed{r})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject.Routed("d1"), Data: body, Header: nats.Header{history.HeaderEpoch: {epoch}}}); err != nil {
			t.Fatal(err)
		}
	}
	report("another", ledger.Routed{Address: alice.Tokens(), From: 1, To: 2, At: 5, Nodes: []string{"wrong"}})
	report(w.archive.Facts().Epoch, ledger.Routed{Address: alice.Tokens(), From: 1, To: 2, At: 7, Nodes: []string{"a", "b"}})
	w.ackDrained()
	for seq := uint64(1); seq <= 2; seq++ {
		steps, err := w.archive.Steps(t.Context(), alice, seq)
		if err != nil || steps.Routed == nil || steps.Routed.At != 7 || !slices.Equal(steps.Routed.Nodes, []string{"a", "b"}) {
			t.Errorf("%d: %+v, %v", seq, steps.Routed, err)
		}
	}
}

// TestReceiptsAreAskedForAtEveryDoor. An id that comes again is the first message, whether or not it asks now.
func TestReceiptsAreAskedForAtEveryDoor(t *testing.T) {
	d := newDoor(t)
	for _, m := range []string{`{"to":"user:alice","id":"post","data":1,"receipt":"delivered"}`, `{"to":"user:alice","id":"plain","data":1}`} {
		if status, _, body := d.post("good", m); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
	}
	d.archived(subject.Publish(alice), `1`, "Weft-Id", "request", "weft-receipt", "delivered")
	d.publish(subject.In(alice), `1`, "Weft-Id", "stream", "WEFT-RECEIPT", "delivered")
	d.publish(subject.In(alice), `1`, "Weft-Id", "plain", "Weft-Receipt", "delivered")
	d.publish(subject.In(alice), `1`, "Weft-Id", "post")
	d.publish(subject.In(subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}), `1`, "Weft-Id", "topic", "Weft-Receipt", "delivered")
	d.drained()
	c := newCounter(t)
	if _, err := c.publisher("good").Publish(limit(t), &weftv1.PublishRequest{To: "user:alice", Id: "call", Data: []byte("1"), Receipt: "delivered"}); err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, w := range []*world{d.world, c.world} {
		for _, m := range w.logEntries() {
			if before, twice := asked[m.ID]; twice && before != m.Receipt {
				t.Errorf("%s asked and did not ask", m.ID)
			}
			asked[m.ID] = m.Receipt
		}
	}
	for id, want := range map[string]bool{"post": true, "request": true, "stream": true, "call": true, "plain": false} {
		if got, archived := asked[id]; got != want || !archived {
			t.Errorf("%s asks: %v, want %v", id, got, want)
		}
	}
	if _, archived := asked["topic"]; archived || d.count(fabric.QuarantineStream) != 1 {
		t.Error("receipts of a topic's devices are not refused")
	}
}
