package history_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true})
	must(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func serve(t *testing.T, nc *nats.Conn, on string, handler micro.Handler) {
	t.Helper()
	s, err := micro.AddService(nc, micro.Config{Name: "history", Version: "0.0.1"})
	must(t, err)
	t.Cleanup(func() { must(t, s.Stop()) })
	must(t, s.AddEndpoint("test", handler, micro.WithEndpointSubject(on)))
	must(t, nc.Flush())
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestRead(t *testing.T) {
	nc, alice := connect(t), subject.UserAddress("default", "alice@example.org")
	want := &history.Page{Head: 1<<64 - 1, Epoch: "e1", Entries: []message.Entry{
		{From: 4, To: 6, Why: message.WhyExpired},
		{From: 7, To: 7, Message: &message.Message{To: alice, Seq: 7, ID: "i", ContentType: message.JSON, Payload: []byte("1")}},
	}}
	var asked string
	var answer func(micro.Request)
	serve(t, nc, subject.HistoryRead, micro.HandlerFunc(func(r micro.Request) {
		asked = string(r.Data())
		answer(r)
	}))
	answer = func(r micro.Request) {
		var b []byte
		for _, e := range want.Entries {
			b = message.AppendEntry(b, alice, e)
		}
		head := micro.Headers{history.HeaderHead: {"18446744073709551615"}, history.HeaderEpoch: {"e1"}}
		_ = r.Respond(b, micro.WithHeaders(head))
	}
	got, err := history.Read(limit(t), nc, alice, 3, 9, 1000)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the page is %+v, %v; want %+v", got, err, want)
	}
	if wanted := `{"address":"default.user.=YWxpY2VAZXhhbXBsZS5vcmc","after":3,"up_to":9,"bytes":1000}`; asked != wanted {
		t.Errorf("asked %s, want %s", asked, wanted)
	}
	for what, reply := range map[string]func(micro.Request){
		"no head": func(r micro.Request) { _ = r.Respond(nil) },
		"no entries": func(r micro.Request) {
			_ = r.Respond([]byte("?"), micro.WithHeaders(micro.Headers{history.HeaderHead: {"1"}}))
		},
		"refused": func(r micro.Request) { rpc.Refuse(r, problem.New(problem.Unavailable, "down")) },
	} {
		answer = reply
		if page, err := history.Read(limit(t), nc, alice, 0, 0, 1); err == nil {
			t.Errorf("%s: %+v, want an error", what, page)
		}
	}
}

func TestOpen(t *testing.T) {
	nc := connect(t)
	want := history.OpenAnswer{Epoch: "e1", Positions: map[string]history.Position{"default.all": {Head: 9, Cursor: 3}}}
	serve(t, nc, subject.HistoryOpen, rpc.Handle(func(q history.OpenRequest) (history.OpenAnswer, error) {
		if q.Tenant != "default" || q.User != "alice" || q.Device != "phone" || q.Addresses[0] != "default.all" || q.Floors["default.all"] != 3 {
			return history.OpenAnswer{}, problem.New(problem.BadRequest, "asked %+v", q)
		}
		return want, nil
	}))
	got, err := history.Open(limit(t), nc, history.OpenRequest{
		Tenant: "default", User: "alice", Device: "phone", Addresses: []string{"default.all"}, Floors: map[string]uint64{"default.all": 3},
	})
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("the answer is %+v, %v; want %+v", got, err, want)
	}
}

func TestHeads(t *testing.T) {
	nc := connect(t)
	addresses := []subject.Address{subject.UserAddress("default", "alice"), {Tenant: "default", Kind: subject.All}}
	if _, err := history.Heads(limit(t), nc, addresses); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("without a collect: %v, want unavailable", err)
	}
	var answer history.HeadsAnswer
	serve(t, nc, subject.HistoryHeads, rpc.Handle(func(history.HeadsRequest) (history.HeadsAnswer, error) { return answer, nil }))
	answer.Heads = []uint64{7, 0}
	if got, err := history.Heads(limit(t), nc, addresses); err != nil || !reflect.DeepEqual(got, answer.Heads) {
		t.Errorf("the heads are %d, %v; want %d", got, err, answer.Heads)
	}
	answer.Heads = []uint64{7}
	if got, err := history.Heads(limit(t), nc, addresses); err == nil {
		t.Errorf("one head too few is taken as %d", got)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
