package client

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

func welcome(epoch string, next map[string]uint64) protocol.Welcome {
	w := protocol.Welcome{T: protocol.TWelcome, User: "alice", Device: "d", Epoch: epoch, Heartbeat: 20_000, Mailboxes: make(map[string]protocol.Mailbox)}
	for address, n := range next {
		w.Mailboxes[address] = protocol.Mailbox{Next: n}
	}
	return w
}

// ev is an event of an address.
func ev(address string, from, to uint64) *event { return &event{address: address, from: from, to: to} }

func TestWhatIsRead(t *testing.T) {
	l := newLedger(State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 5}}, []string{"news"})
	l.begin(welcome("e", map[string]uint64{"user:alice": 6, "topic:news": 100, "all": 0}))
	for _, c := range []struct {
		address  string
		from, to uint64
		news     uint64 // where the news begins; 0 for none
		broken   bool
	}{
		{"user:alice", 5, 5, 0, false},
		{"user:alice", 1, 5, 0, false},
		{"user:alice", 7, 7, 0, true},
		{"user:alice", 6, 6, 6, false},
		{"user:alice", 6, 6, 0, false},
		{"user:alice", 4, 9, 7, false},
		{"user:alice", 11, 11, 0, true},
		{"user:alice", 0, 0, 0, true},
		{"user:alice", 9, 6, 0, true},
		{"topic:news", 99, 99, 0, false},
		{"topic:news", 100, 100, 100, false},
		{"all", 1, 1, 1, false},
		{"topic:other", 1, 1, 0, true},
	} {
		e := ev(c.address, c.from, c.to)
		news, err := l.read(e)
		if news != (c.news > 0) || errors.Is(err, ErrProtocol) != c.broken || (err != nil) != c.broken || (news && e.from != c.news) {
			t.Errorf("%s %d to %d: news %v from %d, err %v", c.address, c.from, c.to, news, e.from, err)
		}
	}
}

// handle reads and handles the next messages of an address.
func handle(t *testing.T, l *ledger, address string, seqs ...uint64) {
	t.Helper()
	for _, seq := range seqs {
		e := ev(address, seq, seq)
		if news, err := l.read(e); err != nil || !news || !l.next(*e) {
			t.Fatalf("%s %d: news %v, %v", address, seq, news, err)
		}
		l.handled(*e)
	}
}

// saved saves as a Subscriber does, and returns the acknowledgements that are due then.
func saved(l *ledger) (acks map[string]uint64, s State) {
	s, news := l.take()
	if news {
		l.saved(s)
	}
	acks = make(map[string]uint64)
	for _, ack := range l.acks() {
		a := ack.(protocol.FromClient)
		acks[a.T+" "+a.Ch] = a.Seq
	}
	return acks, s
}

func TestAcknowledgementsAreTheHighestOfEachAddress(t *testing.T) {
	l := newLedger(State{}, nil)
	l.begin(welcome("e", map[string]uint64{"user:alice": 1, "all": 1}))
	handle(t, l, "user:alice", 1, 2, 3)
	handle(t, l, "all", 1)
	if acks := l.acks(); len(acks) != 0 {
		t.Errorf("acknowledged before it was saved: %v", acks)
	}
	acks, state := saved(l)
	if want := map[string]uint64{"ack ": 3, "ack all": 1}; !maps.Equal(acks, want) {
		t.Errorf("acknowledged %v, want %v", acks, want)
	}
	if want := (State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 3, "all": 1}}); !reflect.DeepEqual(state, want) {
		t.Errorf("state %v, want %v", state, want)
	}
	if acks, _ := saved(l); len(acks) != 0 {
		t.Errorf("acknowledged twice: %v", acks)
	}
}

// The connection ended while the handler had 2 and 3 was queued; both come again on the next one.
func TestASessionIsToldOnlyOfWhatItHasSent(t *testing.T) {
	l := newLedger(State{}, nil)
	l.begin(welcome("e", map[string]uint64{"user:alice": 1}))
	handle(t, l, "user:alice", 1)
	saved(l)
	two, three := ev("user:alice", 2, 2), ev("user:alice", 3, 3)
	for _, e := range []*event{two, three} {
		if news, err := l.read(e); err != nil || !news {
			t.Fatal(news, err)
		}
	}
	l.end()
	l.handled(*two)
	if acks, _ := saved(l); len(acks) != 0 {
		t.Errorf("%v without a session", acks)
	}
	var hello protocol.FromClient
	l.hello(&hello)
	if hello.Cursors["user:alice"] != 2 {
		t.Errorf("hello %+v, want the cursor 2", hello)
	}
	l.handled(*three) // between hello and welcome
	l.begin(welcome("e", map[string]uint64{"user:alice": 3}))
	if acks, _ := saved(l); len(acks) != 0 {
		t.Errorf("acknowledged %v, which the new session has not sent", acks)
	}
	if len(l.due) != 0 {
		t.Error("something is due that can't be said")
	}
	if news, err := l.read(ev("user:alice", 3, 3)); news || err != nil {
		t.Errorf("3 is news again, %v", err)
	}
	if len(l.due) != 1 {
		t.Error("nobody is told that 3 may be acknowledged now")
	}
	if acks, _ := saved(l); acks["ack "] != 3 {
		t.Errorf("acknowledged %v, want 3", acks)
	}
}

func TestSixtyFourCannotWait(t *testing.T) {
	l := newLedger(State{}, nil)
	l.begin(welcome("e", map[string]uint64{"user:alice": 1}))
	for seq := range uint64(ackMost) {
		if len(l.full) != 0 {
			t.Fatalf("%d can't wait", seq)
		}
		handle(t, l, "user:alice", seq+1)
	}
	if len(l.full) != 1 || len(l.due) != 1 {
		t.Error("nobody was told")
	}
}

