package push

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

// The tests of this file hold the sentences of the design's section "Why it holds" as far as they are push's.

// order gives a node an order and waits for its answer.
func (w *world) order(n *running, o node.Order) {
	w.t.Helper()
	body, err := json.Marshal(o)
	must(w.t, err)
	_, err = w.nc.Request(subject.NodeControl(n.id), body, patience)
	must(w.t, err)
}

// TestALostTailIsSeen by the comparison with the heads in Redis.
func TestALostTailIsSeen(t *testing.T) {
	w := newWorld(t)
	d := w.node().device(t, "alice", "phone")
	w.publish(alice, "1", "2")
	d.wants("", 1, 2)
}

// TestALostTailIsSeenWithoutRedis by the comparison with the archive.
func TestALostTailIsSeenWithoutRedis(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone")
	w.redis.Close()
	w.publish(alice, "1", "2")
	d.quiet()
	for i := range shards {
		n.hub.each(i, func(m *mailbox) { m.setCompared(time.Now().Add(-archiveEvery)) })
	}
	d.wants("", 1, 2)
	eventually(t, "nothing is due again", func() bool {
		due := 0
		for i := range shards {
			n.hub.each(i, func(m *mailbox) {
				if m.due(time.Now()) {
					due++
				}
			})
		}
		return due == 0
	})
	must(t, w.redis.Restart())
}

// TestANodeSweepsAtOnceWhenToldTo, and once NATS is back; here the clock of the sweep does not tick.
// TestALostTailIsSeenWithoutItsHead: absent means unknown, and what is unknown is asked for.
func TestALostTailIsSeenWithoutItsHead(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.push(alice, "1")
	d := n.device(t, "alice", "phone")
	d.wants("", 1, 1)
	d.ack("", 1)
	nobody := n.device(t, "bob", "phone") // the archive has nothing of his
	w.publish(alice, "2")                 // its frame is lost, and then its head: dispatch forgets heads when Redis has gone back
	must(t, w.table.ForgetHeads(t.Context()))
	d.wants("", 2, 2)
	eventually(t, "Redis knows the head again", func() bool {
		heads, err := w.table.Heads(t.Context(), []subject.Address{alice})
		return err == nil && heads[0] == 2
	})
	nobody.quiet()
}

func TestANodeSweepsAtOnceWhenToldTo(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.keeping = time.Hour })
	d := n.device(t, "alice", "phone")
	w.publish(alice, "1")
	w.order(n, node.Order{Op: node.Probe})
	d.quiet()
	w.order(n, node.Order{Op: node.Sweep})
	d.wants("", 1, 1)
	w.publish(alice, "2")
	must(t, n.nc.ForceReconnect())
	d.wants("", 2, 2)
}

// TestAFrameIsAnsweredOnceItIsInTheSessionsHands; one that can't be read is not.
func TestAFrameIsAnsweredOnceItIsInTheSessionsHands(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone")
	frame := w.publish(alice, "1")
	frame = message.AppendEncoded(frame, w.publish(subject.UserAddress("default", "bob"), "1")) // nobody is there
	_, err := w.nc.Request(subject.Node(n.id), frame, patience)
	must(t, err)
	d.wants("", 1, 1)
	if _, err := w.nc.Request(subject.Node(n.id), []byte("?"), 50*time.Millisecond); err == nil {
		t.Error("a frame that can't be read was answered")
	}
}

// TestAcknowledgementsReachTheArchiveAndRedis, and only the client's own; see also TestWrittenIsNotDelivered.
func TestAcknowledgementsReachTheArchiveAndRedis(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone")
	w.push(alice, "1", "2", "3")
	d.wants("", 1, 3)
	d.ack("", 2)
	eventually(t, "the cursor is on WEFT_ACK", func() bool { return len(w.acked()) > 0 })
	if got := w.acked(); len(got) != 1 || got["alice/phone/default.user.alice"] != 2 {
		t.Errorf("WEFT_ACK has %v; want 2 of alice's phone", got)
	}
	state, err := w.table.Connect(t.Context(), route.Connection{
		User: alice, Device: "phone", Node: "x", Session: "x", Addresses: []route.Registration{{Address: alice}},
	})
	must(t, err)
	if state.Cursors[alice] != 2 || state.Floor[alice] != 2 {
		t.Errorf("Redis has %+v; want 2", state)
	}
}

