package push

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

// told is what a node said of its users.
type told struct {
	node string
	ledger.Presence
}

// reports are what nodes said by now.
func (w *world) reports() (all []told) {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fabric.AckStream)
	must(w.t, err)
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := stream.GetMsg(w.t.Context(), seq)
		must(w.t, err)
		if of, ok := strings.CutPrefix(m.Subject, subject.Presence("")); ok {
			r := told{node: of}
			must(w.t, json.Unmarshal(m.Data, &r.Presence))
			all = append(all, r)
		}
	}
	return all
}

// there is what the reports come to: `alice@node` for each, in any order.
func (w *world) there() map[string]bool {
	w.t.Helper()
	type place struct{ user, node string }
	number, on, rest := map[place]uint64{}, map[place]bool{}, map[string]uint64{}
	for _, r := range w.reports() {
		rest[r.node] = max(rest[r.node], r.Rest)
		for _, u := range r.Users {
			key := place{u.User, r.node}
			if r.Number <= number[key] {
				w.t.Errorf("node %s said number %d of %s after %d", r.node, r.Number, u.User, number[key])
			}
			number[key], on[key] = r.Number, u.On
		}
	}
	found := map[string]bool{}
	for key, here := range on {
		if here && number[key] >= rest[key.node] {
			found[strings.TrimPrefix(key.user, "default.user.")+"@"+key.node] = true
		}
	}
	return found
}

func (w *world) eventuallyThere(want ...string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprint("reported as there: ", want), func() bool {
		found := w.there()
		for _, one := range want {
			if !found[one] {
				return false
			}
		}
		return len(found) == len(want)
	})
}

// TestANodeReportsItsUsers: at the first session and after the last one, and all of them when it is asked, was cut off from
// NATS or stops.
func TestANodeReportsItsUsers(t *testing.T) {
	w := newWorld(t)
	begun := time.Now().UnixMilli()
	n := w.node()
	phone := n.device(t, "alice", "phone")
	tablet := n.device(t, "alice", "tablet")
	bob := n.device(t, "bob", "phone")
	w.eventuallyThere("alice@"+n.id, "bob@"+n.id)
	phone.drop(n)
	bob.drop(n)
	w.eventuallyThere("alice@" + n.id)
	for _, r := range w.reports() {
		for _, u := range r.Users {
			if u.At < begun || u.At > time.Now().UnixMilli() {
				t.Errorf("%+v; the test began at %d", u, begun)
			}
		}
	}
	stream, err := w.js.Stream(t.Context(), fabric.AckStream)
	must(t, err)
	must(t, stream.Purge(t.Context())) // lost
	_, err = w.nc.Request(subject.NodeControl(n.id), object(node.Order{Op: node.Report}), patience)
	must(t, err)
	w.eventuallyThere("alice@" + n.id)
	if last := w.reports()[len(w.reports())-1]; last.Rest == 0 || last.Rest > last.Number {
		t.Errorf("all were named, and the last report was %+v", last)
	}
	must(t, stream.Purge(t.Context()))
	must(t, n.nc.ForceReconnect())
	w.eventuallyThere("alice@" + n.id)
	n.stop()
	w.eventuallyThere()
	if last := w.reports()[len(w.reports())-1]; !last.Leaving {
		t.Errorf("the node stopped, and its last report was %+v", last)
	}
	tablet.conn.Close()
}

// TestASessionThatDoesNotOpenIsNobody: only a welcome makes a user present.
func TestASessionThatDoesNotOpenIsNobody(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	refused := n.dial(t, token("alice"))
	refused.hello("phone", at(map[string]uint64{"user:alice": 5})) // above the head
	eventually(t, "it is refused", func() bool {
		_, open := refused.next()
		return !open
	})
	n.device(t, "bob", "phone")
	w.eventuallyThere("bob@" + n.id)
	for _, r := range w.reports() {
		for _, u := range r.Users {
			if u.User != "default.user.bob" {
				t.Errorf("%+v is reported", u)
			}
		}
	}
}

// TestWhatCouldNotBeReportedIsReportedLater, as it is then.
func TestWhatCouldNotBeReportedIsReportedLater(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	n.device(t, "bob", "phone")
	w.eventuallyThere("bob@" + n.id)
	full := ackStream()
	full.MaxMsgs, full.Discard = 1, jetstream.DiscardNew
	_, err := w.js.UpdateStream(t.Context(), full)
	must(t, err)
	alice, carol := n.device(t, "alice", "phone"), n.device(t, "carol", "phone")
	refusals := 0
	eventually(t, "reports were refused", func() bool { // each round takes them out, and puts them back
		if len(n.presence.waiting()) > 0 {
			refusals++
		}
		return refusals > 20
	})
	carol.drop(n)
	_, err = w.js.UpdateStream(t.Context(), ackStream())
	must(t, err)
	w.eventuallyThere("bob@"+n.id, "alice@"+n.id)
	alice.quiet()
}

// waiting are those who have to be reported.
func (p *presence) waiting() map[subject.Address]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.changed)
}

// TestAStoppedNodeReportsWhoIsLeft: two nodes; one is stopped for 7 s, a device of it moves to the other one meanwhile. What
// the first says afterwards is what is true then, and nothing from before it has looked.
func TestAStoppedNodeReportsWhoIsLeft(t *testing.T) {
	w := newWorld(t)
	stopped, other := w.process(t), w.node()
	stopped.device("alice", "phone")
	bob := stopped.device("bob", "phone")
	eventually(t, "both are reported", func() bool { return len(w.there()) == 2 })
	var id string
	for place := range w.there() {
		_, id, _ = strings.Cut(place, "@")
	}
	stopped.signal(syscall.SIGSTOP)
	slept := time.After(7 * time.Second)
	other.device(t, "alice", "phone")
	w.eventuallyThere("alice@"+id, "bob@"+id, "alice@"+other.id)
	<-slept
	before := len(w.reports())
	stopped.signal(syscall.SIGCONT)
	w.eventuallyThere("bob@"+id, "alice@"+other.id)
	for _, r := range w.reports()[before:] {
		for _, u := range r.Users {
			if r.node == id && u.On && u.User == "default.user.alice" {
				t.Errorf("%+v was said after alice had gone elsewhere", r)
			}
		}
	}
	bob.quiet()
	stopped.signal(os.Interrupt)
	stopped.exit()
	w.eventuallyThere("alice@" + other.id)
}
