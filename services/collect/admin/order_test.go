package admin

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// pusher stands for a push node.
type pusher struct {
	mu       sync.Mutex // protects what follows
	orders   []node.Order
	sessions int   // that it has, and that a kick closes
	refuses  error // orders
}

// push starts a node that answers orders, and, if it is asked what it is, that.
func (w *world) push(id string, sessions int, answers bool) *pusher {
	w.t.Helper()
	n := &pusher{sessions: sessions}
	handle := func(on string, do func(*nats.Msg) any) {
		sub, err := w.nc.Subscribe(on, func(m *nats.Msg) {
			answer := do(m)
			if err, is := answer.(error); is {
				_ = m.RespondMsg(rpc.Refusal(problem.From(err)))
				return
			}
			body, _ := json.Marshal(answer)
			_ = m.Respond(body)
		})
		w.must(err)
		w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	handle(subject.NodeControl(id), func(m *nats.Msg) any {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.refuses != nil {
			return n.refuses
		}
		var order node.Order
		_ = json.Unmarshal(m.Data, &order)
		n.orders = append(n.orders, order)
		return node.Kicked{Sessions: n.sessions}
	})
	if answers {
		handle(subject.Admin(admin.Nodes), func(*nats.Msg) any { return admin.NodeAnswer{Node: id, Sessions: n.sessions} })
	}
	return n
}

func (n *pusher) given() []node.Order {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.orders)
}

func TestKickReachesEveryNodeThatMayHaveASession(t *testing.T) {
	w := newWorld(t)
	w.serve()
	// Redis knows of the slow node, which does not say what it is in time; of the forgotten one it knows nothing.
	slow, forgotten, empty := w.push("slow", 1, false), w.push("forgotten", 2, true), w.push("empty", 0, true)
	w.connect(user(1), "phone", "slow")
	by := admin.By{Who: "anna", Note: "lost phone"}
	answer, err := ask[admin.KickAnswer](w, admin.Kick, admin.KickRequest{User: user(1).ID, Device: "phone", Final: true, By: by})
	w.must(err)
	if !maps.Equal(answer.Sessions, map[string]int{"slow": 1, "forgotten": 2}) {
		t.Errorf("closed %v", answer.Sessions)
	}
	want := node.Order{Op: node.Kick, Tenant: "default", User: user(1).ID, Device: "phone", Final: true}
	for _, n := range []*pusher{slow, forgotten, empty} {
		orders := n.given()
		if len(orders) != 1 || orders[0].Op != want.Op || orders[0].User != want.User || orders[0].Tenant != want.Tenant || orders[0].Device != want.Device || !orders[0].Final {
			t.Errorf("ordered %+v", orders)
		}
	}
	records := w.recorded("kick")
	if len(records) != 1 || records[0].Count != 3 || records[0].By != by || !strings.Contains(string(records[0].Filter), `"device":"phone"`) {
		t.Errorf("recorded %+v", records)
	}
	w.stopRedis()
	answer, err = ask[admin.KickAnswer](w, admin.Kick, admin.KickRequest{User: user(1).ID, By: by})
	w.must(err)
	if !maps.Equal(answer.Sessions, map[string]int{"forgotten": 2}) {
		t.Errorf("without Redis closed %v", answer.Sessions)
	}
}

func TestKickTellsOfNodesThatDoNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.push("good", 2, true)
	bad := w.push("bad", 1, true)
	bad.refuses = problem.New(problem.Unavailable, "not now")
	_, err := w.desk.kick(t.Context(), admin.KickRequest{User: "u", By: admin.By{Who: "anna"}})
	if p := problem.From(err); p.Code != problem.Unavailable || !strings.Contains(p.Message, "bad") || !strings.Contains(p.Message, "2 sessions were closed") {
		t.Errorf("%v", err)
	}
	if records := w.recorded("kick"); len(records) != 1 || records[0].Count != 2 || !strings.Contains(records[0].Detail, "bad") {
		t.Errorf("recorded %+v", records)
	}
}

func TestChangesAreRecordedBeforeTheyAreMade(t *testing.T) {
	w := newWorld(t)
	n := w.push("node-1", 1, true)
	w.archive.failRecords(func(admin.Record) error { return errFault })
	by := admin.By{Who: "anna"}
	if _, err := w.desk.kick(t.Context(), admin.KickRequest{User: "u", By: by}); !errors.Is(err, errFault) {
		t.Errorf("kick: %v", err)
	}
	if _, err := w.desk.drain(t.Context(), admin.DrainRequest{Node: "node-1", By: by}); !errors.Is(err, errFault) {
		t.Errorf("drain: %v", err)
	}
	w.archive.failRecords(nil)
	for _, err := range []error{
		second(w.desk.kick(t.Context(), admin.KickRequest{User: "u"})), second(w.desk.drain(t.Context(), admin.DrainRequest{Node: "node-1"})),
		second(w.desk.replayQuarantined(t.Context(), admin.QuarantineOne{Number: 1})), second(w.desk.dropQuarantined(t.Context(), admin.QuarantineOne{Number: 1})),
	} {
		if p := problem.From(err); p.Code != problem.BadRequest || p.Field != "by" {
			t.Errorf("asked for by nobody: %v", err)
		}
	}
	if orders := n.given(); len(orders) > 0 {
		t.Errorf("ordered %+v", orders)
	}
}