// TestSharedCursorsAreWrittenAtTheEndOfTheSession, not at each acknowledgement.
func TestSharedCursorsAreWrittenAtTheEndOfTheSession(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone", topics("news"))
	w.push(news, "1", "2")
	w.push(all, "1")
	for range 3 {
		d.want(protocol.TMsg)
	}
	d.ack("topic:news", 2)
	d.ack("all", 1)
	w.push(alice, "1")
	d.wants("", 1, 1)
	d.ack("", 1)
	eventually(t, "the user's own cursor is written", func() bool { return len(w.acked()) > 0 })
	if got := w.acked(); len(got) != 1 {
		t.Errorf("%v is written already", got)
	}
	d.drop(n)
	eventually(t, "the shared cursors are written", func() bool {
		got := w.acked()
		return got["alice/phone/default.topic.news"] == 2 && got["alice/phone/default.all"] == 1
	})
}

// TestAcknowledgementsSurviveTheEndOfTheNode: what a client acknowledged last is handed over.
func TestAcknowledgementsSurviveTheEndOfTheNode(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone", topics("news"))
	w.push(news, "1")
	d.wants("topic:news", 1, 1)
	d.ack("topic:news", 1)
	d.quiet()
	n.stop()
	d.end(protocol.CloseDraining, problem.Draining)
	if got := w.acked()["alice/phone/default.topic.news"]; got != 1 {
		t.Errorf("the cursor on WEFT_ACK is %d; want 1", got)
	}
	if nodes, err := w.table.Nodes(t.Context()); err != nil || len(nodes) != 0 {
		t.Errorf("nodes %q, %v; want none", nodes, err)
	}
	if holders := w.holders(alice); len(holders) != 0 {
		t.Errorf("%q still holds the address", holders)
	}
}

// TestAcknowledgementsWaitForNATS: what could not be handed over is handed over later.
func TestAcknowledgementsWaitForNATS(t *testing.T) {
	w := newWorld(t)
	said := new(ear)
	n := w.node(func(n *Service) { n.faults = service.NewFaults(slog.New(slog.NewTextHandler(said, nil))) })
	d := n.device(t, "alice", "phone")
	w.push(alice, "1", "2")
	d.wants("", 1, 2)
	must(t, w.js.DeleteStream(t.Context(), "WEFT_ACK"))
	d.ack("", 1)
	d.quiet()
	eventually(t, "a batch came back", func() bool { return said.has("hand acknowledgements over") })
	_, err := w.js.CreateStream(t.Context(), ackStream())
	must(t, err)
	eventually(t, "the cursor is on WEFT_ACK", func() bool { return w.acked()["alice/phone/default.user.alice"] == 1 })
}

// TestRedisIsFlushed: the node registers again by itself.
func TestRedisIsFlushed(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone", topics("news"))
	w.redis.FlushAll()
	eventually(t, "the routes are back", func() bool {
		return slices.Equal(w.holders(alice), []string{n.id}) && slices.Equal(w.holders(news), []string{n.id}) && slices.Equal(w.holders(all), []string{n.id})
	})
	w.push(alice, "1")
	d.wants("", 1, 1)
}

// TestRedisIsAway when a client connects: it is welcome, gets what there is, and its route is written later.
func TestRedisIsAway(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.archive.add(alice, "1", 0)
	w.redis.Close()
	d := n.device(t, "alice", "phone")
	d.wants("", 1, 1)
	w.push(alice, "2")
	d.wants("", 2, 2)
	must(t, w.redis.Restart())
	eventually(t, "the route is there", func() bool { return slices.Equal(w.holders(alice), []string{n.id}) })
}

// TestRedisIsAwayAtTheStart: a node is ready all the same, and stops cleanly.
func TestRedisIsAwayAtTheStart(t *testing.T) {
	w := newWorld(t)
	w.redis.Close()
	n := w.node()
	d := n.device(t, "alice", "phone")
	w.push(alice, "1")
	d.wants("", 1, 1)
	n.stop()
	d.end(protocol.CloseDraining, problem.Draining)
	must(t, w.redis.Restart())
}

