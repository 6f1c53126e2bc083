package collect

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	w.start()
	heavy := make([]string, 0, 4002)
	heavy = append(heavy, "Weft-TTL", "soon")
	for i := range 2000 {
		heavy = append(heavy, fmt.Sprint("h", i), "v")
	}
	for _, c := range []struct {
		name, subject, payload string
		header                 []string
		on                     string // behind weft.quarantine. and weft.receipt.
		code                   problem.Code
		says, field            string
	}{
		{"empty", "weft.in.default.user.alice", "", nil, "default.user.alice", problem.Empty, "no payload", ""},
		{"too large", "weft.in.default.user.alice", strings.Repeat("1", 64<<10+1), nil, "default.user.alice", problem.TooLarge, "65536", ""},
		{"bad JSON", "weft.in.default.user.alice", `{"a":`, nil, "default.user.alice", problem.BadJSON, "not JSON", ""},
		{"not UTF-8", "weft.in.default.user.alice", "\"\xff\"", nil, "default.user.alice", problem.BadJSON, "UTF-8", ""},
		{"unknown kind", "weft.in.default.robot.1", "1", nil, "default.unaddressed", problem.BadAddress, "robot", ""},
		{"many", "weft.in.default.many", "1", nil, "default.unaddressed", problem.Unsupported, "not do it yet", ""},
		{"no address", "weft.in.default", "1", nil, "default.unaddressed", problem.BadAddress, "kind", ""},
		{"long id", "weft.in.default.user." + strings.Repeat("a", 129), "1", nil, "default.unaddressed", problem.IDTooLong, "129", ""},
		{"huge id", "weft.in.default.user.=" + strings.Repeat("\x01", 3000), "1", nil, "default.unaddressed", problem.BadEncoding, `\x01`, ""},
		{"needlessly encoded", "weft.in.default.user.=YWxpY2U", "1", nil, "default.unaddressed", problem.BadEncoding, "write alice", ""},
		{"wrongly encoded", "weft.in.default.user.=YQ==", "1", nil, "default.unaddressed", problem.BadEncoding, "base64url", ""},
		{"dot", "weft.in.default.user.a.b", "1", nil, "default.unaddressed", problem.BadEncoding, subject.Encode("a.b"), ""},
		{"percent", "weft.in.default.user.a%b", "1", nil, "default.unaddressed", problem.BadEncoding, subject.Encode("a%b"), ""},
		{"foreign tenant", "weft.in.a%b.user.x", "1", nil, "default.unaddressed", problem.BadEncoding, subject.Encode("a%b"), ""},
		{"bad TTL", "weft.in.default.user.alice", "1", []string{"weft-ttl", "soon"}, "default.user.alice", problem.BadHeader, "soon", "Weft-TTL"},
		{"collapse", "weft.in.default.user.alice", "1", []string{"Weft-Collapse", "x"}, "default.user.alice", problem.Unsupported, "Weft-Collapse", "Weft-Collapse"},
		{"long TTL", "weft.in.default.user.alice", "1", []string{"Weft-TTL", strings.Repeat("\x01", 64<<10-100)}, "default.user.alice", problem.BadHeader, "TTL", "Weft-TTL"},
		{"huge message id", "weft.in.default.user.alice", "1", []string{"Weft-Id", strings.Repeat("\x01", 63<<10)}, "default.user.alice", problem.BadHeader, "Weft-Id", "Weft-Id"},
		{"headers of JetStream", "weft.in.default.user.alice", "{", []string{"Nats-Msg-Id", "x", "Weft-Reason", "mine", "A", "1", "A", "2"}, "default.user.alice", problem.BadJSON, "JSON", ""},
		{"many headers", "weft.in.default.user.alice", strings.Repeat("x", 984<<10), heavy, "default.user.alice", problem.BadHeader, "TTL", "Weft-TTL"},
		{"the server's most", "weft.in.default.user.alice", strings.Repeat("x", 1<<20-16<<10), nil, "default.user.alice", problem.TooLarge, "bytes", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, receipts := w.count(fabric.QuarantineStream), w.count(fabric.ReceiptStream)
			w.publish(c.subject, c.payload, c.header...)
			w.drained()
			entries := w.stored(fabric.QuarantineStream)[before:]
			if len(entries) != 1 {
				t.Fatalf("%d entries", len(entries))
			}
			e := entries[0]
			if want := "weft.quarantine." + string(c.code) + "." + c.on; e.Subject != want {
				t.Errorf("on %s, not %s", e.Subject, want)
			}
			if e.Header.Get(quarantine.HeaderReason) != string(c.code) || !strings.Contains(e.Header.Get(quarantine.HeaderDetail), c.says) || e.Header.Get(quarantine.HeaderField) != c.field {
				t.Errorf("%.300v", e.Header)
			}
			if want := strings.Replace(c.subject, "weft.in.", "weft.inp.0.", 1); e.Header.Get(quarantine.HeaderSubject) != want {
				t.Errorf("subject %q", e.Header.Get(quarantine.HeaderSubject))
			}
			if got := originals(t, e); got.payload != c.payload || !sameHeader(got.header, header(c.header...)) {
				t.Errorf("original payload of %d bytes, headers %.300v", len(got.payload), got.header)
			}
			sent := w.stored(fabric.ReceiptStream)[receipts:]
			if len(sent) != 1 || sent[0].Subject != "weft.receipt."+c.on {
				t.Fatalf("receipts %v", sent)
			}
			r := decode[message.Receipt](t, sent[0].Data)
			if r.State != message.StateQuarantined || r.Reason != c.code || r.ID == "" || r.Seq != 0 || !strings.Contains(r.Message, c.says) {
				t.Errorf("%.500s", sent[0].Data)
			}
		})
	}
	if m := w.archived(subject.Publish(alice), `1`); m.Seq != 1 {
		t.Errorf("what was quarantined took numbers up to %d", m.Seq)
	}
}

