package e2e

import (
	"bufio"
	"cmp"
	"encoding/json"
	"io"
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
	heard map[string]bool // operation and name of each message
}

// TestAsyncAPIIsWhatAFabricDoes publishes the examples that go in, says what the examples of clients say, and checks
// every object that comes out. Each message that asyncapi.yaml says Weft sends must have come.
func TestAsyncAPIIsWhatAFabricDoes(t *testing.T) {
	w := bearWitness(t, "dev")
	w.natsDoors()
	w.httpDoor()
	w.webSocket()
	w.events()
	for _, operation := range w.names("operations") {
		if operation == "hear" {
			continue // it has no answer of its own
		}
		for _, name := range w.sent(operation) {
			if !w.heard[operation+" "+name] && name != "drain" { // TestAsyncAPIDrain hears that
				t.Errorf("asyncapi.yaml says that %s sends %s, but it did not", operation, name)
			}
		}
	}
}

func bearWitness(t *testing.T, kind string) *witness {
	t.Helper()
	f := &fabric{t: t, kind: kind, data: t.TempDir(), env: []string{"WEFT_HEARTBEAT=2s", "WEFT_UNDELIVERED_AFTER=1s"}}
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

// hear judges a message that an operation sends.
func (w *witness) hear(operation, name string, headers nats.Header, payload []byte) {
	w.t.Helper()
	flat := map[string]string{}
	for name, values := range headers {
		flat[name] = strings.Join(values, ",")
	}
	w.judge(name, flat, payload)
	w.heard[operation+" "+name] = true
}

// object judges an object of a session, which an operation sends.
func (w *witness) object(operation string, o object) string {
	w.t.Helper()
	for _, name := range w.sent(operation) {
		if w.at("components", "messages", name, "payload", "properties", "t")["const"] == o.T {
			w.hear(operation, name, nil, o.raw)
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
	log, receipts, aside, told := subscribe("weft.msg.>"), subscribe(subject.ReceiptAll), subscribe(subject.QuarantineAll), subscribe(subject.EventAll)
	published := map[string]bool{} // an id at an address is one message, and without one each is another
	for _, to := range w.at("components", "parameters", "address")["examples"].([]any) {
		for _, e := range w.examples("message") {
			m := asPublished(e)
			for channel, answers := range map[string]func(*nats.Msg){
				"in":      func(reply *nats.Msg) { w.hear("accept", "pubAck", reply.Header, reply.Data) },
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
		w.hear("log", "archived", m.Header, nil)
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
	w.hear("archive", "refusal", reply.Header, reply.Data)
	publish(w.t, nc, "weft.in.default.user.alice", "{", nats.Header{message.HeaderID: {"order-9"}})
	m := w.arrived(aside, "quarantine")
	w.hear("setAside", "quarantined", m.Header, nil)
	m = w.arrived(receipts, "receipt")
	w.hear("tell", "receipt", nil, m.Data)
	m = w.arrived(told, "event") // that what was published waits
	w.hear("announce", "event", nil, m.Data)
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
	w.hear("archive", "receipt", reply.Header, reply.Data)
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
			w.hear("post", answer, nil, body)
		}
	}
	if status, body := w.f.post("", `{"to":"all","data":1}`); status == http.StatusUnauthorized {
		w.hear("post", "problem", nil, body)
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

// event is one of a stream of Server-Sent Events.
type event struct{ kind, id, data string }

// eventID is what a client sends back as Last-Event-ID.
var eventID = regexp.MustCompile(`^[\w=-]+:((user|topic)\.[\w=-]+=\d+|all=\d+)(,(user|topic)\.[\w=-]+=\d+|,all=\d+)*$`)

// eventStream opens one; it ends with the test.
func (w *witness) eventStream(lastEventID string) <-chan event {
	w.t.Helper()
	path := w.at("channels", "sse")["address"].(string) + "?device=reader&topic=news&client=curl"
	response := w.request(http.MethodGet, path, lastEventID, "")
	if kind := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || kind != "text/event-stream" {
		w.t.Fatalf("GET %s: %s, %s", path, response.Status, kind)
	}
	lines := bufio.NewScanner(response.Body)
	if !lines.Scan() || !regexp.MustCompile(`^retry: \d+$`).MatchString(lines.Text()) {
		w.t.Fatalf("the first line is %q", lines.Text())
	}
	events := make(chan event, 100)
	go func() {
		defer close(events)
		var e event
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch {
			case name == "event":
				e.kind = value
			case name == "id":
				e.id = value
			case name == "data":
				e.data = value
			case lines.Text() == "" && e != event{}:
				events <- e
				e = event{}
			}
		}
	}()
	return events
}

// request makes an HTTP request of a push node as alice.
func (w *witness) request(method, target, lastEventID, body string) *http.Response {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.f.manifest.Push[0]+target, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.f.token(identity.Identity{User: "alice", Topics: []string{"*"}}, time.Hour))
	if lastEventID != "" {
		r.Header.Set(protocol.LastEventID, lastEventID)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// untilEvent judges events until one of a kind came.
func (w *witness) untilEvent(events <-chan event, kind string) event {
	w.t.Helper()
	late := time.After(patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				w.t.Fatalf("the stream ended before %s came", kind)
			}
			name := cmp.Or(e.kind, "msg")
			if !slices.Contains(w.sent("stream"), name) {
				w.t.Fatalf("the event %v came, which asyncapi.yaml does not know", e)
			}
			w.hear("stream", name, nil, []byte(e.data))
			if numbered := name == "msg" || name == "gap"; numbered != (e.id != "") || numbered && !eventID.MatchString(e.id) {
				w.t.Errorf("the event %v has the id %q", e, e.id)
			}
			if name == kind {
				return e
			}
		case <-late:
			w.t.Fatalf("no %s came", kind)
		}
	}
}

// events listens by Server-Sent Events, acknowledges by POST, and is replaced by a second stream that resumes.
func (w *witness) events() {
	first := w.eventStream("")
	w.untilEvent(first, "welcome")
	last := w.untilEvent(first, "gap")
	for _, name := range w.references(w.at("operations", "acknowledge")["messages"]) {
		for _, e := range w.examples(name) {
			if response := w.request(http.MethodPost, w.at("channels", "ack")["address"].(string)+"?device=reader", "", string(e.Payload)); response.StatusCode != http.StatusNoContent {
				w.t.Errorf("POST %s: %s", e.Payload, response.Status)
			}
		}
	}
	response := w.request(http.MethodPost, w.at("channels", "ack")["address"].(string)+"?device=reader", "", `{"seq":1000}`)
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusConflict {
		w.t.Errorf("too much was acknowledged: %s, %v", response.Status, err)
	}
	w.hear("acknowledge", "problem", nil, body)

	second := w.eventStream(last.id)
	var welcome protocol.Welcome
	if err := json.Unmarshal([]byte(w.untilEvent(second, "welcome").data), &welcome); err != nil || welcome.Mailboxes["user:alice"].Next != welcome.Mailboxes["user:alice"].Head+1 {
		w.t.Errorf("%+v after the id %s, %v", welcome, last.id, err)
	}
	w.untilEvent(first, "error")
	w.untilEvent(first, "close")
}

// A node that drains says so; only in `weft up` is there another one to go to.
func TestAsyncAPIDrain(t *testing.T) {
	w := bearWitness(t, "up")
	s := w.connect(w.examples("hello")[0])
	events := w.eventStream("")
	w.untilEvent(events, "welcome")
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
	w.untilEvent(events, "drain")
}