func second[A any](_ A, err error) error { return err }

func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.serve()
	by := admin.By{Who: "anna"}
	one, two := w.push("abc1", 7, true), w.push("abd2", 3, true)
	for _, c := range []struct {
		node string
		code problem.Code
	}{{"", problem.NotFound}, {"x", problem.NotFound}, {"ab", problem.BadRequest}} {
		_, err := w.desk.drain(t.Context(), admin.DrainRequest{Node: c.node, By: by})
		if p := problem.From(err); p.Code != c.code || !strings.Contains(p.Message, "abc1, abd2") {
			t.Errorf("%q: %v", c.node, err)
		}
	}
	if records := w.recorded("drain"); len(records) > 0 {
		t.Errorf("recorded %+v", records)
	}
	answer, err := ask[admin.DrainAnswer](w, admin.Drain, admin.DrainRequest{Node: "abd", By: by})
	w.must(err)
	if answer.Node != "abd2" || answer.Sessions != 3 || len(one.given()) > 0 || len(two.given()) != 1 || two.given()[0].Op != node.Drain {
		t.Errorf("%+v; ordered %+v and %+v", answer, one.given(), two.given())
	}
	if records := w.recorded("drain"); len(records) != 1 || records[0].Count != 3 || string(records[0].Filter) != `{"node":"abd2"}` {
		t.Errorf("recorded %+v", records)
	}
	two.refuses = problem.New(problem.BadRequest, "what?")
	if _, err := w.desk.drain(t.Context(), admin.DrainRequest{Node: "abd2", By: by}); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("a node that refuses: %v", err)
	}
}

// A change that was asked for by somebody who has given up is not made, whatever it is; who waits gets his answer.
func TestNothingIsChangedThatNobodyWaitsFor(t *testing.T) {
	w := newWorld(t)
	w.serve()
	n := w.push("node-1", 1, true)
	w.setAside(problem.BadJSON, "default.user.anna", "1", nil)
	by := admin.By{Who: "anna"}
	request := func(endpoint string, question any) *nats.Msg {
		body, err := json.Marshal(question)
		w.must(err)
		return &nats.Msg{Subject: subject.Admin(endpoint), Data: body, Header: nats.Header{admin.HeaderWaits: {"yes"}}}
	}
	for endpoint, question := range map[string]any{
		admin.Kick: admin.KickRequest{User: "u", By: by}, admin.Drain: admin.DrainRequest{Node: "node-1", By: by},
		admin.Replay:           admin.ReplayRequest{Run: "run", By: by},
		admin.QuarantineReplay: admin.QuarantineOne{Number: 1, By: by}, admin.QuarantineDrop: admin.QuarantineOne{Number: 1, By: by},
	} {
		if _, err := rpc.Send(t.Context(), w.nc, request(endpoint, question)); !errors.Is(err, problem.New(problem.Unavailable, "")) || !strings.Contains(err.Error(), "waits") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	if records, orders := w.recorded(""), n.given(); len(records)+len(orders) > 0 {
		t.Errorf("recorded %+v, ordered %+v", records, orders)
	}
	m := request(admin.Drain, admin.DrainRequest{Node: "node-1", By: by})
	m.Reply = w.nc.NewInbox()
	replies, err := w.nc.SubscribeSync(m.Reply)
	w.must(err)
	waits, err := w.nc.Subscribe(admin.Waits(m.Reply), func(asked *nats.Msg) { _ = asked.Respond(nil) })
	w.must(err)
	defer func() { _ = errors.Join(replies.Unsubscribe(), waits.Unsubscribe()) }()
	w.must(w.nc.PublishMsg(m))
	if reply, err := replies.NextMsg(patience); err != nil || rpc.Refused(reply) != nil || len(n.given()) != 1 {
		t.Errorf("who waits: %v, %+v", err, n.given())
	}
}

func TestDrainWithoutNodes(t *testing.T) {
	w := newWorld(t)
	_, err := w.desk.drain(t.Context(), admin.DrainRequest{Node: "a", By: admin.By{Who: "anna"}})
	if !errors.Is(err, problem.New(problem.NotFound, "")) {
		t.Errorf("%v", err)
	}
}

func TestARecordThatIsTooLargeHidesNoOther(t *testing.T) {
	w := newWorld(t)
	w.serve()
	huge := `{"user":"anna","by":{"who":"x"},"device":"` + strings.Repeat("<", 512<<10) + `"}` // six times as large in the record
	for _, question := range []string{`{"user":"ben","by":{"who":"x"}}`, huge} {
		w.tick()
		if _, err := w.nc.Request(subject.Admin(admin.Kick), []byte(question), patience); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := ask[admin.RecordsAnswer](w, admin.Records, admin.RecordsRequest{})
	w.must(err)
	if len(answer.Records) != 2 || len(answer.Records[0].Filter) > 100 || !strings.Contains(string(answer.Records[1].Filter), "ben") {
		t.Errorf("%.500v", answer.Records)
	}
}
