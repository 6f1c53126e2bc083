package push

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

var _ service.Refuser = (*Service)(nil)

// order gives an order to a node and decodes the answer.
func order[A any](w *world, n *running, o node.Order) (answer A) {
	w.t.Helper()
	must(w.t, rpc.Ask(w.t.Context(), w.nc, subject.NodeControl(n.id), o, &answer))
	return answer
}

// TestSessionsAreKicked: those that are named, and no others; told whether to come again.
func TestSessionsAreKicked(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		phone, tablet, watch := n.guest(t, d, "phone"), n.guest(t, d, "tablet"), n.guest(t, d, "watch")
		bob := n.enterBy(t, d, token("bob"), "phone")
		bob.want(protocol.TWelcome)
		kick := func(o node.Order, want int) {
			t.Helper()
			o.Op, o.Tenant = node.Kick, "default"
			if got := order[node.Kicked](w, n, o); got.Sessions != want {
				t.Errorf("%+v closed %d, want %d", o, got.Sessions, want)
			}
		}
		kick(node.Order{User: "nobody"}, 0)
		kick(node.Order{User: "alice", Device: "none"}, 0)
		kick(node.Order{User: "alice", Device: "phone"}, 1)
		phone.ends(protocol.CloseDraining, problem.Kicked)
		n.guest(t, d, "phone").quiet(w) // and may come again
		tablet.want(protocol.TMsg)      // the mark
		watch.want(protocol.TMsg)
		bob.want(protocol.TMsg)
		kick(node.Order{User: "alice", Device: "watch", Final: true}, 1)
		watch.ends(protocol.CloseForbidden, problem.Kicked)
		eventually(t, "two are left", func() bool { return len(n.hub.sessions(alice)) == 2 })
		kick(node.Order{User: "alice"}, 2)
		tablet.ends(protocol.CloseDraining, problem.Kicked)
		bob.quiet(w)
	})
}

// TestAnOpeningSessionIsKicked: it never begins.
func TestAnOpeningSessionIsKicked(t *testing.T) {
	for _, final := range []bool{false, true} {
		w := newWorld(t)
		n := w.node()
		gate := make(chan struct{})
		w.archive.set(func() { w.archive.opening = gate })
		d := n.dial(t, token("alice"))
		d.hello("phone")
		eventually(t, "the session waits for the archive", func() bool { return w.archive.opened() == 1 })
		if got := order[node.Kicked](w, n, node.Order{Op: node.Kick, Tenant: "default", User: "alice", Final: final}); got.Sessions != 1 {
			t.Errorf("%d were closed", got.Sessions)
		}
		if got := order[node.Kicked](w, n, node.Order{Op: node.Kick, Tenant: "default", User: "alice"}); got.Sessions != 0 {
			t.Errorf("%d that end already were closed", got.Sessions)
		}
		close(gate)
		code := protocol.CloseDraining
		if final {
			code = protocol.CloseForbidden
		}
		d.end(code, problem.Kicked)
	}
}

// TestSessionsAreDescribed: where they are, since when, and how far.
func TestSessionsAreDescribed(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		before := time.Now().UnixMilli()
		g := n.guest(t, d, "phone", topics("news"), func(h *protocol.FromClient) { h.Client = "app/1.2\x1b[31m" + strings.Repeat("ö", 100) })
		n.guest(t, d, "tablet")
		w.push(alice, numbers(3)...)
		w.push(news, "1")
		for range 4 {
			g.want(protocol.TMsg)
		}
		g.ack("", 2)
		eventually(t, "the cursor is there", func() bool { return w.acked()["alice/phone/default.user.alice"] == 2 })
		if all := order[[]node.Session](w, n, node.Order{Op: node.Sessions, Tenant: "default", User: "alice"}); len(all) != 2 {
			t.Errorf("%+v are all", all)
		}
		for _, o := range []node.Order{{Tenant: "default", User: "bob"}, {Tenant: "other", User: "alice"}, {Tenant: "default", User: "alice", Device: "watch"}} {
			o.Op = node.Sessions
			if none := order[[]node.Session](w, n, o); none == nil || len(none) != 0 {
				t.Errorf("%+v: %+v", o, none)
			}
		}
		got := order[[]node.Session](w, n, node.Order{Op: node.Sessions, Tenant: "default", User: "alice", Device: "phone"})
		if len(got) != 1 {
			t.Fatalf("%+v", got)
		}
		s, now := got[0], time.Now().UnixMilli()
		doorName, _, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(d.name, "-", " ")), " ")
		if s.Session != g.id() || s.User != "alice" || s.Device != "phone" || s.Door != doorName || !strings.HasPrefix(s.Remote, "127.0.0.1:") {
			t.Errorf("%+v", s)
		}
		if !strings.HasPrefix(s.Client, "app/1.2[31mö") || len(s.Client) > clientMost {
			t.Errorf("its client is %q", s.Client)
		}
		if s.Since < before || s.Since > now || s.Heard < s.Since || s.Heard > now || s.Unacked < 2*windowFloor {
			t.Errorf("times %+v; now %d", s, now)
		}
		if s.Acked["user:alice"] != 2 || s.Sent["user:alice"] != 3 || s.Acked["topic:news"] != 0 || s.Sent["topic:news"] != 1 || len(s.Sent) != 3 {
			t.Errorf("cursors %v, sent %v", s.Acked, s.Sent)
		}
	})
}