func TestHelloNamesWhatIsWanted(t *testing.T) {
	l := newLedger(State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 5, "topic:a": 1, "topic:b": 2, "all": 3}}, []string{"b"})
	var hello protocol.FromClient
	l.hello(&hello)
	if want := map[string]uint64{"user:alice": 5, "topic:b": 2, "all": 3}; hello.Epoch != "e" || !maps.Equal(hello.Cursors, want) || !slices.Equal(hello.Topics, []string{"b"}) {
		t.Errorf("hello %+v; want the cursors %v", hello, want)
	}
}

// A hello's cursor is an acknowledgement: what was handled and not saved is not in it, and is acknowledged later.
func TestHelloNamesWhatIsSaved(t *testing.T) {
	l := newLedger(State{}, nil)
	l.begin(welcome("e", map[string]uint64{"user:alice": 1}))
	handle(t, l, "user:alice", 1)
	saved(l)
	handle(t, l, "user:alice", 2)
	l.end()
	var hello protocol.FromClient
	l.hello(&hello)
	if hello.Cursors["user:alice"] != 1 {
		t.Errorf("hello %+v, saved is 1", hello)
	}
	l.begin(welcome("e", map[string]uint64{"user:alice": 2}))
	if news, err := l.read(ev("user:alice", 2, 2)); news || err != nil {
		t.Errorf("2 is news again, %v", err)
	}
	if acks, _ := saved(l); acks["ack "] != 2 {
		t.Errorf("acknowledged %v, want 2", acks)
	}
}

func TestAnotherEpochForgetsTheCursors(t *testing.T) {
	l := newLedger(State{}, nil)
	l.begin(welcome("old", map[string]uint64{"user:alice": 500}))
	e := ev("user:alice", 500, 500)
	if _, err := l.read(e); err != nil {
		t.Fatal(err)
	}
	l.begin(welcome("new", map[string]uint64{"user:alice": 3}))
	if l.next(*e) {
		t.Error("a message of the old epoch is handed over")
	}
	l.handled(*e) // the handler had it
	if acks, s := saved(l); len(acks) != 0 || s.Cursors["user:alice"] != 2 || s.Epoch != "new" {
		t.Errorf("acks %v, state %v; want 2, before the server's next", acks, s)
	}
}

// FuzzMessage checks that whatever was published arrives as the very same bytes, under the same id and type.
func FuzzMessage(f *testing.F) {
	for _, payload := range []string{`{"hello":1}`, ` {"a": "b,\"data\":1"} `, "{\n}", `"}"`, "null", "\x00\xff", `{"data":{"data":1}}`} {
		f.Add([]byte(payload), "id", `x","data":1`, "application/json", uint64(7))
		f.Add([]byte(payload), `","data":`, "", "text/plain", uint64(1))
	}
	f.Fuzz(func(t *testing.T, payload []byte, id, kind, contentType string, seq uint64) {
		m := &message.Message{
			To: subject.Address{Tenant: "t", Kind: subject.Topic, ID: "news"}, Seq: seq, ID: id, Type: kind, ContentType: contentType, At: 1234, Payload: payload,
		}
		if m.Check(message.Limits{Payload: 1 << 20}) != nil {
			return
		}
		line := protocol.AppendMessage(nil, m)
		o, err := parse(line)
		if err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		e, err := eventOf(newLedger(State{}, nil).address(o.Ch), o)
		if err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		want := Message{Address: "topic:news", Seq: seq, ID: id, Type: kind, ContentType: m.ContentType, At: time.UnixMilli(1234), Data: payload}
		if !reflect.DeepEqual(e.message, want) {
			t.Fatalf("got  %+v\nwant %+v\nfrom %s", e.message, want, line)
		}
	})
}

// FuzzObject looks for an object that breaks the client.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"t":"msg","seq":1,"id":"x","at":1,"data":{}}`))
	f.Add([]byte(`{"t":"gap","from":1,"to":18446744073709551615,"why":"expired"}`))
	f.Add([]byte(`{"t":"msg","seq":-1,"data64":"!"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, line []byte) {
		o, err := parse(line)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("%v is not ErrProtocol", err)
			}
			return
		}
		l := newLedger(State{}, nil)
		l.begin(welcome("e", map[string]uint64{"user:alice": 1}))
		e, err := eventOf("user:alice", o)
		if err != nil {
			return
		}
		if news, err := l.read(&e); err == nil && news && (e.from > 1 || e.to < 1) {
			t.Fatalf("%d to %d is no news after 0", e.from, e.to)
		}
	})
}

func TestEndpoint(t *testing.T) {
	for raw, want := range map[string]string{
		"ws://127.0.0.1:8080":       "ws://127.0.0.1:8080/v1/ws",
		"http://127.0.0.1:8080":     "ws://127.0.0.1:8080/v1/ws",
		"https://push.example/":     "wss://push.example/v1/ws",
		"wss://push.example/a?b=c":  "wss://push.example/a?b=c",
		"push.example":              "is not ws://",
		"ws://":                     "names no host",
		"nats://127.0.0.1:4222":     "is not ws://",
		"ws://[::1":                 "can't be read",
		"ws://127.0.0.1:8080/v1/ws": "ws://127.0.0.1:8080/v1/ws",
	} {
		got, err := endpoint(raw)
		if !strings.Contains(got+fmt.Sprint(err), want) {
			t.Errorf("%s: %s, %v; want %s", raw, got, err, want)
		}
	}
}
