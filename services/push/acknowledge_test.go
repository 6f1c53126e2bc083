package push

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

func problemIn(t *testing.T, body io.Reader) (p problem.Problem) {
	t.Helper()
	must(t, json.NewDecoder(body).Decode(&p))
	return p
}

// post posts acknowledgements of alice's phone and holds the answer.
func (n *running) post(t *testing.T, body string, status int, code problem.Code) {
	t.Helper()
	got, p := postAck(t, n.listener.Addr().String(), token("alice"), "phone", body)
	if got != status || p.Code != code {
		t.Errorf("%s is answered %d %+v; want %d %s", body, got, p, status, code)
	}
}

func (w *world) cursor(to subject.Address) uint64 {
	return w.acked()["alice/phone/"+to.Tokens()]
}

// TestAcknowledgementsByPost in all their forms, wherever they are posted.
func TestAcknowledgementsByPost(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	g := n.guest(t, doors()[1], "phone", topics("news"))
	w.push(alice, numbers(9)...)
	w.push(news, "1")
	for range 10 {
		g.want(protocol.TMsg)
	}
	s := n.session(g.id())
	for _, c := range []struct {
		body  string
		alice uint64
	}{
		{`{"seq":1}`, 1},
		{` {"t":"ack","seq":2} `, 2},
		{`[{"seq":3},{"ch":"user:alice","seq":4}]`, 4},
		{"{\"seq\":5}\n{\"ch\":\"topic:news\",\"seq\":1}\n", 5},
		{"[{\"seq\":6}]\n[{\"seq\":2}]{\"seq\":0}", 6},
	} {
		for _, at := range []*running{n, other} {
			at.post(t, c.body, http.StatusNoContent, "")
		}
		s.mu.Lock()
		if l := s.lane(""); l.acked != c.alice {
			t.Errorf("%s moves the cursor to %d; want %d", c.body, l.acked, c.alice)
		}
		s.mu.Unlock()
	}
	for _, at := range []*running{n, other} {
		at.post(t, `[{"seq":8},{"seq":10}]`, http.StatusConflict, problem.AckAhead)
		at.post(t, `[{"seq":8},{"ch":"topic:nobody","seq":1}]`, http.StatusConflict, problem.NotSubscribed)
	}
	eventually(t, "the cursor is there", func() bool { return w.cursor(alice) == 6 })
	g.quiet(w)
}

// TestPostsThatAreNoAcknowledgements.
func TestPostsThatAreNoAcknowledgements(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, "1")
	for _, body := range []string{"", "x", "[]", "null", "1", `{"sequence":1}`, `{"ch":"topic:news"}`, `{"seq":-1}`, `{"t":"ping","seq":1}`, `{"seq":1}x`, `[[{"seq":1}]]`, `{"seq":1`} {
		n.post(t, body, http.StatusBadRequest, problem.BadRequest)
	}
	n.post(t, strings.Repeat(" ", frameMost+1), http.StatusRequestEntityTooLarge, problem.TooLarge)
	n.post(t, `{"ch":"user:bob","seq":1}`, http.StatusForbidden, problem.Forbidden)
	n.post(t, `{"ch":"topic:secret","seq":1}`, http.StatusForbidden, problem.Forbidden)
	n.post(t, `{"ch":"group:1","seq":1}`, http.StatusUnprocessableEntity, problem.BadAddress)
	at := n.listener.Addr().String()
	for _, c := range []struct {
		token, device string
		status        int
	}{{"?", "phone", http.StatusUnauthorized}, {token("alice"), "", http.StatusBadRequest}, {token("alice"), strings.Repeat("x", 129), http.StatusUnprocessableEntity}} {
		if status, p := postAck(t, at, c.token, c.device, `{"seq":1}`); status != c.status {
			t.Errorf("%.20q is answered %d %+v", c.device, status, p)
		}
	}
	if got := w.acked(); len(got) != 0 {
		t.Errorf("%v was recorded", got)
	}
}

// TestAcknowledgementsWithoutASession count as the cursors of a hello, and are durable when they are answered.
func TestAcknowledgementsWithoutASession(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, "1", "2", "3")
	w.publish(news, "1")
	n.post(t, `[{"seq":2},{"ch":"topic:news","seq":1},{"ch":"all","seq":0}]`, http.StatusNoContent, "")
	if w.cursor(alice) != 2 || w.cursor(news) != 1 || len(w.acked()) != 2 {
		t.Errorf("%v was recorded", w.acked())
	}
	n.post(t, `{"seq":4}`, http.StatusConflict, problem.AckAhead)
	g := n.guest(t, doors()[1], "phone", topics("news"))
	g.wants("", 3, 3)
	g.quiet(w)
	g.leave(n)
	w.archive.set(func() { w.archive.down = true })
	must(t, w.js.DeleteStream(t.Context(), "WEFT_ACK"))
	n.post(t, `{"seq":3}`, http.StatusServiceUnavailable, problem.Unavailable)
}

