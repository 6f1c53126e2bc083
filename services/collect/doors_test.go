package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

func decode[T any](t testing.TB, data []byte) *T {
	t.Helper()
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return v
}

func TestBothDoorsShareOneSequence(t *testing.T) {
	w := newWorld(t)
	w.start()
	first := w.archived(subject.Publish(alice), `{"n":1}`, "Weft-Id", "a")
	if first.Seq != 1 || first.ID != "a" || first.To != "user:alice" || first.State != message.StateArchived || first.At == 0 {
		t.Errorf("%+v", first)
	}
	w.publish(subject.In(alice), `{"n":2}`, "weft-id", "b", "WEFT-TYPE", "t", "Traceparent", "00-1-2-3", "content-type", "application/json")
	w.logged(2)
	third := w.archived(subject.Publish(alice), `{"n":3}`)
	if third.Seq != 3 || third.ID == "" {
		t.Errorf("%+v", third)
	}
	log := w.logged(3)
	for i, m := range log {
		if m.Seq != uint64(i)+1 || string(m.Payload) != fmt.Sprintf(`{"n":%d}`, i+1) || m.Archived == 0 || m.To != alice {
			t.Errorf("%d: %+v", i, m)
		}
	}
	if m := log[1]; m.ID != "b" || m.Type != "t" || m.Trace != "00-1-2-3" || m.ContentType != "application/json" {
		t.Errorf("headers in odd case: %+v", m)
	}
	w.drained()
}

func TestSameIDAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`, "Weft-Id", "a")
	if again := w.archived(subject.Publish(alice), `1`, "Weft-Id", "a"); again.Seq != 1 {
		t.Errorf("again it got %d", again.Seq)
	}
	if _, refusal := w.request(subject.Publish(alice), `2`, "Weft-Id", "a"); refusal == nil || refusal.Code != problem.Conflict || refusal.Field != message.HeaderID {
		t.Errorf("another body: %v", refusal)
	}
	w.publish(subject.In(alice), `1`, "Weft-Id", "a")
	w.publish(subject.In(alice), `3`, "Weft-Id", "a")
	w.drained()
	if next := w.archived(subject.Publish(alice), `1`, "Weft-Id", "b"); next.Seq != 2 {
		t.Errorf("the next number is %d", next.Seq)
	}
	// Another address and another tenant are other mailboxes.
	for _, to := range []subject.Address{subject.UserAddress("default", "bob"), subject.UserAddress("other", "alice")} {
		if m := w.archived(subject.Publish(to), `9`, "Weft-Id", "a"); m.Seq != 1 {
			t.Errorf("%s: %d", to.Tokens(), m.Seq)
		}
	}
	entries := w.stored(fabric.QuarantineStream)
	if len(entries) != 1 || entries[0].Subject != "weft.quarantine.conflict.default.user.alice" || string(entries[0].Data) != "3" {
		t.Fatalf("quarantine: %v", entries)
	}
	receipts := w.stored(fabric.ReceiptStream)
	if len(receipts) != 1 || receipts[0].Subject != "weft.receipt.default.user.alice" {
		t.Fatalf("receipts: %v", receipts)
	}
	if r := decode[message.Receipt](t, receipts[0].Data); r.ID != "a" || r.State != message.StateQuarantined || r.Reason != problem.Conflict || r.To != "user:alice" || r.Receipt != receipts[0].Header.Get("Nats-Msg-Id") {
		t.Errorf("%+v", r)
	}
	w.logged(4)
}

func TestRequestDoorRefuses(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`)
	for _, c := range []struct {
		subject, payload string
		header           []string
		code             problem.Code
		field            string
	}{
		{subject.Publish(alice), "", nil, problem.Empty, ""},
		{subject.Publish(alice), `{`, nil, problem.BadJSON, ""},
		{subject.Publish(alice), strings.Repeat("1", 64<<10+1), nil, problem.TooLarge, ""},
		{"weft.publish.default.robot.1", `1`, nil, problem.BadAddress, ""},
		{"weft.publish.default", `1`, nil, problem.BadAddress, ""},
		{"weft.publish.default.many", `1`, nil, problem.Unsupported, ""},
		{"weft.publish.default.user.=YWxpY2U", `1`, nil, problem.BadEncoding, ""},
		{"weft.publish.default.user." + strings.Repeat("a", 129), `1`, nil, problem.IDTooLong, ""},
		{subject.Publish(alice), `1`, []string{"Weft-TTL", "soon"}, problem.BadHeader, "Weft-TTL"},
		{subject.Publish(alice), `1`, []string{"Weft-TTL", strings.Repeat("1", 500<<10)}, problem.BadHeader, "Weft-TTL"},
		{subject.Publish(alice), `1`, []string{"Weft-Collapse", "k"}, problem.Unsupported, "Weft-Collapse"},
		{subject.Publish(alice), `1`, []string{"weft-receipt", "read"}, problem.BadHeader, "Weft-Receipt"},
		{"weft.publish.default.topic.news", `1`, []string{"Weft-Receipt", "delivered"}, problem.Unsupported, "Weft-Receipt"},
		{"weft.publish.default.all", `1`, []string{"Weft-Receipt", "delivered"}, problem.Unsupported, "Weft-Receipt"},
		{subject.Publish(alice), `1`, []string{"Weft-Id", strings.Repeat("i", 257)}, problem.BadHeader, "Weft-Id"},
	} {
		_, refusal := w.request(c.subject, c.payload, c.header...)
		if refusal == nil || refusal.Code != c.code || refusal.Field != c.field || refusal.Retry {
			t.Errorf("%s %.20q %.40v: %v", c.subject, c.payload, c.header, refusal)
		}
	}
}

