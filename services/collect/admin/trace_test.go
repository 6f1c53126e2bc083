package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// traced asks for the trace of an id that is at one address.
func (w *world) traced(id string) admin.Traced {
	w.t.Helper()
	answer, err := w.desk.trace(w.t.Context(), admin.TraceRequest{ID: id})
	w.must(err)
	if len(answer.Traces) != 1 || answer.More {
		w.t.Fatalf("%+v; want one trace", answer)
	}
	return answer.Traces[0]
}

// steps are a trace's steps in words: what, device, node.
func steps(t admin.Traced) []string {
	var all []string
	for _, s := range t.Steps {
		all = append(all, strings.TrimSpace(strings.Join([]string{s.What, s.Device, s.Node}, " ")))
	}
	return all
}

// advance acknowledges as collect does it for a push node.
func (w *world) advance(to subject.Address, device string, seq uint64, at int64) {
	w.t.Helper()
	w.must(w.archive.Advance(w.t.Context(), []history.Cursor{{
		Tenant: to.Tenant, User: to.ID, Device: device, Address: to.Tokens(), Seq: seq, At: at, Node: "node-1",
	}}))
}

// aside puts a message into quarantine as collect does.
func (w *world) aside(to subject.Address, id string) {
	w.t.Helper()
	packed, data := quarantine.Pack(nats.Header{message.HeaderID: {id}}, []byte("not JSON"))
	packed.Set(quarantine.HeaderReason, string(problem.BadJSON))
	packed.Set(quarantine.HeaderDetail, "the payload is not JSON")
	packed.Set(quarantine.HeaderSubject, subject.InPartition(0, to))
	_, err := w.js.PublishMsg(w.t.Context(), &nats.Msg{Subject: subject.Quarantine(problem.BadJSON, to.Tokens()), Header: packed, Data: data})
	w.must(err)
}

// A trace tells each step in the order of time, and who has not acknowledged.
func TestTraceTellsEachStep(t *testing.T) {
	w := newWorld(t)
	to := user(1)
	for _, device := range []string{"phone", "laptop", "away"} {
		w.know(to, device)
	}
	m := &message.Message{To: to, ID: "order-17", Receipt: true}
	w.store(&message.Message{To: to, ID: "before"}, m)
	w.log(&message.Message{To: to, ID: "before", Seq: 1, Archived: m.Archived}, m)
	now := time.Now().UnixMilli() + 1000
	w.must(w.archive.Route(t.Context(), []ledger.Routed{{Address: to.Tokens(), From: 1, To: 2, At: now, Nodes: []string{"node-1", "node-2"}}}))
	w.advance(to, "phone", 2, now+1)
	_, err := w.archive.Settle(t.Context(), []archive.Settled{{Message: m, Device: "phone", State: message.StateDelivered, At: now + 2}})
	w.must(err)
	w.connect(to, "laptop", "node-2")
	w.know(to, "new") // it came later, and has nothing to do with it
	w.store(&message.Message{To: to, ID: "order-17~run", Again: true})

	trace := w.traced("order-17")
	want := []string{"accepted", "archived", "logged", "routed  node-1, node-2", "acknowledged phone node-1", "receipt phone", "pending away", "pending laptop node-2"}
	if got := steps(trace); !slices.Equal(got, want) || trace.State != "partly" || trace.Message.Seq != 2 {
		t.Errorf("%s, seq %d: %q; want partly, 2: %q", trace.State, trace.Message.Seq, got, want)
	}
	p := subject.Partition(to, partitions)
	if d := trace.Steps[2].Detail; d != fmt.Sprintf("WEFT_MSG_%d, sequence 2", p) {
		t.Errorf("logged: %s", d)
	}
	if d := trace.Steps[6].Detail; d != "away" {
		t.Errorf("the device that is away: %q", d)
	}
	if want := (admin.Place{Address: to.Tokens(), Seq: 3}); len(trace.Copies) != 1 || trace.Copies[0] != want {
		t.Errorf("copies %+v, want %+v", trace.Copies, want)
	}
	w.advance(to, "laptop", 2, now+3)
	w.advance(to, "away", 2, now+3)
	if state := w.traced("order-17").State; state != "delivered" {
		t.Errorf("%s; all devices have acknowledged it", state)
	}
}