// TestARouteNamesItsGeneration: one that ends late takes nothing from one that began meanwhile.
func TestARouteNamesItsGeneration(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	b := newBench(t, 4096)
	b.node.table, b.node.id = w.table, n.id
	s, _ := b.session("phone", nil)
	lanes, _, err := b.node.join(t.Context(), s, s.id, []subject.Address{alice})
	must(t, err)
	late := b.node.hub.leave(lanes[0]) // its Unregister is on the way
	other, _ := b.session("tablet", nil)
	_, _, err = b.node.join(t.Context(), other, other.id, []subject.Address{alice})
	must(t, err)
	must(t, w.table.Unregister(t.Context(), n.id, []route.Registration{*late}))
	if holders := w.holders(alice); !slices.Equal(holders, []string{n.id}) {
		t.Errorf("%q holds the address; want the node", holders)
	}
}

// TestARouteThatWasLostWhileItWasWrittenIsWrittenAgain.
func TestARouteThatWasLostWhileItWasWrittenIsWrittenAgain(t *testing.T) {
	m := &mailbox{}
	begun := time.Now()
	m.setRouted(begun.Add(time.Millisecond), false) // the keeper found Redis empty
	m.setRouted(begun, true)                        // now the answer to the write arrives
	if !m.needsRoute(begun) {
		t.Error("the route counts as written")
	}
	m.setRouted(begun.Add(time.Second), true)
	if m.needsRoute(begun.Add(2 * time.Second)) {
		t.Error("the route that was written again does not count")
	}
	if !m.needsRoute(begun.Add(route.TTL / 2)) {
		t.Error("the route is not written again before its time is over")
	}
}

// TestARouteThatASessionFindsThereIsNotMadeYounger: an address whose sessions come and go all day has its route written
// again in time all the same.
func TestARouteThatASessionFindsThereIsNotMadeYounger(t *testing.T) {
	w := newWorld(t)
	b := newBench(t, 4096)
	b.node.table = w.table
	s, _ := b.session("phone", nil)
	_, _, err := b.node.join(t.Context(), s, s.id, []subject.Address{alice})
	must(t, err)
	m := b.node.hub.shard(alice).mailboxes[alice]
	m.routed = m.routed.Add(-route.TTL / 5)
	other, _ := b.session("tablet", nil)
	_, _, err = b.node.join(t.Context(), other, other.id, []subject.Address{alice})
	must(t, err)
	if !m.needsRoute(time.Now().Add(route.TTL / 10)) {
		t.Error("the route counts as written when the second session came, who wrote nothing")
	}
}

// TestALaneLearnsTheHeadOfItsMailbox: nobody will tell it again.
func TestALaneLearnsTheHeadOfItsMailbox(t *testing.T) {
	b := newBench(t, 4096)
	b.session("tablet", map[subject.Address]uint64{alice: 0})
	b.send(alice, "1")
	_, p := b.session("phone", map[subject.Address]uint64{alice: 0})
	b.fill()
	b.settle()
	if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{1}) {
		t.Errorf("%d came; want 1", got)
	}
}

// TestOneReadForAllSessionsOfATopic: a frame was lost, and everybody misses it.
func TestOneReadForAllSessionsOfATopic(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	var devices []*device
	for i := range 60 {
		devices = append(devices, n.device(t, fmt.Sprint("user", i), "phone", topics("news")))
	}
	w.push(news, "1")
	for _, d := range devices {
		d.wants("topic:news", 1, 1)
	}
	w.publish(news, "2")
	w.push(news, "3")
	for _, d := range devices {
		d.wants("topic:news", 2, 3)
	}
	if reads := w.archive.readsOf(news); reads != 1 {
		t.Errorf("60 sessions missed one message and it took %d reads", reads)
	}
	// A device that was away for less than the node remembers is served by the node.
	d := n.device(t, "user0", "phone", topics("news"), at(map[string]uint64{"topic:news": 2}))
	d.wants("topic:news", 3, 3)
	if reads := w.archive.readsOf(news); reads != 1 {
		t.Errorf("what the node remembers was read: %d reads", reads)
	}
}

