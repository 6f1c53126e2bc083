package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// operator asks the operators' service.
func operator[A any](w *world, endpoint string, question any) A {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	var answer A
	if err := rpc.Ask(ctx, w.nc, subject.Admin(endpoint), question, &answer); err != nil {
		w.t.Fatalf("%s: %v", endpoint, err)
	}
	return answer
}

var anna = admin.By{Who: "anna@desk"}

// What a publisher got wrong is mended and sent again: it keeps the id that its receipt named, and however often it is
// sent, because a process died between sending and removing, it is one message.
func TestOperatorSendsAgainWhatIsInQuarantine(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.publish(subject.In(alice), `1`, "Weft-TTL", "soon")
	w.drained()
	page := operator[admin.QuarantinePage](w, admin.QuarantineList, admin.QuarantineRequest{})
	if len(page.Entries) != 1 {
		t.Fatalf("in quarantine: %+v", page.Entries)
	}
	named := decode[message.Receipt](t, w.stored(fabric.ReceiptStream)[0].Data).ID
	// What a process leaves that died when it had published and not removed.
	w.publish(subject.In(alice), `1`, "Weft-TTL", "1h", message.HeaderID, named)
	w.drained()
	one := admin.QuarantineOne{Number: page.Entries[0].Number, Set: map[string]string{"Weft-TTL": "1h"}, By: anna}
	if done := operator[admin.QuarantineDone](w, admin.QuarantineReplay, one); done.ID != named {
		t.Errorf("sent again as %s, the receipt says %s", done.ID, named)
	}
	w.drained()
	logged := w.logEntries()
	for _, m := range logged {
		if m.ID != named || m.Seq != 1 || m.Expires == 0 {
			t.Errorf("archived %+v", m)
		}
	}
	if len(logged) == 0 || w.count(fabric.QuarantineStream) != 0 {
		t.Errorf("%d logged, %d in quarantine", len(logged), w.count(fabric.QuarantineStream))
	}
}

// A forced replay makes new messages by the owner, which the log has and a replay leaves alone; without force nothing is
// below the cursor.
func TestOperatorForcesWhatWasAcknowledged(t *testing.T) {
	w := newWorld(t)
	w.start()
	for n := range 3 {
		w.archived(subject.Publish(alice), fmt.Sprint(n), message.HeaderID, fmt.Sprint("m", n))
	}
	if _, err := w.archive.Open(t.Context(), history.OpenRequest{Tenant: "default", User: "alice", Device: "phone", Addresses: []string{alice.Tokens()}}); err != nil {
		t.Fatal(err)
	}
	if err := w.archive.Advance(t.Context(), []history.Cursor{{Tenant: "default", User: "alice", Device: "phone", Address: alice.Tokens(), Seq: 2, At: 1}}); err != nil {
		t.Fatal(err)
	}
	var sent []string
	sub, err := w.nc.Subscribe(subject.Dispatch(0), func(m *nats.Msg) {
		entries, _ := message.DecodeEntries(m.Data)
		var answer node.Replayed
		for _, e := range entries {
			sent, answer.Fates = append(sent, e.Message.ID), append(answer.Fates, node.FateAway)
		}
		body, _ := json.Marshal(answer)
		_ = m.Respond(body)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	total := operator[admin.UndeliveredPage](w, admin.Undelivered, admin.UndeliveredRequest{Count: true}).Total
	if total == nil || total.Messages != 1 || total.Reasons[admin.ReasonAway] != 1 {
		t.Errorf("undelivered: %+v", total)
	}
	q := admin.ReplayRequest{Run: "run", Force: true, By: anna}
	for range 2 {
		page := operator[admin.ReplayPage](w, admin.Replay, q)
		if !page.Finished || page.Copied != 2 || page.Waiting != 1 || page.Sent != 0 {
			t.Errorf("%+v", page)
		}
		q.Position = admin.ReplayPosition{End: page.Position.End} // the same once more
	}
	var log []string
	for _, m := range w.logged(5) {
		log = append(log, m.ID)
		if m.Again != (m.Seq > 3) {
			t.Errorf("logged %+v", m)
		}
	}
	if want := []string{"m0", "m1", "m2", "m0~run", "m1~run"}; !slices.Equal(log, want) {
		t.Errorf("logged %q", log)
	}
	if !slices.Equal(sent, []string{"m2", "m2"}) {
		t.Errorf("sent %q", sent)
	}
	records := operator[admin.RecordsAnswer](w, admin.Records, admin.RecordsRequest{}).Records
	if len(records) != 1 || records[0].ID != "run" || records[0].Count != 2 || records[0].By != anna {
		t.Errorf("recorded %+v", records)
	}
}

func TestEachCollectSaysWhatItOwns(t *testing.T) {
	w := newWorld(t)
	first, second := w.start(), w.start()
	w.eventually("owned by one", func() bool {
		answers, err := rpc.Gather[admin.CheckAnswer](t.Context(), w.nc, subject.Admin(admin.Check), struct{}{}, patience/10)
		if err != nil {
			t.Fatal(err)
		}
		if len(answers) != 2 {
			return false // the server may not have heard of the second's subscription yet
		}
		owns := make(map[string]int)
		for _, a := range answers {
			owns[a.Instance] += len(a.Owns)
		}
		return len(owns) == 2 && owns[first.id]+owns[second.id] == 1
	})
}