// TestAcknowledgementsOfASessionThatNobodyHasAnyMore: the node that Redis names is gone, or has forgotten the session.
func TestAcknowledgementsOfASessionThatNobodyHasAnyMore(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	w.publish(alice, "1", "2", "3")
	for seq, where := range map[string]string{"1": "gone", "2": other.id, "3": n.id} {
		_, err := w.table.Connect(t.Context(), route.Connection{User: alice, Device: "phone", Node: where, Session: "old"})
		must(t, err)
		n.post(t, `{"seq":`+seq+`}`, http.StatusNoContent, "")
	}
	if w.cursor(alice) != 3 {
		t.Errorf("%v was recorded", w.acked())
	}
}

// TestAcknowledgementsThatCantBePassedOn are worth a retry: the node that has the session does not answer, or Redis can't
// say which that is, or the session is just opening.
func TestAcknowledgementsThatCantBePassedOn(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, "1")
	orders := make(chan *nats.Msg, 1)
	_, err := w.nc.ChanSubscribe(subject.NodeControl("deaf"), orders)
	must(t, err)
	must(t, w.nc.Flush())
	_, err = w.table.Connect(t.Context(), route.Connection{User: alice, Device: "phone", Node: "deaf", Session: "old"})
	must(t, err)
	begun := time.Now()
	n.post(t, `{"seq":1}`, http.StatusServiceUnavailable, problem.Unavailable)
	if took := time.Since(begun); took > openTimeout {
		t.Errorf("it took %s", took)
	}
	var o node.Order
	must(t, json.Unmarshal(wait(t, "the order comes", orders).Data, &o))
	if o.Op != node.Ack || o.Session != "old" || len(o.Acks) != 1 || o.Acks[0] != (protocol.Ack{Seq: 1}) {
		t.Errorf("the order is %+v", o)
	}
	w.redis.SetError("LOADING")
	n.post(t, `{"seq":1}`, http.StatusServiceUnavailable, problem.Unavailable)
	w.redis.SetError("")
	gate := make(chan struct{})
	w.archive.set(func() { w.archive.opening = gate })
	came := make(chan *guest, 1)
	go func() { came <- n.enterBy(t, doors()[1], token("alice"), "phone") }()
	eventually(t, "a session opens", func() bool { return w.archive.opened() == 1 })
	n.post(t, `{"seq":1}`, http.StatusServiceUnavailable, problem.Unavailable)
	close(gate)
	g := wait(t, "it is welcome", came)
	g.want(protocol.TWelcome)
	g.wants("", 1, 1)
	n.post(t, `{"seq":1}`, http.StatusNoContent, "")
}

// TestAcknowledgementsFollowADeviceThatMoved: the node that had its session has not heard of that yet.
func TestAcknowledgementsFollowADeviceThatMoved(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	b := newBench(t, 4096)
	old, _ := b.session("phone", map[subject.Address]uint64{alice: 0}) // another node's, which was sent nothing
	lanes := []*lane{{session: old, to: alice}}
	n.hub.join(lanes[0])
	g := other.guest(t, doors()[1], "phone", topics("news"))
	w.push(news, "1")
	g.wants("topic:news", 1, 1)
	n.post(t, `{"ch":"topic:news","seq":1}`, http.StatusNoContent, "")
	w.push(alice, "1")
	g.wants("", 1, 1)
	n.post(t, `{"seq":1}`, http.StatusNoContent, "")
	n.post(t, `{"seq":2}`, http.StatusConflict, problem.AckAhead)
	eventually(t, "the cursor is there", func() bool { return w.cursor(alice) == 1 })
	n.hub.leave(lanes[0])
}

// FuzzParseAcks holds that a body is acknowledgements or a problem of its sender.
func FuzzParseAcks(f *testing.F) {
	for _, seed := range []string{`{"seq":1}`, `[{"seq":1},{"ch":"all","seq":2}]`, "{\"seq\":1}\n{\"seq\":2}", "[]", "null", `[null]`, `{"seq":1e3}`, "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		acks, err := parseAcks([]byte(body))
		if p, ok := errors.AsType[*problem.Problem](err); err != nil && (!ok || p.Status() != http.StatusBadRequest || acks != nil) {
			t.Errorf("%q is refused with %v", body, err)
		}
		if err == nil && len(acks) == 0 {
			t.Errorf("%q acknowledges nothing", body)
		}
	})
}