// TestTheNodeRemembersTheLast256 of a shared address, and nothing of a user's.
func TestTheNodeRemembersTheLast256(t *testing.T) {
	b := newBench(t, 4096)
	b.session("phone", map[subject.Address]uint64{alice: 0, news: 0})
	for i := range 1000 {
		b.send(news, fmt.Sprint(i))
		b.send(alice, fmt.Sprint(i))
	}
	if got := b.node.hub.recent(news, 1000-recentMost/2); len(got) != recentMost/2 || got[0].from != 1001-recentMost/2 {
		t.Errorf("%d items are remembered", len(got))
	}
	if b.node.hub.recent(news, 1000-recentMost-1) != nil || b.node.hub.recent(alice, 999) != nil {
		t.Error("more is remembered")
	}
	b.archive.add(news, "lost", 0)
	b.send(news, "1002")
	if b.node.hub.recent(news, 999) != nil || len(b.node.hub.recent(news, 1001)) != 1 {
		t.Error("what is remembered has a hole")
	}
}

func TestWhatANodeRemembersIsBoundedInBytes(t *testing.T) {
	b := newBench(t, 4096)
	b.session("phone", map[subject.Address]uint64{news: 0})
	large := `"` + strings.Repeat("x", recentBytes/10) + `"`
	for range 25 {
		b.send(news, large)
	}
	got, size := b.node.hub.recent(news, 24), 0
	if len(got) != 1 {
		t.Errorf("%d items are remembered from the last on", len(got))
	}
	for after := range uint64(25) {
		if got = b.node.hub.recent(news, after); got != nil {
			break
		}
	}
	for _, it := range got {
		size += len(it.object)
	}
	if size > recentBytes || len(got) < 2 {
		t.Errorf("%d items of %d bytes are remembered", len(got), size)
	}
}

// TestAProgramThatOnlyListensStays: wscat answers the WebSocket's own pings and nothing else.
func TestAProgramThatOnlyListensStays(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Heartbeat = 500 * time.Millisecond })
	d := n.device(t, "alice", "phone")
	mute := n.dial(t, token("alice"))
	mute.conn.SetPingHandler(func(string) error { return nil })
	mute.hello("tablet")
	mute.want(protocol.TWelcome)
	mute.end(protocol.CloseSlow, problem.Silent)
	for range 3 {
		d.want(protocol.TPing)
	}
}

// TestWatchEndsSlowClients holds that the clocks are looked at while the node runs.
func TestWatchEndsSlowClients(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) {
		n.cfg.Heartbeat, n.cfg.SlowAfter, n.cfg.Window = time.Second, 200*time.Millisecond, 1024
	})
	d := n.device(t, "alice", "phone")
	w.push(alice, `"`+strings.Repeat("x", 900)+`"`)
	d.wants("", 1, 1)
	for range 2 { // far longer than SlowAfter: the window has room
		d.want(protocol.TPing)
	}
	w.push(alice, `"`+strings.Repeat("x", 900)+`"`)
	d.end(protocol.CloseSlow, problem.TooSlow)
}

// TestOrdersThatNobodyKnowsAreNotAnswered.
func TestOrdersThatNobodyKnowsAreNotAnswered(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for _, body := range []string{`{"op":"dance"}`, "?"} {
		if _, err := w.nc.Request(subject.NodeControl(n.id), []byte(body), 50*time.Millisecond); err == nil {
			t.Errorf("%s was answered", body)
		}
	}
	w.order(n, node.Order{Op: node.Replaced, Session: "nobody"})
}

// TestManyAtOnce lets devices come and go while messages flow: nothing is lost, doubled or left behind.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	const devices, messages = 8, 150
	done := make(chan error, devices)
	for i := range devices {
		go func() { done <- w.follow(n, fmt.Sprint("d", i), messages) }()
	}
	for i := range messages {
		w.push(alice, fmt.Sprint(i))
		w.push(news, fmt.Sprint(i))
	}
	for range devices {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	n.stop()
	if len(n.sessions) != 0 || n.hub.holds(alice) || n.hub.holds(news) {
		t.Error("something is left behind")
	}
}
