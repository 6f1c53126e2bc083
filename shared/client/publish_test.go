package client

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

func alice() subject.Address { return subject.UserAddress("default", "alice") }

// natsServer starts a server with JetStream on a free port and returns a connection to it.
func natsServer(t testing.TB) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 1024,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patienceOfTests) {
		t.Fatal("the NATS server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// stream makes the stream behind the stream door. The fabric has one for each partition and a mapping before them.
func stream(t testing.TB, nc *nats.Conn, config jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config.Name, config.Subjects = "IN", []string{"weft.in.>"}
	s, err := js.CreateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPublishSaysWhatItWasTold(t *testing.T) {
	nc := natsServer(t)
	in := stream(t, nc, jetstream.StreamConfig{})
	ack, err := NewPublisher(nc).Publish(t.Context(), alice(), []byte(`{"hello": 1}`),
		WithID("order-1"), WithType("greeting"), WithContentType("application/vnd.x+json"), WithTTL(90*time.Minute), WithTraceParent("00-1"))
	if err != nil {
		t.Fatal(err)
	}
	if ack != (Ack{ID: "order-1", Stream: "IN", Position: 1, Tries: 1}) {
		t.Errorf("ack %+v", ack)
	}
	stored, err := in.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Subject != "weft.in.default.user.alice" || string(stored.Data) != `{"hello": 1}` {
		t.Errorf("stored %s on %s", stored.Data, stored.Subject)
	}
	// What collect makes of it, with the headers in the spelling that they have on the way.
	m, err := message.Read(alice(), stored.Header, stored.Data, time.UnixMilli(0), message.Limits{Payload: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if m.ID != "order-1" || m.Type != "greeting" || m.ContentType != "application/vnd.x+json" || m.Trace != "00-1" || m.Expires != 90*60*1000 {
		t.Errorf("read %+v", m)
	}
	if len(stored.Header["traceparent"]) != 1 {
		t.Errorf("headers %v: W3C spells traceparent in small letters", stored.Header)
	}
}

func TestPublishMakesAnID(t *testing.T) {
	nc := natsServer(t)
	stream(t, nc, jetstream.StreamConfig{})
	p := NewPublisher(nc)
	one, err := p.Publish(t.Context(), alice(), []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := p.Publish(t.Context(), alice(), []byte("1"))
	if err != nil || len(one.ID) != 26 || one.ID == two.ID {
		t.Errorf("ids %q and %q, err %v", one.ID, two.ID, err)
	}
}

func TestPublishRepeatsWithTheSameID(t *testing.T) {
	nc := natsServer(t)
	ids := make(chan string, 10)
	seen := 0
	// A stream whose first two answers are lost, and that has no leader at the third.
	_, err := nc.Subscribe(subject.In(alice()), func(m *nats.Msg) {
		seen++
		ids <- m.Header[message.HeaderID][0]
		switch seen {
		case 3:
			_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"no leader"}}`))
		case 4:
			_ = m.Respond([]byte(`{"stream":"IN","seq":7}`))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPublisher(nc)
	p.attempt = 20 * time.Millisecond
	ack, err := p.Publish(t.Context(), alice(), []byte("1"))
	if err != nil || ack.Tries != 4 {
		t.Fatal(ack, err)
	}
	for range 4 {
		if id := receive(t, ids); id != ack.ID {
			t.Errorf("published as %s, acknowledged as %s", id, ack.ID)
		}
	}
}

func TestPublishGivesUpWithTheContext(t *testing.T) {
	nc := natsServer(t)
	giveUp := func() (Ack, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return NewPublisher(nc).Publish(ctx, alice(), []byte("1"), WithID("mine"))
	}
	ack, err := giveUp()
	for n := 0; errors.Is(err, ErrUnknown) && n < 10; n++ { // the time ended within a try: nobody can tell then
		ack, err = giveUp()
	}
	p := problem.From(err)
	if p.Code != problem.Unavailable || !p.Retry || ack.ID != "mine" || ack.Tries == 0 || errors.Is(err, ErrUnknown) {
		t.Errorf("ack %+v, err %v: nobody was there to take it", ack, err)
	}
}

// What one try left open no later refusal closes: the message of the first may have been stored.
func TestPublishSaysWhatIsUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string // to each try; empty for none, and none after the last
		unknown bool
	}{
		"silence":                   {nil, true},
		"no answer, then refused":   {[]string{"", `{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}`}, true},
		"refused":                   {[]string{`{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}`}, false},
		"disk full, then too large": {[]string{`{"error":{"code":503,"err_code":10077,"description":"no space left on device"}}`, `{"error":{"code":400,"err_code":10054}}`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			nc := natsServer(t)
			_, err := nc.Subscribe(subject.In(alice()), func(m *nats.Msg) {
				if len(c.answers) > 0 {
					if c.answers[0] != "" {
						_ = m.Respond([]byte(c.answers[0]))
					}
					c.answers = c.answers[1:]
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			p := NewPublisher(nc)
			p.attempt = 50 * time.Millisecond
			if _, err := p.Publish(ctx, alice(), []byte("1")); err == nil || errors.Is(err, ErrUnknown) != c.unknown {
				t.Errorf("%v; unknown should be %t", err, c.unknown)
			}
		})
	}
}

// The connection is closed when the message is on its way already, by the program or since NATS has refused to have it back.
func TestAConnectionThatIsClosedMeanwhileLeavesItUnknown(t *testing.T) {
	nc := natsServer(t)
	taker, err := nats.Connect(nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	taken := make(chan struct{})
	if _, err := taker.Subscribe(subject.In(alice()), func(*nats.Msg) { nc.Close(); close(taken) }); err != nil {
		t.Fatal(err)
	}
	if err := taker.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPublisher(nc).Publish(soon(t), alice(), []byte("1")); !errors.Is(err, ErrUnknown) {
		t.Errorf("it was taken, and the error is %v", err)
	}
	receive(t, taken)
	if ack, err := NewPublisher(nc).Publish(soon(t), alice(), []byte("2")); err == nil || errors.Is(err, ErrUnknown) || ack.Tries != 1 {
		t.Errorf("it can't have been sent, and after %d tries the error is %v", ack.Tries, err)
	}
}

// A stream whose queue is full refuses what comes meanwhile (429), and takes it a moment later.
func TestPublishTriesAgainWhenAStreamHasTooMuchToDo(t *testing.T) {
	nc := natsServer(t)
	answers := []string{`{"stream":"IN","seq":0,"error":{"code":429,"err_code":10167,"description":"too many requests"}}`, `{"stream":"IN","seq":1}`}
	_, err := nc.Subscribe(subject.In(alice()), func(m *nats.Msg) {
		_ = m.Respond([]byte(answers[0]))
		answers = answers[1:]
	})
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := NewPublisher(nc).Publish(soon(t), alice(), []byte("1")); err != nil || ack.Tries != 2 {
		t.Errorf("after %d tries: %v", ack.Tries, err)
	}
}

// A publish without a connection fails when its time is over, and says that nothing was sent.
func TestPublishWithoutAConnection(t *testing.T) {
	nc, err := nats.Connect("nats://127.0.0.1:1", nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = NewPublisher(nc).Publish(ctx, alice(), []byte("1"))
	if !errors.Is(err, problem.New(problem.Unavailable, "")) || errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

func TestPublishRefusesWhatCollectWould(t *testing.T) {
	nc := natsServer(t)
	in := stream(t, nc, jetstream.StreamConfig{})
	p := NewPublisher(nc)
	for name, c := range map[string]struct {
		to      subject.Address
		payload string
		options []Option
		want    problem.Code
	}{
		"no user":             {subject.UserAddress("default", ""), "1", nil, problem.BadAddress},
		"unknown kind":        {subject.Address{Tenant: "default", Kind: "group", ID: "x"}, "1", nil, problem.BadAddress},
		"long id":             {subject.UserAddress("default", strings.Repeat("x", 129)), "1", nil, problem.IDTooLong},
		"no payload":          {alice(), "", nil, problem.Empty},
		"no JSON":             {alice(), "hello", nil, problem.BadJSON},
		"message id":          {alice(), "1", []Option{WithID(strings.Repeat("x", 257))}, problem.BadHeader},
		"no message id":       {alice(), "1", []Option{WithID("")}, problem.BadHeader},
		"negative ttl":        {alice(), "1", []Option{WithTTL(-time.Second)}, problem.BadHeader},
		"not before":          {alice(), "1", []Option{WithNotBefore(time.Now().Add(time.Hour))}, problem.Unsupported},
		"collapse":            {alice(), "1", []Option{WithCollapse("position")}, problem.Unsupported},
		"no key":              {alice(), "1", []Option{WithCollapse("")}, problem.BadHeader},
		"receipts of a topic": {subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}, "1", []Option{WithReceipt()}, problem.Unsupported},
		"over the limit":      {alice(), `"` + strings.Repeat("x", 2000) + `"`, nil, problem.TooLarge},
	} {
		if _, err := p.Publish(t.Context(), c.to, []byte(c.payload), c.options...); !errors.Is(err, problem.New(c.want, "")) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if r := p.PublishMany(t.Context(), 0, []Outgoing{{alice(), []byte("1"), []Option{WithCollapse("k")}}}); !errors.Is(r[0].Err, problem.New(problem.Unsupported, "")) {
		t.Errorf("one of many: %v", r[0].Err)
	}
	info, err := in.Info(t.Context())
	if err != nil || info.State.Msgs != 0 {
		t.Errorf("%d messages in the stream, err %v", info.State.Msgs, err)
	}
}

func TestPublishTellsARefusalFromAnOutage(t *testing.T) {
	t.Run("stream limit", func(t *testing.T) {
		nc := natsServer(t)
		stream(t, nc, jetstream.StreamConfig{MaxMsgSize: 100})
		_, err := NewPublisher(nc).Publish(t.Context(), alice(), []byte(`"`+strings.Repeat("x", 200)+`"`))
		if !errors.Is(err, problem.New(problem.TooLarge, "")) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stream full", func(t *testing.T) {
		nc := natsServer(t)
		stream(t, nc, jetstream.StreamConfig{MaxMsgs: 1, Discard: jetstream.DiscardNew})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		p := NewPublisher(nc)
		if _, err := p.Publish(ctx, alice(), []byte("1")); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Publish(ctx, alice(), []byte("2")); !errors.Is(err, problem.New(problem.Unavailable, "")) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no stream at all", func(t *testing.T) {
		nc := natsServer(t)
		_, err := nc.Subscribe(subject.In(alice()), func(m *nats.Msg) { _ = m.Respond([]byte("hi")) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewPublisher(nc).Publish(t.Context(), alice(), []byte("1")); !errors.Is(err, problem.New(problem.InternalFault, "")) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRequest(t *testing.T) {
	nc := natsServer(t)
	service, err := micro.AddService(nc, micro.Config{Name: "collect", Version: "0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	door := micro.HandlerFunc(func(r micro.Request) {
		id := r.Headers().Get(message.HeaderID)
		if id == "taken" {
			rpc.Refuse(r, problem.New(problem.Conflict, "the id is taken"))
			return
		}
		_ = r.RespondJSON(Receipt{ID: id, To: "user:alice", Seq: 7, State: "archived"})
	})
	if err := service.AddEndpoint("publish", door, micro.WithEndpointSubject(subject.Publish(alice()))); err != nil {
		t.Fatal(err)
	}
	p := NewPublisher(nc)
	receipt, err := p.Request(t.Context(), alice(), []byte("1"))
	if err != nil || receipt.Seq != 7 || receipt.State != "archived" || len(receipt.ID) != 26 || receipt.To != "user:alice" {
		t.Errorf("receipt %+v, err %v", receipt, err)
	}
	if _, err := p.Request(t.Context(), alice(), []byte("1"), WithID("taken")); !errors.Is(err, problem.New(problem.Conflict, "")) || errors.Is(err, ErrUnknown) {
		t.Errorf("a taken id: %v", err)
	}
	receipt, err = p.Request(t.Context(), subject.UserAddress("default", "bob"), []byte("1"))
	if !errors.Is(err, problem.New(problem.Unavailable, "")) || !errors.Is(err, ErrUnknown) || len(receipt.ID) != 26 {
		t.Errorf("nobody there: %+v, %v", receipt, err)
	}
}

// What the headers say in the end, for the day when the fabric reads them.
func TestHeadersOfTheContract(t *testing.T) {
	h := nats.Header{}
	for _, set := range []Option{WithNotBefore(time.Unix(1795372200, 5e8).In(time.FixedZone("", 3600))), WithCollapse("position"), WithReceipt()} {
		set(h)
	}
	want := nats.Header{"Weft-Not-Before": {"2026-11-22T18:30:00.5Z"}, "Weft-Collapse": {"position"}, "Weft-Receipt": {"delivered"}}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("headers %v, want %v", h, want)
	}
}
