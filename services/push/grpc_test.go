package push

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	connectgo "connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/proto"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// callDoors are the doors of gRPC, for the suite.
func callDoors() []door {
	return []door{
		{name: "gRPC Connect", open: func(t testing.TB, to, token string, hello protocol.FromClient) peer {
			return openCall(t, to, token, &hello)
		}},
		{name: "gRPC Subscribe", mute: true, open: func(t testing.TB, to, token string, hello protocol.FromClient) peer {
			return openSubscription(t, to, token, hello)
		}},
		{name: "gRPC-Web Subscribe over HTTP 1.1", mute: true, open: func(t testing.TB, to, token string, hello protocol.FromClient) peer {
			return openSubscription(t, to, token, hello, connectgo.WithGRPCWeb())
		}},
	}
}

// callClient is a client of PushService.
type callClient struct {
	*record
	device  string
	service weftv1connect.PushServiceClient
	ctx     func() context.Context // of a call, with the token
	pongs   chan uint32

	sending sync.Mutex // orders what is said
	stream  *connectgo.BidiStreamForClientSimple[weftv1.ConnectRequest, weftv1.ConnectResponse]

	err      error             // how the stream ended; read after came is closed
	messages []*weftv1.Message // that came, read after that or after their objects; protected by record.mu
}

// newCallClient makes a client with a connection of its own, of HTTP/1.1 where only gRPC-Web is spoken.
func newCallClient(t testing.TB, to, token, device string, options ...connectgo.ClientOption) (c *callClient, made chan *tap) {
	t.Helper()
	made = make(chan *tap, 10)
	transport := &http.Transport{DialContext: wireTap(made), Protocols: new(http.Protocols)}
	if len(options) == 0 {
		transport.Protocols.SetUnencryptedHTTP2(true)
		options = append(options, connectgo.WithGRPC())
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		transport.CloseIdleConnections()
	})
	c = &callClient{record: newRecord(t), device: device, pongs: make(chan uint32, 100)}
	c.service = weftv1connect.NewPushServiceClient(&http.Client{Transport: transport}, "http://"+to, options...)
	c.ctx = func() context.Context {
		ctx, info := connectgo.NewClientContext(ctx)
		if token != "" {
			info.RequestHeader().Set("Authorization", "Bearer "+token)
		}
		return ctx
	}
	return c, made
}

func openSubscription(t testing.TB, to, token string, hello protocol.FromClient, options ...connectgo.ClientOption) *callClient {
	t.Helper()
	c, made := newCallClient(t, to, token, hello.Device, options...)
	stream, err := c.service.Subscribe(c.ctx(), &weftv1.SubscribeRequest{
		Device: hello.Device, Epoch: hello.Epoch, Cursors: hello.Cursors, Topics: hello.Topics, Client: hello.Client,
	})
	c.line = <-made
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(c.came)
		if err == nil {
			defer stream.Close()
			for stream.Receive() {
				c.show(stream.Msg())
			}
			err = stream.Err()
		}
		c.over(err)
	})
	t.Cleanup(func() {
		_ = c.line.Close()
		reading.Wait()
	})
	return c
}

// openCall opens a stream of Connect and says hello, if there is one.
func openCall(t testing.TB, to, token string, hello *protocol.FromClient) *callClient {
	t.Helper()
	device := ""
	if hello != nil {
		device = hello.Device
	}
	c, made := newCallClient(t, to, token, device)
	var err error
	c.stream, err = c.service.Connect(c.ctx())
	must(t, err)
	var reading sync.WaitGroup
	must(t, c.stream.Send(nil)) // the headers
	c.line = <-made
	if hello != nil {
		c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: &weftv1.Hello{
			Device: hello.Device, Epoch: hello.Epoch, Cursors: hello.Cursors, Topics: hello.Topics, Client: hello.Client,
		}}})
	}
	reading.Go(func() {
		defer close(c.came)
		for {
			m, err := c.stream.Receive()
			if err != nil {
				c.over(err)
				return
			}
			c.show(m)
		}
	})
	t.Cleanup(func() {
		_ = c.line.Close()
		_, _ = c.stream.CloseRequest(), c.stream.CloseResponse()
		reading.Wait()
	})
	return c
}