// What is not known is said, and never made up.
func TestTraceSaysWhatIsNotKnown(t *testing.T) {
	w := newWorld(t)
	m := &message.Message{To: user(1), ID: "quiet"}
	w.store(m) // its log has lost it
	trace := w.traced("quiet")
	if got := steps(trace); !slices.Equal(got, []string{"accepted", "archived", "logged", "routed"}) || trace.State != "pending" {
		t.Errorf("%s: %q", trace.State, got)
	}
	if l, r := trace.Steps[2], trace.Steps[3]; l.At != 0 || !strings.HasPrefix(l.Detail, "not found in WEFT_MSG_") || r.At != 0 || r.Detail != "not reported" {
		t.Errorf("%+v, %+v", l, r)
	}
	w.know(user(1), "phone")
	w.stopRedis()
	if s := w.traced("quiet").Steps; s[len(s)-1].Detail != "Redis does not say where it is connected" {
		t.Errorf("%+v", s[len(s)-1])
	}
}

// The states that end a message.
func TestTraceStates(t *testing.T) {
	w := newWorld(t)
	to := user(1)
	w.know(to, "phone")
	w.store(&message.Message{To: to, ID: "expired", Expires: time.Now().UnixMilli() + 1}, &message.Message{To: to, ID: "later"})
	w.advance(to, "phone", 2, time.Now().UnixMilli()+1000) // it passes over the expired one
	trace := w.traced("expired")
	if got := steps(trace); trace.State != "expired" || !slices.Contains(got, "expired") {
		t.Errorf("%s: %q", trace.State, got)
	}
	if got := steps(trace); slices.Contains(got, "acknowledged phone node-1") {
		t.Errorf("acknowledged after it had expired: %q", got)
	}
	topic := subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}
	w.store(&message.Message{To: topic, ID: "news"})
	if trace := w.traced("news"); trace.State != "pending" || !slices.Contains(steps(trace), "acknowledged") {
		t.Errorf("%s: %q", trace.State, steps(trace))
	}
	w.aside(user(2), "bad")
	if trace := w.traced("bad"); trace.State != "quarantined" || trace.Message.To != user(2).String() || !strings.Contains(trace.Steps[0].Detail, "bad_json") {
		t.Errorf("%+v", trace)
	}
	w.aside(to, "later") // the same id once more, at the same address
	if trace := w.traced("later"); trace.State != "delivered" || !slices.Contains(steps(trace), "quarantined") {
		t.Errorf("%s: %q", trace.State, steps(trace))
	}
}

// An id that many addresses have is shown for some, users first, and for the one that is named.
func TestTraceOfManyAddresses(t *testing.T) {
	w := newWorld(t)
	many := []*message.Message{{To: subject.Address{Tenant: "default", Kind: subject.All}, ID: "many"}}
	for i := range traceMost {
		many = append(many, &message.Message{To: user(i), ID: "many"})
	}
	w.store(many...)
	answer, err := w.desk.trace(t.Context(), admin.TraceRequest{ID: "many"})
	w.must(err)
	if len(answer.Traces) != traceMost || !answer.More || slices.ContainsFunc(answer.Traces, func(t admin.Traced) bool { return t.Message.To == "all" }) {
		t.Errorf("%d traces, more %t", len(answer.Traces), answer.More)
	}
	answer, err = w.desk.trace(t.Context(), admin.TraceRequest{ID: "many", To: "all"})
	w.must(err)
	if len(answer.Traces) != 1 || answer.More || answer.Traces[0].Message.To != "all" {
		t.Errorf("%+v", answer)
	}
}

// An id that is nowhere is a problem that says where it was looked for.
func TestTraceOfNothing(t *testing.T) {
	w := newWorld(t)
	w.store(&message.Message{To: user(1), ID: "here"})
	for _, q := range []admin.TraceRequest{{ID: "nowhere"}, {ID: "here", To: user(2).String()}, {ID: "here", Tenant: "other"}} {
		_, err := w.desk.trace(t.Context(), q)
		p := problem.From(err)
		if p.Code != problem.NotFound || !strings.Contains(p.Message, q.ID) || !strings.Contains(p.Message, "archive") || !strings.Contains(p.Message, "quarantine") {
			t.Errorf("%+v: %v", q, err)
		}
	}
	for _, q := range []admin.TraceRequest{{}, {ID: "x", To: "nobody:1"}} {
		if _, err := w.desk.trace(t.Context(), q); err == nil || problem.From(err).Code == problem.NotFound {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
