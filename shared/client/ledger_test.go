package client

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
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

func TestPlace(t *testing.T) {
	l := newLedger(State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 5}})
	l.begin(welcome("e", map[string]uint64{"user:alice": 6, "topic:news": 100, "all": 0}))
	for _, c := range []struct {
		address  string
		from, to uint64
		news     bool
		broken   bool
	}{
		{"user:alice", 5, 5, false, false},
		{"user:alice", 1, 5, false, false},
		{"user:alice", 6, 6, true, false},
		{"user:alice", 4, 9, true, false},
		{"user:alice", 7, 7, false, true},
		{"user:alice", 0, 0, false, true},
		{"user:alice", 9, 6, false, true},
		{"topic:news", 99, 99, false, false},
		{"topic:news", 100, 100, true, false},
		{"all", 1, 1, true, false},
		{"topic:other", 1, 1, false, true},
	} {
		news, err := l.place(c.address, c.from, c.to)
		if news != c.news || errors.Is(err, ErrProtocol) != c.broken || (err != nil) != c.broken {
			t.Errorf("%s %d to %d: news %v, err %v", c.address, c.from, c.to, news, err)
		}
	}
}

func TestAcknowledgementsAreTheHighestOfEachAddress(t *testing.T) {
	l := newLedger(State{})
	l.begin(welcome("e", map[string]uint64{"user:alice": 1, "all": 1}))
	for seq := range uint64(3) {
		l.handled("user:alice", seq+1)
	}
	l.handled("all", 1)
	acks, state := l.take()
	got := make(map[string]uint64)
	for _, ack := range acks {
		a := ack.(protocol.FromClient)
		got[a.T+" "+a.Ch] = a.Seq
	}
	if want := map[string]uint64{"ack ": 3, "ack all": 1}; !maps.Equal(got, want) {
		t.Errorf("acknowledged %v, want %v", got, want)
	}
	if want := (State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 3, "all": 1}}); !reflect.DeepEqual(state, want) {
		t.Errorf("state %v, want %v", state, want)
	}
	if acks, _ := l.take(); len(acks) != 0 {
		t.Errorf("acknowledged twice: %v", acks)
	}
}

func TestSixtyFourCannotWait(t *testing.T) {
	l := newLedger(State{})
	l.begin(welcome("e", map[string]uint64{"user:alice": 1}))
	for seq := range uint64(ackMost) {
		if len(l.full) != 0 {
			t.Fatalf("%d can't wait", seq)
		}
		l.handled("user:alice", seq+1)
	}
	if len(l.full) != 1 || len(l.due) != 1 {
		t.Error("nobody was told")
	}
}

func TestResumeNamesWhatIsWanted(t *testing.T) {
	l := newLedger(State{Epoch: "e", Cursors: map[string]uint64{"user:alice": 5, "topic:a": 1, "topic:b": 2, "all": 3}})
	epoch, cursors := l.resume([]string{"b"})
	if want := map[string]uint64{"user:alice": 5, "topic:b": 2, "all": 3}; epoch != "e" || !maps.Equal(cursors, want) {
		t.Errorf("epoch %s, cursors %v; want %v", epoch, cursors, want)
	}
}

func TestAnotherEpochForgetsTheCursors(t *testing.T) {
	l := newLedger(State{Epoch: "old", Cursors: map[string]uint64{"user:alice": 500}})
	l.begin(welcome("new", map[string]uint64{"user:alice": 3}))
	if _, cursors := l.resume(nil); cursors["user:alice"] != 2 {
		t.Errorf("cursors %v, want 2, before the server's next", cursors)
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
		e, err := newLedger(State{}).eventOf(o)
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
		l := newLedger(State{})
		l.begin(welcome("e", map[string]uint64{"user:alice": 1}))
		e, err := l.eventOf(o)
		if err != nil {
			return
		}
		if news, err := l.place("user:alice", e.from, e.to); err == nil && news && (e.from > 1 || e.to < 1) {
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