// say sends a message. What became of it the stream's end tells.
func (c *callClient) say(m *weftv1.ConnectRequest) {
	c.sending.Lock()
	defer c.sending.Unlock()
	_ = c.stream.Send(m)
}

func (c *callClient) ack(ch string, seq uint64) problem.Code {
	if c.stream != nil {
		c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Ack{Ack: &weftv1.Ack{Ch: ch, Seq: seq}}})
		return ""
	}
	_, err := c.service.Acknowledge(c.ctx(), &weftv1.AcknowledgeRequest{Device: c.device, Acks: []*weftv1.Ack{{Ch: ch, Seq: seq}}})
	if err == nil {
		return ""
	}
	p, ok := refusal.Detail[*weftv1.Problem](err)
	if !ok {
		c.t.Error(err)
	}
	return problem.Code(p.GetCode())
}

// over notes how the stream has ended. The code and the detail have to say the same.
func (c *callClient) over(err error) {
	c.err = err
	p, ok := refusal.Detail[*weftv1.Problem](err)
	if !ok {
		return
	}
	with := protocol.CloseCode(p.GetClose())
	if want := refusal.Close(with, nil).Code(); connectgo.CodeOf(err) != want || p.GetRetry() == with.Fatal() || p.GetMessage() == "" {
		c.t.Errorf("it ends with %v and %v", err, p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != "" && c.why != problem.Code(p.GetCode()) {
		c.t.Errorf("it ends with %v behind the error %s", p, c.why)
	}
	c.code, c.why = with, problem.Code(p.GetCode())
}

// show takes a message as the object that a WebSocket would have had. A ping is answered.
func (c *callClient) show(said interface {
	GetWelcome() *weftv1.Welcome
	GetMessage() *weftv1.Message
	GetGap() *weftv1.Gap
	GetPing() *weftv1.Ping
	GetDrain() *weftv1.Drain
},
) {
	switch {
	case said.GetMessage() != nil:
		o := said.GetMessage()
		c.mu.Lock()
		c.messages = append(c.messages, o)
		c.mu.Unlock()
		c.take(protocol.AppendMessage(nil, &message.Message{
			To: c.address(o.GetCh()), Seq: o.GetSeq(), ID: o.GetId(), Type: o.GetType(), ContentType: o.GetContentType(), Trace: o.GetTraceparent(),
			At: o.GetAt(), Again: o.GetRe(), Payload: o.GetData(),
		}))
	case said.GetGap() != nil:
		o := said.GetGap()
		c.take(object(protocol.Gap{T: protocol.TGap, Ch: o.GetCh(), From: o.GetFrom(), To: o.GetTo(), Why: message.Why(o.GetWhy())}))
	case said.GetWelcome() != nil:
		o := said.GetWelcome()
		c.take(object(protocol.Welcome{
			T: protocol.TWelcome, Session: o.GetSession(), User: o.GetUser(), Device: o.GetDevice(), Node: o.GetNode(), Epoch: o.GetEpoch(),
			Heartbeat: o.GetHeartbeat(), Mailboxes: boxes(o.GetMailboxes()),
		}))
	case said.GetPing() != nil:
		if c.stream != nil {
			c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Pong{Pong: &weftv1.Pong{Number: said.GetPing().GetNumber()}}})
		}
	case said.GetDrain() != nil:
		c.take(object(protocol.Drain{T: protocol.TDrain, Within: said.GetDrain().GetWithin()}))
	default:
		m, _ := said.(*weftv1.ConnectResponse)
		c.showAnswer(m)
	}
}

