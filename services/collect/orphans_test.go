package collect

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

// A consumer whose floor is past messages that nobody was given, as a restart of the server leaves it: their cursors are
// raised, and nothing of them is left.
func TestOrphanedAcknowledgementsAreTakenIn(t *testing.T) {
	const orphans = 3
	w := newWorld(t)
	r := w.start()
	to := subject.UserAddress("default", "alice")
	for n := range orphans + 1 {
		w.archived(subject.Publish(to), "{}", "Weft-Id", fmt.Sprint(n))
	}
	r.stop()
	for n := range orphans + 1 {
		body, err := json.Marshal([]history.Cursor{{
			Tenant: "default", User: "alice", Device: fmt.Sprint("device-", n), Address: to.Tokens(), Seq: uint64(n + 1),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject.Ack("node"), Data: body}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := w.js.Stream(t.Context(), fabric.AckStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.ResetConsumerToSequence(t.Context(), fabric.AckConsumer, stream.CachedInfo().State.LastSeq); err != nil {
		t.Fatal(err)
	}
	r = w.start()
	w.eventually("only orphans are left", func() bool { return w.count(fabric.AckStream) == orphans })
	cursors := func() map[string]uint64 {
		devices, err := w.archive.Devices(t.Context(), "default", "alice")
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]uint64{}
		for _, d := range devices {
			all[d.Device] = d.Cursor
		}
		return all
	}
	if got := cursors(); len(got) != 1 {
		t.Fatalf("before they are taken in the cursors are %v", got)
	}
	for range 2 { // the second time there is nothing to do
		for _, k := range r.kinds() {
			if err := r.takeOrphans(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := cursors(); len(got) != orphans+1 || got["device-0"] != 1 || got["device-2"] != 3 {
		t.Errorf("the cursors are %v", got)
	}
	if n := w.count(fabric.AckStream); n != 0 {
		t.Errorf("%d are left", n)
	}
}