// original is a message as its publisher sent it.
type original struct {
	header  nats.Header
	payload string
}

// originals puts a quarantined message together again.
func originals(t *testing.T, e *jetstream.RawStreamMsg) original {
	t.Helper()
	header, payload, err := quarantine.Unpack(e.Header, e.Data)
	if err != nil {
		t.Fatal(err)
	}
	return original{header: header, payload: string(payload)}
}

func sameHeader(a, b nats.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if strings.Join(a[name], "\n") != strings.Join(b[name], "\n") {
			return false
		}
	}
	return true
}

func TestServerRefusesWhatQuarantineCouldNotHold(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`)
	_, err := w.js.Publish(t.Context(), subject.In(alice), bytes.Repeat([]byte("1"), 1<<20-1))
	if failure, ok := errors.AsType[*jetstream.APIError](err); !ok {
		t.Errorf("the server took it: %v", failure)
	}
}

func TestReceiptNamesThePublishersID(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.publish(subject.In(alice), `1`, "ce-id", "mine", "Weft-TTL", "soon")
	w.publish("weft.in.default.robot.1", `1`, "Weft-Id", "mine too")
	w.drained()
	w.eventually("both in quarantine", func() bool { return w.count(fabric.ReceiptStream) == 2 })
	for i, id := range []string{"mine", "mine too"} {
		if r := decode[message.Receipt](t, w.stored(fabric.ReceiptStream)[i].Data); r.ID != id {
			t.Errorf("%+v", r)
		}
	}
}

func TestQuarantineTwiceIsOnce(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.archived(subject.Publish(alice), `0`, "Weft-Id", "a")
	// One batch with a good message and a bad one: while the log refuses the good one, nothing is finished.
	free := w.fillLog()
	w.publish(subject.In(alice), `{`)
	w.drained() // alone it does not need the log
	w.publish(subject.In(alice), `1`)
	w.publish(subject.In(alice), `{`)
	w.eventually("seen that the log refuses", func() bool { return r.log.has("publish to the log") })
	r.stop()
	free()
	w.start()
	w.drained()
	if n, m := w.count(fabric.QuarantineStream), w.count(fabric.ReceiptStream); n != 2 || m != 2 {
		t.Errorf("%d in quarantine, %d receipts", n, m)
	}
	// The same delivery set aside by two owners is one entry.
	in := intake{refusal: problem.New(problem.Empty, "x"), delivery: &delivery{subject: subject.InPartition(0, alice)}, place: "p"}
	again := &term{Service: &Service{js: w.js}}
	for range 2 {
		if err := again.setAside(t.Context(), &in); err != nil {
			t.Fatal(err)
		}
	}
	if n, m := w.count(fabric.QuarantineStream), w.count(fabric.ReceiptStream); n != 3 || m != 3 {
		t.Errorf("%d in quarantine, %d receipts", n, m)
	}
}

// delivery is one that no server made.
type delivery struct {
	jetstream.Msg
	subject string
}

func (d *delivery) Subject() string      { return d.subject }
func (d *delivery) Data() []byte         { return nil }
func (d *delivery) Headers() nats.Header { return nil }

func TestForeignPartitionIsRefused(t *testing.T) {
	s := &Service{archive: partitioned{}}
	to, p := subject.UserAddress("default", "bob"), 0
	for subject.Partition(to, 4) == p {
		p++
	}
	term := &term{Service: s, partition: p}
	if in := term.fromDoor(&nats.Msg{Data: message.AppendEntry(nil, to, message.Entry{Message: &message.Message{ID: "x"}})}); in.refusal == nil {
		t.Error("the owner takes a message of another partition")
	}
	term.partition = subject.Partition(to, 4)
	if in := term.fromDoor(&nats.Msg{Data: message.AppendEntry(nil, to, message.Entry{Message: &message.Message{ID: "x"}})}); in.refusal != nil {
		t.Error(in.refusal)
	}
}