func (c *callClient) showAnswer(m *weftv1.ConnectResponse) {
	switch {
	case m.GetPong() != nil:
		c.pongs <- m.GetPong().GetNumber()
	case m.GetSub() != nil:
		c.take(object(protocol.Subscribed{T: protocol.TSub, Mailboxes: boxes(m.GetSub().GetMailboxes())}))
	case m.GetUnsub() != nil:
		c.take(object(protocol.Subscribed{T: protocol.TUnsub, Mailboxes: boxes(m.GetUnsub().GetMailboxes())}))
	case m.GetError() != nil:
		p := m.GetError()
		c.take(object(protocol.Error{T: protocol.TError, Problem: problem.Problem{
			Code: problem.Code(p.GetCode()), Message: p.GetMessage(), Field: p.GetField(), Retry: p.GetRetry(),
		}}))
	default:
		c.t.Errorf("%v came", m)
	}
}

func (c *callClient) address(ch string) subject.Address {
	if ch == "" {
		return alice
	}
	return address(c.t, ch)
}

func boxes(list map[string]*weftv1.Mailbox) map[string]protocol.Mailbox {
	mailboxes := map[string]protocol.Mailbox{}
	for to, m := range list {
		mailboxes[to] = protocol.Mailbox{Head: m.GetHead(), Next: m.GetNext()}
	}
	return mailboxes
}

// Over each protocol a message has the bytes that were published, whatever they are, and says what its headers say.
func TestCallsCarryBytes(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	sent := []*message.Message{
		{ContentType: message.JSON, Payload: []byte(` {"a" : 1.0, "data":2, "a":{} } `)},
		{ContentType: message.JSON, Payload: []byte("{\r\n}\t")},
		{ContentType: "application/x+json", Payload: []byte(`"\u2028<&>` + "\u2028\"")},
		{ContentType: "text/plain", Payload: []byte("\xff\x00,\"data\":}")},
		{ContentType: message.JSON, Payload: []byte("0"), Type: `,"data":`, Trace: "00-1", ID: `"data":{`},
	}
	for i, m := range sent {
		m.To, m.At, m.Seq = alice, int64(i+1), uint64(i+1)
		if m.ID == "" {
			m.ID = "m"
		}
		w.archive.set(func() {
			w.archive.boxes[alice] = append(w.archive.boxes[alice], message.Entry{From: m.Seq, To: m.Seq, Message: m})
		})
	}
	to := n.listener.Addr().String()
	for name, c := range map[string]*callClient{
		"subscribe": openSubscription(t, to, token("alice"), protocol.FromClient{Device: "1"}),
		"connect":   openCall(t, to, token("alice"), &protocol.FromClient{Device: "2"}),
		"web":       openSubscription(t, to, token("alice"), protocol.FromClient{Device: "3"}, connectgo.WithGRPCWeb()),
		"json":      openSubscription(t, to, token("alice"), protocol.FromClient{Device: "4"}, connectgo.WithProtoJSON()),
	} {
		g := &guest{peer: c, t: t}
		g.want(protocol.TWelcome)
		for i, m := range sent {
			g.want(protocol.TMsg)
			want := &weftv1.Message{Seq: m.Seq, Id: m.ID, Type: m.Type, At: m.At, ContentType: m.ContentType, Traceparent: m.Trace, Data: m.Payload}
			c.mu.Lock()
			if got := c.messages[i]; !proto.Equal(got, want) {
				t.Errorf("%s: %v came; want %v", name, got, want)
			}
			c.mu.Unlock()
		}
	}
}

