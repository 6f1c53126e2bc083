package rpc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type question struct {
	Say string `json:"say"`
}

// connect starts a server in process and connects to it.
func connect(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, MaxPayload: 64 << 10})
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
	s, err := micro.AddService(nc, micro.Config{Name: "test", Version: "0.0.1"})
	must(t, err)
	t.Cleanup(func() { _ = s.Stop() }) // the connection may have been closed before
	must(t, s.AddEndpoint("test", handler, micro.WithEndpointSubject(on)))
	must(t, nc.Flush())
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAsk(t *testing.T) {
	nc := connect(t)
	serve(t, nc, "echo", rpc.Handle(func(q question) (question, error) {
		switch q.Say {
		case "refuse":
			return question{}, problem.New(problem.Busy, "a line\r\nbreak, and ü").In("say")
		case "silently":
			return question{}, &problem.Problem{Code: problem.Forbidden}
		case "fail":
			return question{}, errors.New("password hunter2")
		case "much":
			return question{Say: strings.Repeat("x", 128<<10)}, nil
		}
		return q, nil
	}))
	var got question
	if err := rpc.Ask(limit(t), nc, "echo", question{Say: "hello"}, &got); err != nil || got.Say != "hello" {
		t.Errorf("the answer is %+v, %v", got, err)
	}
	for say, want := range map[string]problem.Problem{
		"refuse":   {Code: problem.Busy, Message: "a line\r\nbreak, and ü", Field: "say", Retry: true},
		"silently": {Code: problem.Forbidden},
		"fail":     *problem.From(errors.New("x")),
		"much":     *problem.From(errors.New("x")),
	} {
		err := rpc.Ask(limit(t), nc, "echo", question{Say: say}, &got)
		if p := problem.From(err); *p != want {
			t.Errorf("%s: refused with %+v, want %+v", say, *p, want)
		}
	}
}

func TestSend(t *testing.T) {
	nc := connect(t)
	serve(t, nc, "foreign", micro.HandlerFunc(func(r micro.Request) { _ = r.Error("500", "not ours", []byte("<html>")) }))
	serve(t, nc, "json", rpc.Handle(func(question) (question, error) { return question{}, nil }))
	silent, err := nc.SubscribeSync("silent")
	must(t, err)
	must(t, nc.Flush())
	defer func() { _ = silent.Unsubscribe() }() // the connection is closed below
	for on, want := range map[string]problem.Code{"nobody": problem.Unavailable, "foreign": problem.InternalFault, "json": problem.BadRequest} {
		_, err := rpc.Send(limit(t), nc, &nats.Msg{Subject: on, Data: []byte("{")})
		if !errors.Is(err, problem.New(want, "")) {
			t.Errorf("%s: %v, want %s", on, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = rpc.Send(ctx, nc, &nats.Msg{Subject: "silent"})
	if p := problem.From(err); p.Code != problem.Unavailable || !p.Retry {
		t.Errorf("no answer: %v, want unavailable and a retry", err)
	}
	nc.Close()
	if _, err = rpc.Send(limit(t), nc, &nats.Msg{Subject: "silent"}); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("without a connection: %v, want unavailable", err)
	}
}

// TestRefusal answers outside a micro endpoint: whoever asked sees the same problem.
func TestRefusal(t *testing.T) {
	nc := connect(t)
	want := problem.New(problem.Conflict, "taken").In("id")
	sub, err := nc.Subscribe("door", func(m *nats.Msg) { _ = m.RespondMsg(rpc.Refusal(want)) })
	must(t, err)
	defer func() { must(t, sub.Unsubscribe()) }()
	_, err = rpc.SendJSON(limit(t), nc, "door", question{})
	if p := problem.From(err); *p != *want {
		t.Errorf("refused with %+v, want %+v", *p, *want)
	}
	if _, err = rpc.SendJSON(limit(t), nc, "door", make(chan int)); err == nil {
		t.Error("a question that is not JSON was sent")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
