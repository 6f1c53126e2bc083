package e2e

import (
	"encoding/json"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// witness holds what a fabric says against asyncapi.yaml, and remembers what it has heard.
type witness struct {
	*document

	f     *fabric
	heard map[string]bool // names of messages
}

// TestAsyncAPIIsWhatAFabricDoes publishes the examples that go in, says what the examples of clients say, and checks
// every object that comes out. Each message that asyncapi.yaml says Weft sends must have come.
func TestAsyncAPIIsWhatAFabricDoes(t *testing.T) {
	w := bearWitness(t, "dev")
	w.natsDoors()
	w.httpDoor()
	w.webSocket()
	for _, operation := range []string{"accept", "archive", "tell", "setAside", "log", "post", "say"} {
		for _, name := range w.sent(operation) {
			if !w.heard[name] && name != "drain" { // TestAsyncAPIDrain hears that
				t.Errorf("asyncapi.yaml says that %s sends %s, but it did not", operation, name)
			}
		}
	}
}

func bearWitness(t *testing.T, kind string) *witness {
	t.Helper()
	f := &fabric{t: t, kind: kind, data: t.TempDir(), env: []string{"WEFT_HEARTBEAT=2s"}}
	f.start()
	t.Cleanup(f.stop)
	return &witness{readDocument(t), f, map[string]bool{}}
}

// sent are the messages that come out of an operation: its own when Weft sends, else those of its reply.
func (w *witness) sent(operation string) []string {
	w.t.Helper()
	o := w.at("operations", operation)
	if o["action"] == "receive" {
		o = w.at("operations", operation, "reply")
	}
	return w.references(o["messages"])
}

// references are the last parts of a list of references.
func (w *witness) references(list any) []string {
	w.t.Helper()
	var names []string
	for _, one := range list.([]any) {
		names = append(names, path.Base(one.(map[string]any)["$ref"].(string)))
	}
	return names
}

// hear judges a message.
func (w *witness) hear(name string, headers nats.Header, payload []byte) {
	w.t.Helper()
	flat := map[string]string{}
	for name, values := range headers {
		flat[name] = strings.Join(values, ",")
	}
	w.judge(name, flat, payload)
	w.heard[name] = true
}

// object judges an object of a session, which an operation sends.
func (w *witness) object(operation string, o object) string {
	w.t.Helper()
	for _, name := range w.sent(operation) {
		if w.at("components", "messages", name, "payload", "properties", "t")["const"] == o.T {
			w.hear(name, nil, o.raw)
			return name
		}
	}
	w.t.Fatalf("%s came, which asyncapi.yaml does not know", o.raw)
	return ""
}

// arrived waits for the next message of a subscription and checks its subject.
func (w *witness) arrived(sub *nats.Subscription, channel string) *nats.Msg {
	w.t.Helper()
	m, err := sub.NextMsg(patience)
	if err != nil {
		w.t.Fatalf("%s: %v", sub.Subject, err)
	}
	pattern := regexp.QuoteMeta(w.at("channels", channel)["address"].(string))
	pattern = strings.ReplaceAll(pattern, `\{address\}`, `((user|topic)\.[\w=-]+|all|unaddressed)`)
	pattern = regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(pattern, `[\w=-]+`)
	if !regexp.MustCompile("^" + pattern + "$").MatchString(m.Subject) {
		w.t.Errorf("%s is no subject of the channel %s", m.Subject, channel)
	}
	return m
}

// natsDoors publishes the examples to every example of an address, through both doors.
func (w *witness) natsDoors() {
	nc := w.f.connect()
	subscribe := func(all string) *nats.Subscription {
		sub, err := nc.SubscribeSync(all)
		if err != nil {
			w.t.Fatal(err)
		}
		return sub
	}
	log, receipts, aside := subscribe("weft.msg.>"), subscribe(subject.ReceiptAll), subscribe(subject.QuarantineAll)
	published := map[string]bool{} // an id at an address is one message, and without one each is another
	for _, to := range w.at("components", "parameters", "address")["examples"].([]any) {
		for _, e := range w.examples("message") {
			m := asPublished(e)
			for channel, answers := range map[string]func(*nats.Msg){
				"in":      func(reply *nats.Msg) { w.hear("pubAck", reply.Header, reply.Data) },
				"publish": w.requested,
			} {
				address := w.at("channels", channel)["address"].(string)
				m.Subject = strings.NewReplacer("{tenant}", "default", "{address}", to.(string)).Replace(address)
				reply, err := nc.RequestMsg(m, patience)
				if err != nil {
					w.t.Fatalf("%s to %s: %v", e.Name, m.Subject, err)
				}
				answers(reply)
				id := e.Name
				if len(e.Headers) == 0 {
					id += channel
				}
				published[id+to.(string)] = true
			}
		}
	}
	for range published {
		m := w.arrived(log, "log")
		w.hear("archived", m.Header, nil)
		if entries, err := message.DecodeEntries(m.Data); err != nil || len(entries) != 1 {
			w.t.Errorf("%s has %d entries, %v", m.Subject, len(entries), err)
		}
	}
	// Refused, in the ways that the examples of refusals show.
	taken := &nats.Msg{Subject: "weft.publish.default.user.alice", Header: nats.Header{message.HeaderID: {"order-7"}}, Data: []byte("0")}
	reply, err := nc.RequestMsg(taken, patience)
	if err != nil {
		w.t.Fatal(err)
	}
	w.hear("refusal", reply.Header, reply.Data)
	publish(w.t, nc, "weft.in.default.user.alice", "{", nats.Header{message.HeaderID: {"order-9"}})
	m := w.arrived(aside, "quarantine")
	w.hear("quarantined", m.Header, nil)
	m = w.arrived(receipts, "receipt")
	w.judge("receipt", nil, m.Data)
}

// asPublished is an example as a NATS message: the payload is JSON, unless the headers say otherwise.
func asPublished(e example) *nats.Msg {
	m := &nats.Msg{Header: nats.Header{}, Data: e.Payload}
	for name, value := range e.Headers {
		m.Header[name] = []string{value}
	}
	if kind := e.Headers[message.HeaderContentType]; kind != "" && kind != message.JSON {
		var text string
		if json.Unmarshal(e.Payload, &text) == nil {
			m.Data = []byte(text)
		}
	}
	return m
}

func (w *witness) requested(reply *nats.Msg) {
	w.t.Helper()
	if reply.Header.Get("Nats-Service-Error") != "" {
		w.t.Errorf("an example was refused: %s", reply.Data)
	}
	w.hear("receipt", reply.Header, reply.Data)
}

// httpDoor posts the examples, and one without a token.
func (w *witness) httpDoor() {
	token := w.f.token(identity.Identity{User: "shop", Publish: []string{"*"}}, time.Hour)
	for name, answer := range map[string]string{"post": "receipt", "posts": "posted"} {
		for _, e := range w.examples(name) {
			status, body := w.f.post(token, string(e.Payload))
			if status != http.StatusOK {
				w.t.Errorf("POST %s: %d", e.Payload, status)
			}
			w.hear(answer, nil, body)
		}
	}
	if status, body := w.f.post("", `{"to":"all","data":1}`); status == http.StatusUnauthorized {
		w.hear("problem", nil, body)
	} else {
		w.t.Errorf("without a token: %d %s", status, body)
	}
}

// session is one connection of the client in the examples.
type session struct {
	w    *witness
	d    *device
	said map[string]int
}

// until judges what comes until something of that name came, so many times on this connection.
func (s *session) until(name string, times int) object {
	s.w.t.Helper()
	late := time.After(patience)
	for {
		select {
		case o, ok := <-s.d.objects:
			if !ok {
				s.w.t.Fatalf("the connection ended before %s came: %v", name, s.d.closed)
			}
			came := s.w.object("say", o)
			if s.said[came]++; came == name && s.said[name] >= times {
				return o
			}
		case <-late:
			s.w.t.Fatalf("no %s came", name)
		}
	}
}

// connect says auth and hello as an example has them; the token alone is another.
func (w *witness) connect(hello example) *session {
	w.t.Helper()
	d := w.f.dial("")
	auth := map[string]any{}
	if err := json.Unmarshal(w.examples("auth")[0].Payload, &auth); err != nil {
		w.t.Fatal(err)
	}
	auth["token"] = w.f.token(identity.Identity{User: "alice", Topics: []string{"*"}}, time.Hour)
	d.say(auth, hello.Payload)
	s := &session{w, d, map[string]int{}}
	s.until("welcome", 1)
	return s
}

// webSocket says what a client's examples say, and breaks the protocol at the end.
func (w *witness) webSocket() {
	nc := w.f.connect()
	publish(w.t, nc, "weft.in.default.user.alice", "1", nats.Header{message.HeaderTTL: {"1ms"}})
	hellos := w.examples("hello")
	s := w.connect(hellos[0])
	s.until("gap", 1) // the expired message is the last
	answers := map[string]string{"sub": "subscribed", "unsub": "unsubscribed", "ping": "pong"}
	for _, name := range w.references(w.at("operations", "hear")["messages"]) {
		if name == "hello" || name == "auth" {
			continue
		}
		for i, e := range w.examples(name) {
			s.d.say(e.Payload)
			if answer := answers[name]; answer != "" {
				s.until(answer, i+1)
			}
		}
	}
	s.until("ping", 1)
	s.d.leave()

	s = w.connect(hellos[1])
	var gap protocol.Gap
	if err := json.Unmarshal(s.until("gap", 1).raw, &gap); err != nil || gap.Why != message.WhyEpoch || gap.To != 6 {
		w.t.Errorf("%+v, %v instead of the gap of another epoch, up to what was acknowledged", gap, err)
	}
	s.d.say(map[string]string{"t": "dance"})
	s.until("error", 1)
	if _, code := s.d.ending(); !slices.Contains(w.alternatives("closeCode"), "4400") || code != 4400 {
		w.t.Errorf("closed with %d", code)
	}
}

// A node that drains says so; only in `weft up` is there another one to go to.
func TestAsyncAPIDrain(t *testing.T) {
	w := bearWitness(t, "up")
	s := w.connect(w.examples("hello")[0])
	node := local.Port(w.f.manifest.Push[0])
	for _, p := range w.f.manifest.Processes {
		if slices.Contains(p.Ports, node) {
			if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.until("drain", 1)
	s.d.leave()
}