// A client of Connect says all that a client of a WebSocket can say.
func TestConnectSpeaks(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = 300 * time.Millisecond })
	c := openCall(t, n.listener.Addr().String(), token("alice"), &protocol.FromClient{Device: "phone"})
	g := &guest{peer: c, t: t}
	g.want(protocol.TWelcome)
	<-time.After(400 * time.Millisecond) // only hello has to come in time
	c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Ping{Ping: &weftv1.Ping{Number: 7}}})
	if number := wait(t, "the answer", c.pongs); number != 7 {
		t.Errorf("the pong has the number %d", number)
	}
	c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Sub{Sub: &weftv1.Topics{Topics: []string{"news"}}}})
	if o := g.want(protocol.TSub); o.Boxes["topic:news"].Next != 1 {
		t.Errorf("%s came", o.raw)
	}
	w.push(news, `1`, `2`)
	g.wants("topic:news", 1, 2)
	g.ack("topic:news", 2)
	c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Unsub{Unsub: &weftv1.Topics{Topics: []string{"news"}}}})
	if o := g.want(protocol.TUnsub); len(o.Boxes) != 2 {
		t.Errorf("%s came", o.raw)
	}
	g.ack("topic:news", 2)
	if o := g.want(protocol.TError); o.Code != string(problem.NotSubscribed) {
		t.Errorf("%s came", o.raw)
	}
	c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Auth{Auth: &weftv1.Auth{Token: token("alice", func(who *identity.Identity) { who.Topics = nil })}}})
	c.say(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Ping{Ping: &weftv1.Ping{}}})
	wait(t, "the answer", c.pongs)
	must(t, c.stream.CloseRequest())
	if o, ok := g.next(); ok || connectgo.CodeOf(c.err) != connectgo.CodeUnknown { // io.EOF: the status is OK
		t.Errorf("after its farewell it was told %s, %v", o.raw, c.err)
	}
	eventually(t, "the session has ended", func() bool { return len(n.all()) == 0 })
	eventually(t, "what it acknowledged is handed over", func() bool { return w.acked()["alice/phone/default.topic.news"] == 2 })
}

func TestCallsRefuse(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = 100 * time.Millisecond })
	for name, c := range map[string]struct {
		say  *weftv1.ConnectRequest
		code protocol.CloseCode
		why  problem.Code
	}{
		"no hello": {&weftv1.ConnectRequest{}, protocol.CloseProtocol, problem.HelloExpected},
		"silence":  {nil, protocol.CloseSlow, problem.HelloExpected},
		"too large": {
			&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: &weftv1.Hello{Client: strings.Repeat("x", frameMost)}}},
			protocol.CloseTooLarge, problem.TooLarge,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := openCall(t, n.listener.Addr().String(), token("alice"), nil)
			if c.say != nil {
				d.say(c.say)
			}
			(&guest{peer: d, t: t}).ends(c.code, c.why)
		})
	}
	for name, c := range map[string]struct {
		say  *weftv1.ConnectRequest
		code protocol.CloseCode
		why  problem.Code
	}{
		"nothing":     {&weftv1.ConnectRequest{}, protocol.CloseProtocol, problem.UnknownFrame},
		"hello again": {&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: &weftv1.Hello{}}}, protocol.CloseProtocol, problem.BadFrame},
		"ack ahead":   {&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Ack{Ack: &weftv1.Ack{Seq: 1}}}, protocol.CloseProtocol, problem.AckAhead},
		"bad token":   {&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Auth{Auth: &weftv1.Auth{Token: "x"}}}, protocol.CloseToken, problem.Unauthorized},
		"too large":   {&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Auth{Auth: &weftv1.Auth{Token: strings.Repeat("x", frameMost)}}}, protocol.CloseTooLarge, problem.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			d := openCall(t, n.listener.Addr().String(), token("alice"), &protocol.FromClient{Device: "phone"})
			g := &guest{peer: d, t: t}
			g.want(protocol.TWelcome)
			d.say(c.say)
			g.ends(c.code, c.why)
		})
	}
	c, _ := newCallClient(t, n.listener.Addr().String(), token("alice"), "phone")
	_, err := c.service.Acknowledge(c.ctx(), &weftv1.AcknowledgeRequest{Device: "phone"})
	if p, _ := refusal.Detail[*weftv1.Problem](err); p.GetCode() != string(problem.BadRequest) || p.GetField() != "acks" {
		t.Errorf("nothing was acknowledged: %v", err)
	}
	eventually(t, "no session is left", func() bool { return len(n.all()) == 0 && n.gate.arrivals.Load() == 0 })
}

