package push

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// id is the session that welcomed the device.
func (d *device) id() string {
	var w protocol.Welcome
	must(d.t, json.Unmarshal(d.welcome.raw, &w))
	return w.Session
}

// holder is who has a device of alice, as Redis knows; empty is nobody.
func (w *world) holder(device string) string {
	holders, err := w.table.Hold(w.t.Context(), []route.Claim{{User: alice, Device: device}})
	if err != nil {
		return err.Error()
	}
	return holders[0]
}

// TestDevicesAreEnteredAgain after Redis was flushed, and when it was away as the session opened: else a newer connection
// elsewhere would not end the older one.
func TestDevicesAreEnteredAgain(t *testing.T) {
	for _, fault := range []string{"flushed", "away"} {
		t.Run(fault, func(t *testing.T) {
			w := newWorld(t)
			n, other := w.node(), w.node()
			if fault == "away" {
				w.redis.Close()
			}
			d := n.device(t, "alice", "phone")
			if fault == "away" {
				must(t, w.redis.Restart())
			} else {
				w.redis.FlushAll()
			}
			eventually(t, "the device is entered", func() bool { return w.holder("phone") == n.id+"/"+d.id() })
			other.device(t, "alice", "phone")
			d.end(protocol.CloseReplaced, problem.Replaced)
		})
	}
}

// TestAnOldSessionFindsOutByItself that its device has a newer one, when nobody told it; one whose device an older one
// has, as Redis says after a flush, stays.
func TestAnOldSessionFindsOutByItself(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d, stays := n.device(t, "alice", "phone"), n.device(t, "alice", "tablet")
	for device, began := range map[string]time.Time{"phone": time.Now().Add(time.Second), "tablet": time.Now().Add(-time.Minute)} {
		_, err := w.table.Connect(t.Context(), route.Connection{User: alice, Device: device, Node: "elsewhere", Session: newID(began)})
		must(t, err)
	}
	for _, s := range n.all() {
		s.setExamined(time.Now().Add(-examineEvery))
	}
	d.end(protocol.CloseReplaced, problem.Replaced)
	eventually(t, "the other was looked at", func() bool {
		s := n.session(stays.id())
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Since(s.examined) < examineEvery
	})
	stays.quiet()
}

// TestAnotherNodeIsToldUntilItAnswers, and nobody waits for it: the node that had the device takes the first order and
// does not answer.
func TestAnotherNodeIsToldUntilItAnswers(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	orders := make(chan *nats.Msg, 10)
	_, err := w.nc.ChanSubscribe(subject.NodeControl("deaf"), orders)
	must(t, err)
	must(t, w.nc.Flush())
	_, err = w.table.Connect(t.Context(), route.Connection{User: alice, Device: "phone", Node: "deaf", Session: "old"})
	must(t, err)
	if took := spent(func() { n.device(t, "alice", "phone") }); took >= orderTimeout*3/4 {
		t.Errorf("the client waited %s for a node that does not answer", took)
	}
	for range 2 {
		order := wait(t, "an order comes", orders)
		var o node.Order
		if err := json.Unmarshal(order.Data, &o); err != nil || o.Op != node.Replaced || o.Session != "old" || o.By != n.all()[0].id {
			t.Errorf("the order is %s", order.Data)
		}
		if len(orders) == 0 {
			continue
		}
		t.Error("two orders came at once")
	}
	must(t, wait(t, "the last order comes", orders).Respond(nil))
	if len(orders) != 0 {
		t.Error("an order came after the answer")
	}
}

// TestAnEarlierConnectionThatOpensLaterIsNotFinal: its client has long given it up, and must not be kept away by it.
func TestAnEarlierConnectionThatOpensLaterIsNotFinal(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	for _, elsewhere := range []*running{n, other} {
		earlier := elsewhere.dial(t, token("alice"))
		<-time.After(2 * time.Millisecond) // the ids tell ms apart
		d := n.device(t, "alice", "phone")
		earlier.hello("phone")
		earlier.want(protocol.TWelcome)
		d.end(protocol.CloseBackOff, problem.Busy)
		again := n.device(t, "alice", "phone")
		earlier.end(protocol.CloseReplaced, problem.Replaced)
		again.quiet()
	}
}
