package admin

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// holding is a push node that has sessions, and answers as one does.
func (w *world) holding(id string, sessions ...node.Session) {
	w.t.Helper()
	answer := func(subj string, say any) {
		sub, err := w.nc.Subscribe(subj, func(m *nats.Msg) {
			body, err := json.Marshal(say)
			if err != nil {
				w.t.Error(err)
			}
			if err := m.Respond(body); err != nil {
				w.t.Error(err)
			}
		})
		w.must(err)
		w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	answer(subject.NodeControl(id), sessions)
	answer(subject.Admin(admin.Nodes), admin.NodeAnswer{Node: id})
	w.must(w.nc.Flush())
}

// A user's devices are told with what waits for each, and where each is connected.
func TestUser(t *testing.T) {
	w := newWorld(t)
	to := user(1)
	w.know(to, "phone")
	w.know(to, "laptop")
	w.publish(to, 12)
	w.store(&message.Message{To: to, ID: "short", Expires: time.Now().UnixMilli() + 1})
	w.advance(to, "phone", 10, 1234)
	w.connect(to, "phone", "node-1")
	w.holding("node-1", node.Session{Session: "s", User: to.ID, Device: "phone", Door: "websocket"})
	a, err := w.desk.user(t.Context(), admin.UserRequest{User: to.ID, Last: 3})
	w.must(err)
	if a.Head != 13 || a.Pending != 2 || len(a.Devices) != 2 || len(a.Last) != 3 || a.Last[0].ID != "short" || a.Last[2].Seq != 11 {
		t.Fatalf("%+v", a)
	}
	laptop, phone := a.Devices[0], a.Devices[1]
	if laptop.Pending != 12 || laptop.Cursor != 0 || laptop.Acked != 0 || laptop.Node != "" || laptop.Session != nil {
		t.Errorf("%+v", laptop)
	}
	if phone.Pending != 2 || phone.Cursor != 10 || phone.Acked == 0 || phone.Node != "node-1" || phone.Session == nil || phone.Session.Door != "websocket" {
		t.Errorf("%+v", phone)
	}
}

// Without Redis all nodes are asked.
func TestUserWithoutRedis(t *testing.T) {
	w := newWorld(t)
	to := user(1)
	w.publish(to, 1)
	w.stopRedis()
	w.holding("node-1")
	w.holding("node-2", node.Session{Session: "s", User: to.ID, Device: "tab"})
	a, err := w.desk.user(t.Context(), admin.UserRequest{User: to.ID})
	w.must(err)
	if len(a.Devices) != 1 || a.Devices[0].Node != "node-2" || a.Devices[0].Session == nil || a.Pending != 1 {
		t.Errorf("%+v", a)
	}
}

// A user of whom nothing is known is a problem, since it mostly is a slip of the pen.
func TestUserOfWhomNothingIsKnown(t *testing.T) {
	w := newWorld(t)
	w.publish(user(1), 1)
	for _, q := range []admin.UserRequest{{User: "nobody"}, {User: user(1).ID, Tenant: "other"}} {
		if _, err := w.desk.user(t.Context(), q); problem.From(err).Code != problem.NotFound {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// full is an archive whose disk is full.
type full struct{ archive.Archive }

func (full) Ping(context.Context) error { return errors.New("its disk is full") }

// Every collect says how it finds what it depends on.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	w.serve()
	a, err := ask[admin.CheckAnswer](w, admin.Check, struct{}{})
	w.must(err)
	if a.Instance != "desk" || a.Partitions != partitions || a.Epoch == "" || !slices.Equal(a.Owns, []int{0, 1}) || a.PID == 0 || a.Now == 0 {
		t.Errorf("%+v", a)
	}
	if a.Archive.Kind != "sqlite" || a.Archive.Problem != "" || a.Archive.Millis <= 0 || a.Redis.Kind != "redis" || a.Redis.Problem != "" {
		t.Errorf("%+v, %+v", a.Archive, a.Redis)
	}
	w.stopRedis()
	w.desk.Archive = full{w.archive}
	all, err := rpc.Gather[admin.CheckAnswer](t.Context(), w.nc, subject.Admin(admin.Check), struct{}{}, 3*time.Second)
	w.must(err)
	if len(all) != 1 || !strings.Contains(all[0].Archive.Problem, "its disk is full") || !strings.Contains(all[0].Redis.Problem, "Redis") {
		t.Errorf("%+v", all)
	}
}