// A stream for which the client has named a time ends with it, and says so: it is not the server's farewell.
func TestCallsEndInTime(t *testing.T) {
	n := newWorld(t).node()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.listener.Addr().String()+weftv1connect.PushServiceSubscribeProcedure, strings.NewReader("\x00\x00\x00\x00\x02{}"))
	must(t, err)
	r.Header = http.Header{"Authorization": {"Bearer " + token("alice")}, "Content-Type": {"application/connect+json"}, "Connect-Timeout-Ms": {"300"}}
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := transport.RoundTrip(r)
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(text), `"welcome"`) || !strings.Contains(string(text), "deadline_exceeded") {
		t.Errorf("%q, %v", text, err)
	}
}

// A client that says that it is there, and reads nothing of a stream that has room in its window: flow control makes the
// writer wait, and its time is bounded.
func TestACallThatIsNotReadIsCut(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Window, n.cfg.SlowAfter = 256<<20, 700*time.Millisecond })
	c, made := newCallClient(t, n.listener.Addr().String(), token("alice"), "phone")
	stream, err := c.service.Connect(c.ctx())
	must(t, err)
	must(t, stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: &weftv1.Hello{Device: "phone"}}}))
	line := <-made
	defer func() {
		_ = line.Close()
		_, _ = stream.CloseRequest(), stream.CloseResponse()
	}()
	_, err = stream.Receive()
	must(t, err)
	for range 40 { // 8 MiB: a client of Go takes 4 in advance
		w.push(alice, `"`+strings.Repeat("x", 200<<10)+`"`)
	}
	eventually(t, "the session has ended", func() bool {
		_ = stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Pong{Pong: &weftv1.Pong{}}})
		return len(n.all()) == 0
	})
}

// A node that stops does not wait for a client that says nothing.
func TestCallsThatSayNothingDelayNobody(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = patience })
	c := openCall(t, n.listener.Addr().String(), token("alice"), nil)
	eventually(t, "it is there", func() bool { return n.gate.arrivals.Load() == 1 })
	begun := time.Now()
	n.stop()
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	for range c.objects() {
		t.Error("something came")
	}
}

// Pages may call as they may use the other doors: those of -origins, whose browsers ask first.
func TestCallsOfPages(t *testing.T) {
	n := newWorld(t).node(func(n *Service) { n.cfg.Origins = "https://good.example" })
	for origin, status := range map[string]int{"https://good.example": http.StatusNoContent, "https://evil.example": http.StatusForbidden} {
		response := n.request(t, http.MethodOptions, weftv1connect.PushServiceSubscribeProcedure, map[string]string{"Origin": origin})
		if response.StatusCode != status {
			t.Errorf("a page of %s is answered %s", origin, response.Status)
		}
		if status == http.StatusNoContent && (!strings.Contains(response.Header.Get("Access-Control-Allow-Headers"), "X-Grpc-Web") ||
			!strings.Contains(response.Header.Get("Access-Control-Expose-Headers"), "Grpc-Status") || response.Header.Get("Access-Control-Allow-Methods") != http.MethodPost) {
			t.Errorf("a page of %s may %v", origin, response.Header)
		}
		response = n.request(t, http.MethodPost, weftv1connect.PushServiceSubscribeProcedure, map[string]string{"Origin": origin, "Content-Type": "application/grpc-web"})
		if (response.StatusCode == http.StatusForbidden) != (status == http.StatusForbidden) {
			t.Errorf("a call of %s is answered %s", origin, response.Status)
		}
	}
}

// grpcurl asks for the services and their files.
func TestReflection(t *testing.T) {
	n := newWorld(t).node()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	stream := grpcreflect.NewClient(&http.Client{Transport: transport}, "http://"+n.listener.Addr().String(), connectgo.WithGRPC()).NewStream(t.Context())
	defer func() { _, _ = stream.Close() }()
	names, err := stream.ListServices()
	if err != nil || !slices.Contains(names, weftv1connect.PushServiceName) {
		t.Fatal(names, err)
	}
	if files, err := stream.FileContainingSymbol(weftv1connect.PushServiceName); err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
}
