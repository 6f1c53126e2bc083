package collect

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// hanging is an archive that takes no routes and no presence until it is let go.
type hanging struct {
	archive.Archive
	in  chan string // says what hangs; room for every call of a test
	out chan struct{}
}

func (h *hanging) hang(what string) {
	h.in <- what
	<-h.out
}

func (h *hanging) Route(ctx context.Context, reports []ledger.Routed) error {
	h.hang("route")
	return h.Archive.Route(ctx, reports)
}

func (h *hanging) Report(ctx context.Context, reports []archive.Report, now time.Time, grace time.Duration) error {
	h.hang("presence")
	return h.Archive.Report(ctx, reports, now, grace)
}

// TestAKindOfReportThatHangsKeepsNoOtherUp: cursors rise, and receipts are told, while routes and presence hang.
func TestAKindOfReportThatHangsKeepsNoOtherUp(t *testing.T) {
	w := newWorld(t)
	h := &hanging{Archive: w.archive.Archive, in: make(chan string, 64), out: make(chan struct{})}
	w.archive.Archive = h
	w.start()
	t.Cleanup(func() { close(h.out) }) // before the collect is stopped, which waits for what it began
	w.open(alice, "phone")
	w.archived(subject.Publish(alice), `1`, "Weft-Receipt", "delivered")
	send := func(to string, what any) {
		body, err := json.Marshal(what)
		if err != nil {
			t.Fatal(err)
		}
		m := &nats.Msg{Subject: to, Data: body, Header: nats.Header{history.HeaderEpoch: {w.archive.Facts().Epoch}}}
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	send(subject.Routed("d1"), []ledger.Routed{{Address: alice.Tokens(), From: 1, To: 1, At: 7, Nodes: []string{"a"}}})
	send(subject.Presence("a"), ledger.Presence{Users: []ledger.Seen{{User: alice.Tokens()}}})
	for hung := map[string]bool{}; !hung["route"] || !hung["presence"]; {
		select {
		case what := <-h.in:
			hung[what] = true
		case <-time.After(patience):
			t.Fatalf("only %v hang", hung)
		}
	}
	send(subject.Ack("a"), []history.Cursor{{Tenant: "default", User: "alice", Device: "phone", Address: alice.Tokens(), Seq: 1}})
	w.eventually("the publisher is told", func() bool { return len(w.told()) == 1 })
	w.isTold(message.StateDelivered, keysOf(alice, "phone", 1, 1)...)
	w.eventually("the cursor is raised", func() bool {
		devices, err := w.archive.Devices(t.Context(), "default", "alice")
		return err == nil && len(devices) == 1 && devices[0].Cursor == 1
	})
}

// TestAnAcknowledgementOfNoAddress keeps no other of its report up, and is not stored.
func TestAnAcknowledgementOfNoAddress(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.open(alice, "phone")
	w.archived(subject.Publish(alice), `1`)
	bad := upTo(alice, "phone", 1)
	bad.User, bad.Address = "mallory", "no address"
	w.ack(bad, upTo(alice, "phone", 1))
	w.ackDrained()
	devices, err := w.archive.Devices(t.Context(), "default", "alice")
	if err != nil || len(devices) != 1 || devices[0].Cursor != 1 {
		t.Errorf("alice's are %+v, %v", devices, err)
	}
	if devices, err := w.archive.Devices(t.Context(), "default", "mallory"); err != nil || len(devices) > 0 {
		t.Errorf("stored is %+v, %v", devices, err)
	}
}

// obliging is an archive that stores whatever is decided.
type obliging struct{ archive.Archive }

func (obliging) Attend(_ context.Context, some []archive.Attendance) ([]bool, error) {
	held := make([]bool, len(some))
	for i := range held {
		held[i] = true
	}
	return held, nil
}

// TestAbsenceWaitsForReportsOfPresence that lie in WEFT_ACK unread, and for no other kind of report.
func TestAbsenceWaitsForReportsOfPresence(t *testing.T) {
	w := newWorld(t)
	w.start().stop() // it has made the fabric; nobody reads reports now
	s := w.settler().Service
	s.archive = obliging{w.archive}
	isOffline := func(after string) bool {
		t.Helper()
		now := time.Now().Add(time.Hour)
		gone := archive.Attendance{User: alice, Told: true, Noted: now.Add(-s.cfg.OfflineAfter).UnixMilli()}
		decided, err := s.decideAll(t.Context(), []archive.Attendance{gone}, now)
		if err != nil || len(decided) != 1 {
			t.Fatalf("after %s: %v, %v", after, decided, err)
		}
		return decided[0].Open
	}
	for _, lies := range []struct {
		in      string
		offline bool
	}{{subject.Ack("a"), true}, {subject.Routed("d"), true}, {subject.Presence("a"), false}} {
		if _, err := w.js.Publish(t.Context(), lies.in, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if got := isOffline(lies.in); got != lies.offline {
			t.Errorf("while %s lies there offline is told: %v", lies.in, got)
		}
	}
}
