package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// publish sends a message through the stream door and returns the PubAck's stream.
func publish(t *testing.T, nc *nats.Conn, subj, payload string, header nats.Header) string {
	t.Helper()
	reply, err := nc.RequestMsg(&nats.Msg{Subject: subj, Data: []byte(payload), Header: header}, patience)
	if err != nil {
		t.Fatalf("publish to %s: %v", subj, err)
	}
	var ack struct {
		Stream string          `json:"stream"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil || ack.Stream == "" {
		t.Fatalf("publish to %s: %s instead of a PubAck", subj, reply.Data)
	}
	return ack.Stream
}

// request sends a message through the request door, and again while it is told to: a partition may be between two
// owners.
func request(t *testing.T, nc *nats.Conn, to subject.Address, payload string, header nats.Header) (message.Receipt, problem.Problem) {
	t.Helper()
	for late := time.Now().Add(patience); ; {
		r, p := requestOnce(t, nc, to, payload, header)
		if !p.Retry || time.Now().After(late) {
			return r, p
		}
	}
}

func requestOnce(t *testing.T, nc *nats.Conn, to subject.Address, payload string, header nats.Header) (message.Receipt, problem.Problem) {
	t.Helper()
	reply, err := nc.RequestMsg(&nats.Msg{Subject: subject.Publish(to), Data: []byte(payload), Header: header}, patience)
	if err != nil {
		t.Fatalf("request to %s: %v", to, err)
	}
	var r message.Receipt
	var p problem.Problem
	target := any(&r)
	if reply.Header.Get("Nats-Service-Error-Code") != "" {
		target = &p
	}
	if err := json.Unmarshal(reply.Data, target); err != nil {
		t.Fatalf("request to %s: %s: %v", to, reply.Data, err)
	}
	return r, p
}

func user(id string) subject.Address { return subject.UserAddress("default", id) }

func withID(id string) nats.Header { return nats.Header{message.HeaderID: {id}} }

func TestOneMessageReachesEveryDevice(t *testing.T) { everywhere(t, oneMessageReachesEveryDevice) }

func oneMessageReachesEveryDevice(t *testing.T, f *fabric) {
	nc := f.connect()
	phone, laptop := f.device("alice", "phone", protocol.FromClient{}), f.device("alice", "laptop", protocol.FromClient{})
	publish(t, nc, "weft.in.default.user.alice", `{"hello":1}`, nil)
	for _, d := range []*device{phone, laptop} {
		if o := d.message(1); o.data() != `{"hello":1}` || o.ID == "" {
			t.Errorf("%s", o.raw)
		}
	}
}

func TestAnIDIsOneMessage(t *testing.T) { everywhere(t, anIDIsOneMessage) }

func anIDIsOneMessage(t *testing.T, f *fabric) {
	nc := f.connect()
	receipts, err := nc.SubscribeSync(subject.ReceiptAll)
	if err != nil {
		t.Fatal(err)
	}
	alice := f.device("alice", "phone", protocol.FromClient{})
	publish(t, nc, subject.In(user("alice")), `1`, withID("a"))
	alice.message(1)
	publish(t, nc, subject.In(user("alice")), `1`, withID("a"))
	if r, p := request(t, nc, user("alice"), `1`, withID("a")); r.Seq != 1 || r.State != message.StateArchived {
		t.Errorf("the same message at the request door: %+v %+v", r, p)
	}
	if _, p := request(t, nc, user("alice"), `2`, withID("a")); p.Code != problem.Conflict {
		t.Errorf("another body at the request door: %+v", p)
	}
	publish(t, nc, subject.In(user("alice")), `2`, withID("a"))
	told, err := receipts.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	var r message.Receipt
	if err := json.Unmarshal(told.Data, &r); err != nil || r.State != message.StateQuarantined || r.Reason != problem.Conflict || r.ID != "a" || told.Subject != "weft.receipt.default.user.alice" {
		t.Errorf("receipt %s on %s", told.Data, told.Subject)
	}
	if r, p := request(t, nc, user("bob"), `2`, withID("a")); r.Seq != 1 {
		t.Errorf("the same id to another address: %+v %+v", r, p)
	}
	if r, p := request(t, nc, subject.UserAddress("acme", "alice"), `2`, withID("a")); r.Seq != 1 {
		t.Errorf("the same id in another tenant: %+v %+v", r, p)
	}
	if r, p := request(t, nc, user("alice"), `3`, withID("b")); r.Seq != 2 {
		t.Errorf("the next message: %+v %+v", r, p)
	}
	alice.message(2)
	alice.silent()
}

func TestWhatWasMissedComesInOrderOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		nc := f.connect()
		d := f.device("alice", "phone", protocol.FromClient{})
		d.leave()
		publishMany(t, nc, "alice", 1, 1000)
		d = f.device("alice", "phone", protocol.FromClient{})
		receive(t, d, 1, 400)
		publishMany(t, nc, "alice", 1001, 1010) // live ones come after what was missed
		receive(t, d, 401, 1010)
		d.silent()
		d.leave()
		d = f.device("alice", "phone", protocol.FromClient{Epoch: d.welcome.Epoch, Cursors: map[string]uint64{"user:alice": 1010}})
		d.silent()
		if m := d.welcome.Mailboxes["user:alice"]; m.Head != 1010 || m.Next != 1011 {
			t.Errorf("%+v", m)
		}
	})
}

// publishMany publishes numbered payloads through the stream door.
func publishMany(t *testing.T, nc *nats.Conn, to string, from, upTo int) {
	t.Helper()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for n := from; n <= upTo; n++ {
		if _, err := js.PublishAsync(subject.In(user(to)), fmt.Appendf(nil, `{"n":%d}`, n)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("the stream door did not take everything")
	}
}

// receive checks that the numbered payloads come with their numbers as sequences, and acknowledges each.
func receive(t *testing.T, d *device, from, upTo int) {
	t.Helper()
	for n := from; n <= upTo; n++ {
		if o := d.message(uint64(n)); o.data() != fmt.Sprintf(`{"n":%d}`, n) {
			t.Fatalf("%s instead of %d", o.raw, n)
		}
		d.ack(uint64(n))
	}
}