// TestANodeIsDrainedForGood: an operator's drain is that of SIGTERM, and the process stays; who does not leave is closed.
func TestANodeIsDrainedForGood(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Drain = 500 * time.Millisecond })
	phone, tablet := n.device(t, "alice", "phone"), n.device(t, "alice", "tablet")
	if n.Refuses() {
		t.Error("it refuses before it was told")
	}
	for range 2 { // again changes nothing
		if got := order[node.Drained](w, n, node.Order{Op: node.Drain}); got.Sessions != 2 {
			t.Errorf("%d were asked", got.Sessions)
		}
	}
	phone.want(protocol.TDrain)
	tablet.want(protocol.TDrain)
	n.refused(t)
	phone.drop(n)
	w.push(alice, "1")
	tablet.wants("", 1, 1) // without a second drain before it
	begun := time.Now()
	tablet.end(protocol.CloseDraining, problem.Draining)
	if took := time.Since(begun); took < time.Second || took > 8*time.Second {
		t.Errorf("who stays is closed after %s", took)
	}
	eventually(t, "nobody is left", func() bool { return len(n.all()) == 0 })
	n.refused(t)
	if got := order[node.Drained](w, n, node.Order{Op: node.Drain}); got.Sessions != 0 || !n.Refuses() {
		t.Errorf("then it says %d, refuses %t", got.Sessions, n.Refuses())
	}
	begun = time.Now()
	if err := n.Drain(t.Context()); err != nil || time.Since(begun) > time.Second {
		t.Errorf("SIGTERM drains for %s: %v", time.Since(begun), err)
	}
}

// TestADrainedNodeStops at once when it is told to, while its clients have not left.
func TestADrainedNodeStops(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone")
	order[node.Drained](w, n, node.Order{Op: node.Drain})
	d.want(protocol.TDrain)
	begun := time.Now()
	n.stop() // SIGINT, while the drain is under way
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	d.end(protocol.CloseDraining, problem.Draining)
}

// TestNodesSayWhatTheyDo: each answers, with its own figures, to whoever asks all.
func TestNodesSayWhatTheyDo(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	phone := n.device(t, "alice", "phone")
	n.device(t, "alice", "tablet").drop(n)
	n.device(t, "bob", "phone")
	w.push(alice, numbers(3)...)
	phone.wants("", 1, 3)
	phone.ack("", 1)
	phone.ack("", 2)
	ask := func() map[string]admin.NodeAnswer {
		answers, err := rpc.Gather[admin.NodeAnswer](t.Context(), w.nc, subject.Admin(admin.Nodes), struct{}{}, 500*time.Millisecond)
		must(t, err)
		nodes := map[string]admin.NodeAnswer{}
		for _, a := range answers {
			nodes[a.Node] = a
		}
		return nodes
	}
	eventually(t, "both acknowledgements are counted", func() bool { return ask()[n.id].Acked == 2 })
	nodes := ask()
	got, none := nodes[n.id], nodes[other.id]
	if len(nodes) != 2 || got.Sessions != 2 || got.Users != 2 || got.Opened != 3 || got.Sent != 3 || got.Frames != 1 || got.Unacked < windowFloor || got.Draining {
		t.Errorf("it says %+v", got)
	}
	if none.Sessions != 0 || none.Users != 0 || none.Opened != 0 || none.Sent != 0 || none.Unacked != 0 {
		t.Errorf("the other one says %+v", none)
	}
	now := time.Now().UnixMilli()
	if got.PID == 0 || got.Listen != n.listener.Addr().String() || got.Started == 0 || got.Started > got.Now || got.Now > now || got.Memory < 1<<20 || got.Tasks < 5 {
		t.Errorf("it says %+v", got)
	}
	order[node.Drained](w, n, node.Order{Op: node.Drain})
	if nodes = ask(); !nodes[n.id].Draining || nodes[other.id].Draining {
		t.Error("who drains is not told")
	}
	subj, err := micro.ControlSubject(micro.InfoVerb, "weft-push", "")
	must(t, err)
	var info micro.Info
	reply, err := w.nc.Request(subj, nil, patience)
	must(t, err)
	must(t, json.Unmarshal(reply.Data, &info))
	if id := info.Metadata["instance"]; id != n.id && id != other.id {
		t.Errorf("the micro service is of %q", id)
	}
}
