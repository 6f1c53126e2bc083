package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/event"
	streams "github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// counter is a NATS server at which somebody answers operators' questions.
type counter struct {
	t   *testing.T
	nc  *nats.Conn
	url string
}

func newCounter(t *testing.T) counter {
	t.Helper()
	s, err := embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return counter{t, nc, s.URL()}
}

// says answers every question on an endpoint with a value, or refuses it with a problem; asked has the questions.
func (c counter) says(endpoint string, answer any) (asked chan []byte) {
	c.t.Helper()
	asked = make(chan []byte, 10)
	_, err := c.nc.Subscribe(subject.Admin(endpoint), func(m *nats.Msg) {
		asked <- m.Data
		if p, ok := answer.(*problem.Problem); ok {
			_ = m.RespondMsg(rpc.Refusal(p))
			return
		}
		body, err := json.Marshal(answer)
		if err != nil {
			c.t.Error(err)
		}
		_ = m.Respond(body)
	})
	if err == nil {
		err = c.nc.Flush()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return asked
}

// lines checks that each line is there, in this order; fields are compared without the spaces between.
func lines(t *testing.T, printed string, want ...string) {
	t.Helper()
	rest := strings.Split(printed, "\n")
	for _, w := range want {
		found := false
		for !found && len(rest) > 0 {
			found = strings.Contains(strings.Join(strings.Fields(rest[0]), " "), w)
			rest = rest[1:]
		}
		if !found {
			t.Fatalf("no line says %q in its place:\n%s", w, printed)
		}
	}
}

func TestTraceShowsEachStep(t *testing.T) {
	c := newCounter(t)
	at := time.Now().Add(-time.Minute).UnixMilli()
	answer := admin.TraceAnswer{Traces: []admin.Traced{{
		Message: admin.Message{Tenant: "acme", To: "user:alice", Seq: 7, ID: "order\x1b[2J-17", Type: "order.paid", At: at},
		State:   "partly",
		Steps: []admin.Step{
			{What: "accepted", At: at},
			{What: "routed", At: at + 1500, Node: "NODEABCDEFGH", Detail: "and 2 more"},
			{What: "acknowledged", At: at + 61_000, Node: "NODEABCDEFGH", Device: "phone"},
			{What: "pending", Device: "tablet"},
		},
		Copies: []admin.Place{{Address: "acme.user.alice", Seq: 9}},
	}}, More: true}
	asked := c.says(admin.Trace, answer)
	out, err := run(t, NewTrace(), "", "order-17", "--nats", c.url, "--tenant", "acme")
	if err != nil {
		t.Fatal(err)
	}
	lines(t, out, `order\x1b[2J-17 user:alice seq 7 partly order.paid tenant acme`, "accepted", "1s routed NODEABCD and 2 more",
		"1m01s acknowledged phone NODEABCD", "pending tablet", "sent again by force: user:alice, seq 9")
	var question admin.TraceRequest
	if err := json.Unmarshal(<-asked, &question); err != nil || question != (admin.TraceRequest{Tenant: "acme", ID: "order-17"}) {
		t.Errorf("asked %+v (%v)", question, err)
	}
	out, err = run(t, NewTrace(), "", "order-17", "--nats", c.url, "--output", "json")
	var decoded admin.TraceAnswer
	if err != nil || json.Unmarshal([]byte(out), &decoded) != nil || len(decoded.Traces) != 1 || decoded.Traces[0].Message.ID != answer.Traces[0].Message.ID {
		t.Errorf("%v, %s", err, out)
	}
}

func TestWhatIsRefusedIsSaid(t *testing.T) {
	c := newCounter(t)
	c.says(admin.Trace, problem.New(problem.NotFound, "no message has the id x"))
	if _, err := run(t, NewTrace(), "", "x", "--nats", c.url); ExitCode(err) != ExitFailed || !strings.HasPrefix(err.Error(), "not_found: no message") {
		t.Errorf("%v", err)
	}
	if _, err := run(t, NewUser(), "", "x", "--nats", c.url); ExitCode(err) != ExitFailed || !strings.Contains(err.Error(), "weft doctor") {
		t.Errorf("%v", err)
	}
	for _, wrong := range [][]string{{}, {"a", "b"}, {"x", "--last", "0"}, {"x", "--output", "xml"}} {
		if _, err := run(t, NewUser(), "", append(wrong, "--nats", c.url)...); ExitCode(err) != ExitUsage {
			t.Errorf("user %v: %v", wrong, err)
		}
	}
}

func TestUserShowsDevicesAndMessages(t *testing.T) {
	c := newCounter(t)
	now := time.Now().UnixMilli()
	c.says(admin.User, admin.UserAnswer{Tenant: "default", User: "alice", Head: 12, Pending: 3, Devices: []admin.Device{
		{Device: "phone", Cursor: 9, Pending: 3, Acked: now - 5000, Node: "NODEABCDEFGH", Session: &node.Session{Door: "websocket", Client: "weft-go/1", Since: now - 60_000}},
		{Device: "tablet", Cursor: 2, Pending: 10},
	}, Last: []admin.Message{{Seq: 12, ID: "m-12", Type: "t", Archived: now, Size: 1500, Again: true}}})
	out, err := run(t, NewUser(), "", "alice", "--nats", c.url)
	if err != nil {
		t.Fatal(err)
	}
	lines(t, out, "alice 3 messages not acknowledged by any device 12 messages so far", "DEVICE STATE NODE SINCE DOOR CLIENT CURSOR PENDING LAST ACK",
		"phone online NODEABCD 1m00s websocket weft-go/1 9 3 5s", "tablet away 2 10", "m-12 t 1.5k sent again")
	c2 := newCounter(t)
	c2.says(admin.User, admin.UserAnswer{User: "bob"})
	if out, err = run(t, NewUser(), "", "bob", "--nats", c2.url); err != nil || !strings.Contains(out, "No device was ever connected.") {
		t.Errorf("%s (%v)", out, err)
	}
}

func TestOrdersSayWhoAsks(t *testing.T) {
	c := newCounter(t)
	kicks := c.says(admin.Kick, admin.KickAnswer{Sessions: map[string]int{"NODEABCDEFGH": 2, "NODEBBBBBBBB": 1}})
	out, err := run(t, NewKick(), "", "alice", "--device", "phone", "--final", "--note", "stolen", "--nats", c.url)
	if err != nil {
		t.Fatal(err)
	}
	lines(t, out, "2 sessions closed at node NODEABCD.", "1 session closed at node NODEBBBB.")
	var kick admin.KickRequest
	if err := json.Unmarshal(<-kicks, &kick); err != nil || kick.User != "alice" || kick.Device != "phone" || !kick.Final || kick.By.Note != "stolen" || !strings.Contains(kick.By.Who, "@") {
		t.Errorf("asked %+v (%v)", kick, err)
	}
	drains := c.says(admin.Drain, admin.DrainAnswer{Node: "NODEABCDEFGH", Sessions: 40})
	if out, err = run(t, NewDrain(), "", "NODEA", "--nats", c.url); err != nil {
		t.Fatal(err)
	}
	lines(t, out, "Node NODEABCD drains: 40 sessions asked to leave.")
	var drain admin.DrainRequest
	if err := json.Unmarshal(<-drains, &drain); err != nil || drain.Node != "NODEA" || drain.By.Who == "" {
		t.Errorf("asked %+v (%v)", drain, err)
	}
}

func TestNodesListsWhatAnswers(t *testing.T) {
	c := newCounter(t)
	if _, err := run(t, NewNodes(), "", "--nats", c.url); err != nil {
		t.Fatal(err)
	}
	c.says(admin.Nodes, admin.NodeAnswer{Node: "NODEB", Host: "b", PID: 2, Listen: "127.0.0.1:8080", Sessions: 1200, Users: 900, Memory: 50 << 20, Draining: true})
	c.says(admin.Nodes, admin.NodeAnswer{Node: "NODEA", Host: "a", PID: 1, Sessions: 1})
	c.says(admin.Check, admin.CheckAnswer{Instance: "COLLECT", Host: "c", Partitions: 4, Owns: []int{0, 2}, Archive: admin.Health{Kind: "sqlite", Version: "3.50"}, Redis: admin.Health{Kind: "redis", Problem: "no answer"}})
	out, err := run(t, NewNodes(), "", "--nats", c.url)
	if err != nil {
		t.Fatal(err)
	}
	lines(t, out, "NODEA a 1", "NODEB b 2 127.0.0.1:8080 1,200 900 50 MiB draining", "COLLECT c 0 2 of 4 sqlite 3.50 redis: no answer")
	words, _ := (&console{}).completeNodes(NewNodes(), []string{"already"}, "")
	if len(words) != 0 {
		t.Errorf("a second node is offered: %v", words)
	}
}

func TestNodesWaitsForACollectWhoseRedisHangs(t *testing.T) {
	c := newCounter(t)
	answer, _ := json.Marshal(admin.CheckAnswer{Instance: "COLLECT", Host: "c", Partitions: 4, Redis: admin.Health{Kind: "redis", Problem: "it hangs"}})
	_, err := c.nc.Subscribe(subject.Admin(admin.Check), func(m *nats.Msg) {
		time.AfterFunc(2*gathering, func() { _ = m.Respond(answer) })
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, NewNodes(), "", "--nats", c.url)
	if err != nil {
		t.Fatal(err)
	}
	lines(t, out, "COLLECT c 0 0 of 4 redis: it hangs")
}

func TestTopShowsRates(t *testing.T) {
	c := newCounter(t)
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := streams.Create(ctx, js, streams.Facts{Epoch: "e", Partitions: 4}, streams.Options{MaxPayload: c.nc.MaxPayload()}); err != nil {
		t.Fatal(err)
	}
	sent := uint64(0)
	_, err = c.nc.Subscribe(subject.Admin(admin.Nodes), func(m *nats.Msg) {
		sent += 1000
		body, _ := json.Marshal(admin.NodeAnswer{Node: "NODEA", Host: "a", Sessions: 10, Users: 9, Sent: sent})
		_ = m.Respond(body)
		_ = c.nc.Publish(subject.In(subject.UserAddress("default", "alice")), []byte(`{}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, NewTop(), "", "--nats", c.url, "--every", "500ms", "--times", "2", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	looks := strings.Split(out, "\n")
	if len(looks) != 2 {
		t.Fatalf("%d looks:\n%s", len(looks), out)
	}
	for _, text := range looks {
		var l look
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		// 1,000 in an interval that a slow machine stretches.
		if r := l.Rates["NODEA"].Sent; r < 100 || r > 4000 || l.Streams[inStreams].Messages == 0 || l.Streams[inStreams].Rate <= 0 {
			t.Errorf("%s", text)
		}
	}
	if out, err = run(t, NewTop(), "", "--nats", c.url, "--every", "500ms", "--times", "1"); err != nil {
		t.Fatal(err)
	}
	lines(t, out, "1 push node, 10 sessions", "NODE HOST SESSIONS USERS", "NODEA a 10 9", "WEFT_IN", "WEFT_MSG", "WEFT_QUARANTINE")
	if _, err = run(t, NewTop(), "", "--nats", c.url, "--every", "1ms"); ExitCode(err) != ExitUsage {
		t.Errorf("%v", err)
	}
}

func TestTailShowsWhatIsWanted(t *testing.T) {
	c := newCounter(t)
	alice, archived := subject.UserAddress("default", "alice"), time.Now().Add(-time.Hour).UnixMilli()
	publish := func(seq uint64, kind string) {
		m := &message.Message{To: alice, Seq: seq, ID: "m", Type: kind, At: 1, Archived: archived, ContentType: message.JSON, Payload: []byte(`{"n":1}`)}
		if err := c.nc.Publish(subject.Msg(2, alice), message.AppendEntry(nil, alice, message.Entry{From: seq, To: seq, Message: m})); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out signalled
	out.wanted, out.seen = "user:alice  2", make(chan struct{})
	command := NewTail()
	command.SetArgs([]string{"--nats", c.url, "--to", "user:alice", "--type", "order.paid", "--receipts", "--payload"})
	command.SetOut(&out)
	said := signalled{wanted: "listening", seen: make(chan struct{})}
	command.SetErr(&said)
	ended := make(chan error, 1)
	go func() { ended <- command.ExecuteContext(ctx) }()
	await(t, said.seen)
	publish(1, "other")
	receipt, _ := json.Marshal(message.Receipt{ID: "m", To: "user:alice", State: message.StateDelivered, Device: "phone"})
	if err := c.nc.Publish(subject.Receipt(alice.Tokens()), receipt); err != nil {
		t.Fatal(err)
	}
	publish(1, "order.paid")
	archived = time.Now().UnixMilli()
	publish(2, "order.paid")
	await(t, out.seen)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	text := out.text()
	if strings.Contains(text, "other") {
		t.Errorf("another type is shown:\n%s", text)
	}
	lines(t, text, "receipt user:alice m delivered phone", `user:alice 2 m order.paid 7B {"n":1}`)
	if strings.Count(text, "published again, 1h") != 1 || strings.Count(text, "published again") != 1 {
		t.Errorf("one is old, the other news:\n%s", text)
	}
}

func TestWhatIsToldOfFacts(t *testing.T) {
	alice := subject.UserAddress("acme", "al ice")
	undelivered, _ := json.Marshal(event.Event{
		ID: "e", What: event.Undelivered, Tenant: "acme", User: "al ice", Message: &event.Message{ID: "order-1", To: alice.String(), Type: "t", Waiting: 60_000},
	})
	receipt, _ := json.Marshal(message.Receipt{
		Receipt: "r", ID: "m", To: alice.String(), State: message.StateQuarantined, Reason: problem.BadJSON, Message: "is not JSON",
	})
	for what, m := range map[string]*nats.Msg{
		"tenant acme  user:al ice  undelivered  order-1  t  for 1m00s":    {Subject: subject.Event("acme", string(event.Undelivered)), Data: undelivered},
		"tenant acme  user:al ice  m  quarantined  bad_json  is not JSON": {Subject: subject.Receipt(alice.Tokens()), Data: receipt},
		"tenant acme  user:al ice  bad_json  is not JSON": {
			Subject: subject.Quarantine(problem.BadJSON, alice.Tokens()), Header: nats.Header{"Weft-Detail": {"is not JSON"}},
		},
	} {
		kind := strings.Split(m.Subject, ".")[1]
		for _, want := range []struct {
			tenant, to string
			shown      bool
		}{
			{"", "", true}, {"acme", "", true}, {"other", "", false}, {"acme", "user:al ice", true}, {"acme", "user:bob", false}, {"", "user:al ice", false},
		} {
			var out strings.Builder
			tail := &tailing{console: &console{now: time.Now, out: newScreen(&out)}, tenant: want.tenant, to: want.to}
			if err := tail.fact(kind, m); err != nil {
				t.Fatal(err)
			}
			if shown := strings.Contains(out.String(), kind+"  "+what+"\n"); shown != want.shown || !shown && out.Len() > 0 {
				t.Errorf("%s with %+v: %q", kind, want, &out)
			}
		}
	}
}