// A request that reaches the owner by itself, past every check, is refused and stops nothing.
func TestOwnerTakesOnlyWhatADoorHasChecked(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`)
	gap := message.AppendEntry(nil, alice, message.Entry{From: 1, To: 2, Why: message.WhyExpired})
	anonymous := message.AppendEntry(nil, alice, message.Entry{Message: &message.Message{To: alice, Payload: []byte("1")}})
	for _, data := range [][]byte{nil, []byte("x"), gap, anonymous} {
		_, err := rpc.Send(t.Context(), w.nc, &nats.Msg{Subject: subject.Collect(0), Data: data})
		if !errors.Is(err, problem.New(problem.BadRequest, "")) {
			t.Errorf("%q: %v", data, err)
		}
	}
	w.logged(1)
}

func TestWithoutOwnerTheRequestDoorAnswersAtOnce(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.archived(subject.Publish(alice), `1`)
	r.stop()
	s, err := New(r.cfg, w.nc, r.Service.log)
	if err != nil {
		t.Fatal(err)
	}
	s.archive = w.archive
	begun := time.Now()
	_, err = s.pass(t.Context(), &message.Message{To: alice, ID: "x", Payload: []byte("1")})
	if p := problem.From(err); p.Code != problem.Unavailable || !p.Retry || !strings.Contains(p.Message, "x") || time.Since(begun) > ownerTimeout/2 {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

// When a term ends, those who wait at its door are told so; nobody waits for a time-out.
func TestTermEndsWithAnAnswerForEverybody(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.archived(subject.Publish(alice), `0`)
	reached := make(chan struct{}, 1)
	w.archive.disturb(hang(reached), nil)
	answers := w.nc.NewRespInbox()
	sub, err := w.nc.SubscribeSync(answers)
	if err != nil {
		t.Fatal(err)
	}
	const asked = 20
	for i := range asked {
		if i == 1 {
			<-reached // the first is in the archive's hands, the others wait at the door
		}
		m := &message.Message{To: alice, ID: fmt.Sprint("m", i), Payload: []byte("1")}
		request := &nats.Msg{Subject: subject.Collect(0), Reply: answers, Data: message.AppendEntry(nil, alice, message.Entry{Message: m})}
		if err := w.nc.PublishMsg(request); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r.stop()
	for range asked {
		m, err := sub.NextMsg(ownerTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if p := decode[problem.Problem](t, m.Data); p.Code != problem.Unavailable {
			t.Errorf("%s", m.Data)
		}
	}
	if took := time.Since(begun); took > ownerTimeout/2 {
		t.Errorf("it took %s", took)
	}
	if n, _, err := sub.Pending(); n != 0 || err != nil {
		t.Errorf("%d answers too many, %v", n, err)
	}
}

func TestStreamDoorGivesAnIDThatRedeliveriesRepeat(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.publish(subject.In(alice), `1`)
	w.publish(subject.In(alice), `1`)
	log := w.logged(2)
	if log[0].ID == log[1].ID || len(log[0].ID) != 26 {
		t.Errorf("ids %s and %s", log[0].ID, log[1].ID)
	}
	r.stop()
	at := time.UnixMilli(log[0].At)
	once, again, later := streamID("WEFT_IN_0", 7, at), streamID("WEFT_IN_0", 7, at), streamID("WEFT_IN_0", 7, at.Add(1))
	if once != again || once == later {
		t.Error("the id is not one of place and time")
	}
}
