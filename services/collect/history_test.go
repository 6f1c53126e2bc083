package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

func TestHistory(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for i := range 5 {
		w.archived(subject.Publish(alice), fmt.Sprint(i))
	}
	page, err := history.Read(t.Context(), w.nc, alice, 1, 3, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Entries) != 2 || page.Entries[0].From != 2 || string(page.Entries[1].Message.Payload) != "2" || page.Head != 5 || page.Epoch != r.archive.Facts().Epoch {
		t.Errorf("%+v", page)
	}
	if page, err = history.Read(t.Context(), w.nc, alice, 0, 0, -1); err != nil || len(page.Entries) != 1 {
		t.Errorf("a page without room: %+v, %v", page, err)
	}
	nobody := subject.UserAddress("default", "nobody")
	if page, err = history.Read(t.Context(), w.nc, nobody, 0, 0, 1); err != nil || page.Head != 0 || len(page.Entries) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	if page, err = history.Read(t.Context(), w.nc, alice, math.MaxUint64, 0, 1); err != nil || page.Head != 5 || len(page.Entries) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	heads, err := history.Heads(t.Context(), w.nc, []subject.Address{nobody, alice})
	if err != nil || len(heads) != 2 || heads[0] != 0 || heads[1] != 5 {
		t.Errorf("%v, %v", heads, err)
	}
	open := history.OpenRequest{Tenant: "default", User: "alice", Device: "d", Addresses: []string{alice.Tokens()}, Floors: map[string]uint64{alice.Tokens(): 2}}
	answer, err := history.Open(t.Context(), w.nc, open)
	if err != nil || answer.Positions[alice.Tokens()] != (history.Position{Head: 5, Cursor: 2}) || answer.Epoch != page.Epoch {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestHistoryRefuses(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`)
	for _, c := range []struct {
		subject, body string
		code          problem.Code
	}{
		{subject.HistoryRead, `{`, problem.BadRequest},
		{subject.HistoryRead, `{"address":"default.robot.1"}`, problem.BadAddress},
		{subject.HistoryRead, `{"address":"default.user.a.b"}`, problem.BadEncoding},
		{subject.HistoryHeads, ``, problem.BadRequest},
		{subject.HistoryHeads, `{"addresses":["x"]}`, problem.BadAddress},
		{subject.HistoryOpen, `[]`, problem.BadRequest},
		{subject.HistoryOpen, `{"tenant":"default","user":"alice","device":"d","addresses":["default.user.=YWxpY2U"]}`, problem.BadEncoding},
	} {
		_, err := rpc.Send(t.Context(), w.nc, &nats.Msg{Subject: c.subject, Data: []byte(c.body)})
		if !errors.Is(err, problem.New(c.code, "")) {
			t.Errorf("%s %s: %v", c.subject, c.body, err)
		}
	}
}

func TestHistoryWithoutArchive(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.archived(subject.Publish(alice), `1`)
	if err := w.archive.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := history.Read(t.Context(), w.nc, alice, 0, 0, 1); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("%v", err)
	}
	if !r.log.has("read a mailbox") {
		t.Error("nobody was told")
	}
}

func TestAcknowledgements(t *testing.T) {
	w := newWorld(t)
	w.start()
	acknowledge := func(data []byte, epoch ...string) {
		m := &nats.Msg{Subject: subject.Ack("node"), Data: data, Header: nats.Header{}}
		if len(epoch) > 0 {
			m.Header[history.HeaderEpoch] = epoch
		}
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	cursor := func(seq uint64) []byte {
		data, err := json.Marshal([]history.Cursor{{Tenant: "default", User: "alice", Device: "d", Address: alice.Tokens(), Seq: seq}})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	acknowledge([]byte("{"))
	acknowledge(cursor(7))
	acknowledge([]byte(`"x"`))
	acknowledge(cursor(5)) // late: it lowers nothing
	acknowledge(cursor(9), "of another archive")
	w.eventually("all acknowledged", func() bool { return w.count(fabric.AckStream) == 0 })
	open := history.OpenRequest{Tenant: "default", User: "alice", Device: "d", Addresses: []string{alice.Tokens()}}
	answer, err := history.Open(t.Context(), w.nc, open)
	if err != nil || answer.Positions[alice.Tokens()].Cursor != 7 {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) { c.Partitions = 0 },
		func(c *Config) { c.Limits = message.Limits{Payload: maxPayload + 1} },
		func(c *Config) { c.PurgeEvery = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		if _, err := New(c, nil, nil); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
