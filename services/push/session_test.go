package push

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// The tests of this file hold what a session is, at every door alike: see doors.

func address(t testing.TB, name string) subject.Address {
	t.Helper()
	a, err := subject.ParseAddress("default", name)
	must(t, err)
	return a
}

// TestSessionsBeginWithTheWelcome: nothing of a mailbox comes before it, and what comes while the session opens is not lost.
func TestSessionsBeginWithTheWelcome(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		for i := range 10 {
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				w.push(alice, fmt.Sprint(i+1))
			}()
			g := n.guest(t, d, fmt.Sprint("phone", i), at(map[string]uint64{"user:alice": uint64(i)}), of(epoch))
			<-sent
			g.wants("", uint64(i+1), uint64(i+1))
		}
	})
}

// TestSessionsFillHoles before anything later: the frame with 2 is lost.
func TestSessionsFillHoles(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		g := w.node().guest(t, d, "phone")
		w.push(alice, "1")
		g.wants("", 1, 1)
		gate := make(chan struct{})
		w.archive.set(func() { w.archive.gate = gate })
		w.publish(alice, "2")
		w.push(alice, "3", "4")
		g.quiet(w) // 3 and 4 are there, and wait
		close(gate)
		g.wants("", 2, 4)
		w.publish(alice, "5", "6") // a tail that is lost: the next sweep sees it
		g.wants("", 5, 6)
		g.quiet(w)
	})
}

// TestSessionsCarryPayloadsAsTheyAre.
func TestSessionsCarryPayloadsAsTheyAre(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		g := w.node().guest(t, d, "phone")
		for _, payload := range []string{` {"a" :  1.0} `, `"ä\n€"`, "[1,\n2]", `",\"data\":"`, `"` + strings.Repeat("x", 300<<10) + `"`} {
			w.push(alice, payload)
			o := g.want(protocol.TMsg)
			got := protocol.Data(o.raw)
			if got == nil {
				got = parseData64(t, o.raw)
			}
			if string(got) != payload {
				t.Errorf("%.100q came as %.100q", payload, got)
			}
			if refused := g.ack("", o.Seq); refused != "" {
				t.Error(refused)
			}
		}
	})
}

func parseData64(t *testing.T, raw []byte) []byte {
	t.Helper()
	o, err := protocol.Decode(raw)
	must(t, err)
	return o.Data64
}

// TestSessionsSayWhatIsGone: no jump without a gap that covers it exactly.
func TestSessionsSayWhatIsGone(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		w.archive.skip(alice, 3, message.WhyRetention)
		w.archive.add(alice, "4", 0)
		w.archive.add(alice, "5", 1) // expired
		w.archive.add(alice, "6", 0)
		g := n.guest(t, d, "phone", at(map[string]uint64{"user:alice": 1}), of(epoch))
		for _, want := range []wire{{T: "gap", From: 2, To: 3, Why: "retention"}, {T: "msg", Seq: 4}, {T: "gap", From: 5, To: 5, Why: "expired"}, {T: "msg", Seq: 6}} {
			o := g.want(want.T)
			if o.From != want.From || o.To != want.To || o.Why != want.Why || o.Seq != want.Seq {
				t.Fatalf("%s came; want %+v", o.raw, want)
			}
		}
		m := w.archive.add(alice, "7", 1)
		w.send(message.AppendEntry(nil, alice, message.Entry{From: 7, To: 7, Message: m}))
		if o := g.want(protocol.TGap); o.From != 7 || o.To != 7 || o.Why != message.WhyExpired {
			t.Errorf("%s came; want a gap of 7, expired", o.raw)
		}
		g.ack("", 7) // gaps are acknowledged like messages
		eventually(t, "the cursor is on WEFT_ACK", func() bool { return w.acked()["alice/phone/default.user.alice"] == 7 })
	})
}

// TestSessionsHaveAWindow: who acknowledges nothing is sent no more than that, and closed when it was full for too long; an
// acknowledgement makes room.
func TestSessionsHaveAWindow(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node(func(n *Service) {
			n.cfg.Window, n.cfg.Heartbeat, n.cfg.SlowAfter = 4096, 800*time.Millisecond, 2*time.Second
		})
		g := n.guest(t, d, "phone")
		large := `"` + strings.Repeat("x", 1900) + `"`
		for seq := uint64(1); seq <= 20; seq += 2 {
			w.push(alice, large, large, large) // the third has no room, and is read again later
			g.wants("", seq, seq+1)
			if refused := g.ack("", seq+1); refused != "" {
				t.Fatal(refused)
			}
		}
		g.wants("", 21, 22)
		begun := time.Now()
		g.ends(protocol.CloseSlow, problem.TooSlow)
		if took := time.Since(begun); took < time.Second {
			t.Errorf("it was closed after %s", took)
		}
		if cursor := w.acked()["alice/phone/default.user.alice"]; cursor != 20 {
			t.Errorf("the cursor is %d; 20 were acknowledged", cursor)
		}
	})
}

// TestSessionsTakeNoAcknowledgementAhead: it moves nothing.
func TestSessionsTakeNoAcknowledgementAhead(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		w.publish(alice, "1", "2")
		g := n.guest(t, d, "phone")
		g.wants("", 1, 2)
		if refused := g.ack("", 3); refused == "" {
			g.ends(protocol.CloseProtocol, problem.AckAhead)
		} else if refused != problem.AckAhead {
			t.Errorf("refused as %s", refused)
		} else {
			g.quiet(w)
			g.ack("", 0)
			g.ack("user:alice", 1)
			g.ack("", 1)
			eventually(t, "the cursor has moved", func() bool { return w.acked()["alice/phone/default.user.alice"] == 1 })
		}
		if cursor := w.acked()["alice/phone/default.user.alice"]; cursor > 1 {
			t.Errorf("the cursor has moved to %d", cursor)
		}
	})
}

// TestSessionsGoOnWhereTheClientStands, to the message: what it has acknowledged, and beyond that what it says itself.
func TestSessionsGoOnWhereTheClientStands(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n, other := w.node(), w.node()
		g := n.guest(t, d, "phone", topics("news"))
		w.push(alice, numbers(5)...)
		w.push(news, numbers(2)...)
		for range 7 {
			g.want(protocol.TMsg)
		}
		g.ack("", 3)
		g.ack("topic:news", 1)
		eventually(t, "the cursor is there", func() bool { return w.acked()["alice/phone/default.user.alice"] == 3 })
		g.leave(n)
		eventually(t, "the topic's cursor is there", func() bool { return w.acked()["alice/phone/default.topic.news"] == 1 })
		w.push(alice, "6")
		w.push(news, "3")
		silent := other.guest(t, d, "phone", topics("news")) // says nothing of where it stands
		if o := silent.welcome; o.Boxes["user:alice"].Next != 4 || o.Boxes["topic:news"].Next != 2 {
			t.Errorf("without its own words it goes on with %s", o.raw)
		}
		silent.leave(other)
		g = n.guest(t, d, "phone", topics("news"), g.again())
		if o := g.welcome; o.Boxes["user:alice"].Next != 6 || o.Boxes["topic:news"].Next != 3 {
			t.Errorf("it goes on with %s", o.raw)
		}
		g.want(protocol.TMsg)
		g.want(protocol.TMsg)
		g.quiet(w)
		eventually(t, "what it said is an acknowledgement", func() bool { return w.acked()["alice/phone/default.user.alice"] == 5 })
	})
}

// TestSessionsDropCursorsOfAnotherEpoch.
func TestSessionsDropCursorsOfAnotherEpoch(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		w.publish(alice, numbers(6)...)
		w.archive.set(func() { w.archive.cursors[cursorKey{alice, "phone", alice}] = 4 })
		g := n.guest(t, d, "phone", of("e0"), at(map[string]uint64{"user:alice": 900}))
		if o := g.want(protocol.TGap); o.From != 1 || o.To != 4 || o.Why != "epoch" {
			t.Errorf("%s came; want a gap up to 4, epoch", o.raw)
		}
		g.wants("", 5, 6)
		g.quiet(w)
	})
}

// TestSessionsHaveManyMailboxes, each with its own order, and none that was not asked for.
func TestSessionsHaveManyMailboxes(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		odd := subject.Address{Tenant: "default", Kind: subject.Topic, ID: "n,ew=1.ö"}
		g := w.node().guest(t, d, "phone", topics("news", odd.ID))
		boxes := []subject.Address{alice, news, odd, all}
		got := map[string]uint64{}
		for range 20 {
			for _, to := range boxes {
				w.push(to, "1")
			}
			w.push(subject.Address{Tenant: "default", Kind: subject.Topic, ID: "nobody"}, "1")
			w.push(subject.UserAddress("default", "bob"), "1")
			w.push(subject.UserAddress("acme", "alice"), "1")
		}
		for range 80 {
			o := g.want(protocol.TMsg)
			if got[o.Ch]++; o.Seq != got[o.Ch] {
				t.Fatalf("%s came; want %d", o.raw, got[o.Ch])
			}
		}
		g.quiet(w)
		for _, to := range boxes {
			if got[channel(to)] != 20 {
				t.Errorf("%d came of %s", got[channel(to)], to)
			}
		}
	})
}

// TestSessionsAreReplaced by the next one of their device, here and elsewhere, and by no other.
func TestSessionsAreReplaced(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n, other := w.node(), w.node()
		old := n.guest(t, d, "phone")
		bystander := n.guest(t, d, "tablet")
		namesake := n.enterBy(t, d, token("bob"), "phone")
		namesake.want(protocol.TWelcome)
		here := n.guest(t, d, "phone")
		old.ends(protocol.CloseReplaced, problem.Replaced)
		elsewhere := other.guest(t, d, "phone")
		here.ends(protocol.CloseReplaced, problem.Replaced)
		w.push(alice, "1")
		elsewhere.wants("", 1, 1)
		bystander.wants("", 1, 1)
		namesake.quiet(w)
	})
}

// TestSessionsThatDoNotOpen holds what a client is told then, and that nothing is left.
func TestSessionsThatDoNotOpen(t *testing.T) {
	expired := token("alice", func(who *identity.Identity) { who.Expires = 1 })
	bound := token("alice", func(who *identity.Identity) { who.Device = "tablet" })
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		w.publish(alice, "1", "2")
		phone := func(*protocol.FromClient) {}
		for _, c := range []struct {
			name, token string
			hello       func(*protocol.FromClient)
			code        protocol.CloseCode
			why         problem.Code
		}{
			{"no token", "", phone, protocol.CloseToken, problem.Unauthorized},
			{"a foreign token", "?", phone, protocol.CloseToken, problem.Unauthorized},
			{"an expired token", expired, phone, protocol.CloseToken, problem.TokenExpired},
			{"another device's token", bound, phone, protocol.CloseForbidden, problem.Forbidden},
			{"a forbidden topic", token("alice"), topics("news", "secret"), protocol.CloseForbidden, problem.Forbidden},
			{"too many topics", token("alice"), topics(strings.Split(strings.Repeat("n ", n.cfg.Topics+1), " ")...), protocol.CloseProtocol, problem.BadRequest},
			{"a device id that is too long", token("alice"), func(h *protocol.FromClient) { h.Device = strings.Repeat("x", 129) }, protocol.CloseProtocol, problem.IDTooLong},
			{"a cursor above the head", token("alice"), func(h *protocol.FromClient) { h.Epoch, h.Cursors = epoch, map[string]uint64{"user:alice": 3} }, protocol.CloseProtocol, problem.CursorAhead},
		} {
			t.Run(c.name, func(t *testing.T) {
				g := n.enterBy(t, d, c.token, "phone", c.hello)
				if _, ok := g.next(); ok && d.mute {
					t.Error("something came before the refusal")
				}
				for range g.objects() {
					continue
				}
				if code, why := g.end(); (code != c.code && code != 0) || why != c.why {
					t.Errorf("closed with %d and %q; want %d and %q", code, why, c.code, c.why)
				}
			})
		}
		w.archive.set(func() { w.archive.down = true })
		g := n.enterBy(t, d, token("alice"), "unknown")
		for range g.objects() {
			continue
		}
		if _, why := g.end(); why != problem.Unavailable {
			t.Errorf("without the archive it is refused as %q", why)
		}
		eventually(t, "nobody is left", func() bool {
			return len(n.all()) == 0 && !n.hub.holds(alice) && n.gate.arrivals.Load() == 0 && len(w.holders(alice)) == 0
		})
	})
}

// TestSessionsEndWithTheirToken.
func TestSessionsEndWithTheirToken(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		g := n.enterBy(t, d, token("alice", func(who *identity.Identity) { who.Expires = time.Now().Add(700 * time.Millisecond).UnixMilli() }), "phone")
		g.want(protocol.TWelcome)
		w.push(alice, "1")
		g.wants("", 1, 1)
		g.ends(protocol.CloseToken, problem.TokenExpired)
	})
}

// TestSessionsThatEndWhileTheyOpen leave nothing, and tell their client why.
func TestSessionsThatEndWhileTheyOpen(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		gate := make(chan struct{})
		w.archive.set(func() { w.archive.opening = gate })
		came := make(chan *guest, 1)
		go func() { came <- n.enterBy(t, d, token("alice"), "phone") }()
		eventually(t, "the session waits for the archive", func() bool { return w.archive.opened() == 1 })
		n.replace(n.all()[0].id, newID(time.Now().Add(time.Second)))
		close(gate)
		g := wait(t, "it is answered", came)
		for o := range g.objects() {
			if o.T != protocol.TError {
				t.Errorf("%s came", o.raw)
			}
		}
		if code, why := g.end(); (code != 0 && code != protocol.CloseReplaced) || why != problem.Replaced {
			t.Errorf("closed with %d and %q", code, why)
		}
		eventually(t, "nothing of the session is left", func() bool {
			return len(n.all()) == 0 && !n.hub.holds(alice) && len(w.holders(alice)) == 0
		})
	})
}

// TestSessionsWaitForTheirTurn, and are told to come again when it does not come.
func TestSessionsWaitForTheirTurn(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node(func(n *Service) { n.gate = newGate(2, 1, 100*time.Millisecond) })
		gate := make(chan struct{})
		w.archive.set(func() { w.archive.opening = gate })
		first, second := make(chan *guest, 1), make(chan *guest, 1)
		go func() { first <- n.enterBy(t, d, token("alice"), "phone") }()
		eventually(t, "the first has its turn", func() bool { return w.archive.opened() == 1 })
		silent := n.dial(t, token("carol")) // is there, without a session
		g := n.enterBy(t, d, token("alice"), "watch")
		for range g.objects() {
			continue
		}
		if _, why := g.end(); why != problem.Unavailable {
			t.Errorf("the third is refused as %q", why)
		}
		must(t, silent.conn.Close())
		eventually(t, "there is room again", func() bool { return n.gate.arrivals.Load() == 1 })
		go func() { second <- n.enterBy(t, d, token("alice"), "tablet") }()
		g = wait(t, "the second is answered", second)
		for range g.objects() {
			continue
		}
		if code, why := g.end(); (code != 0 && code != protocol.CloseBackOff) || why != problem.Busy {
			t.Errorf("the second is told %d and %q", code, why)
		}
		close(gate)
		wait(t, "the first is answered", first).want(protocol.TWelcome)
	})
}

// TestSessionsDrain: they are served until their clients have left, and nobody else is let in.
func TestSessionsDrain(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		g := n.guest(t, d, "phone")
		done := n.drain(t.Context())
		if got := within(g.want(protocol.TDrain)); got <= 9*time.Second || got > 10*time.Second {
			t.Errorf("it says within %s", got)
		}
		w.push(alice, "1")
		g.wants("", 1, 1)
		g.ack("", 1)
		eventually(t, "the cursor is there", func() bool { return w.acked()["alice/phone/default.user.alice"] == 1 })
		late := n.enterBy(t, d, token("alice"), "watch")
		for range late.objects() {
			continue
		}
		if code, why := late.end(); (code != 0 && code != protocol.CloseDraining) || why != problem.Draining {
			t.Errorf("who comes late is told %d and %q", code, why)
		}
		_ = g.tap().Close()
		if err := wait(t, "the node has drained", done); err != nil {
			t.Error(err)
		}
	})
}

// TestSessionsAreClosedWhenTheNodeStops, with what they acknowledged handed over.
func TestSessionsAreClosedWhenTheNodeStops(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		g := n.guest(t, d, "phone", topics("news"))
		w.push(news, "1")
		g.wants("topic:news", 1, 1)
		g.ack("topic:news", 1)
		g.quiet(w)
		eventually(t, "it was taken", func() bool { return len(n.acks.waiting(alice, "phone", []subject.Address{news})) == 1 })
		begun := time.Now()
		n.stop()
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("the node took %s to stop", took)
		}
		g.ends(protocol.CloseDraining, problem.Draining)
		if got := w.acked()["alice/phone/default.topic.news"]; got != 1 {
			t.Errorf("the cursor on WEFT_ACK is %d; want 1", got)
		}
	})
}

// TestSessionsOfANodeThatWasPaused: nothing is written before it is known where the device is. A client that can say so
// itself goes on, one that can't is told to connect again; whose device is elsewhere is told that.
func TestSessionsOfANodeThatWasPaused(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		var slept atomic.Int64
		begun := time.Now()
		n := w.node(func(n *Service) {
			n.pulse.clock = func() (time.Time, time.Duration) {
				more := time.Duration(slept.Load())
				return time.Now().Round(0).Add(more), time.Since(begun) + more
			}
		})
		stays, moved := n.guest(t, d, "phone"), n.guest(t, d, "tablet")
		w.push(alice, "1")
		stays.wants("", 1, 1)
		moved.wants("", 1, 1)
		_, err := w.table.Connect(t.Context(), route.Connection{User: alice, Device: "tablet", Node: "elsewhere", Session: newID(time.Now().Add(time.Second))})
		must(t, err)
		slept.Store(int64(time.Minute))
		w.push(alice, "2")
		if d.mute {
			for o := range stays.objects() {
				if o.T != protocol.TError {
					t.Errorf("%s was written after a pause", o.raw)
				}
			}
			if code, why := stays.end(); code != protocol.CloseDraining || why != problem.Unavailable {
				t.Errorf("it is closed with %d and %q", code, why)
			}
			stays = n.guest(t, d, "phone", stays.again())
		}
		stays.wants("", 2, 2)
		for o := range moved.objects() {
			if o.T != protocol.TError {
				t.Errorf("%s was written to a device that is elsewhere", o.raw)
			}
		}
		if code, why := moved.end(); code != protocol.CloseReplaced || why != problem.Replaced {
			t.Errorf("the client whose device is elsewhere is closed with %d and %q", code, why)
		}
		stays.quiet(w)
	})
}

// TestSessionsOfClientsThatVanish: their hosts are gone, and no packet says so. Another node goes on where they stood.
func TestSessionsOfClientsThatVanish(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		const heartbeat = time.Second
		w := newWorld(t)
		n, other := w.node(func(n *Service) { n.cfg.Heartbeat = heartbeat }), w.node()
		g, idle := n.guest(t, d, "phone"), n.guest(t, d, "tablet")
		w.push(alice, "1", "2")
		g.wants("", 1, 2)
		idle.wants("", 1, 2)
		begun := time.Now()
		g.tap().vanish(t)
		idle.tap().vanish(t)
		w.push(alice, "3", "4")
		eventually(t, "it is noticed", func() bool { return len(n.all()) == 0 && !n.hub.holds(alice) && len(w.holders(alice)) == 0 })
		took := time.Since(begun)
		t.Logf("noticed after %s", took.Round(time.Millisecond))
		if took > 4*heartbeat+2*time.Second {
			t.Errorf("noticed after %s with a heartbeat of %s", took, heartbeat)
		}
		w.push(alice, "5")
		g = other.guest(t, d, "phone", g.again())
		g.wants("", 3, 5)
		g.quiet(w)
	})
}

// TestSessionsOfClientsThatSayNothingStay: they are there, and answer what their transport answers by itself.
func TestSessionsOfClientsThatSayNothingStay(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		const heartbeat = 500 * time.Millisecond
		w := newWorld(t)
		n := w.node(func(n *Service) { n.cfg.Heartbeat = heartbeat })
		g := n.guest(t, d, "phone")
		<-time.After(5 * heartbeat)
		w.push(alice, "1")
		g.wants("", 1, 1)
		g.quiet(w)
	})
}

// TestSessionsOfClientsThatDoNotRead cost their window and end; the others do not notice.
func TestSessionsOfClientsThatDoNotRead(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node(func(n *Service) { n.cfg.Window, n.cfg.SlowAfter = 16<<20, time.Second }) // the kernel gives up much later
		stuck, reader := n.guest(t, d, "phone"), n.guest(t, d, "tablet")
		stuck.tap().freeze()
		large := `"` + strings.Repeat("x", 512<<10) + `"`
		for seq := uint64(1); seq <= 40; seq++ { // 20 MiB: more than a loopback connection holds
			w.push(alice, large)
			reader.wants("", seq, seq)
			reader.ack("", seq)
		}
		eventually(t, "it is noticed", func() bool { return n.session(stuck.id()) == nil })
		if n.session(reader.id()) == nil {
			t.Error("the client that reads is gone as well")
		}
		w.push(alice, "41")
		reader.wants("", 41, 41)
	})
}

// TestSessionsOfClientsThatComeAndGo all the time, at two nodes, with messages coming: each is seen once, in order, whether
// the client acknowledges much or little.
func TestSessionsOfClientsThatComeAndGo(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		const messages = 150
		w := newWorld(t)
		nodes := []*running{w.node(), w.node()}
		seen := map[string]uint64{}
		take := func(o wire) {
			if o.T != protocol.TMsg {
				return
			}
			if seen[o.Ch]++; o.Seq != seen[o.Ch] {
				t.Fatalf("%s came; want %d", o.raw, seen[o.Ch])
			}
		}
		g := nodes[0].guest(t, d, "phone", topics("news"))
		published := make(chan struct{})
		go func() {
			defer close(published)
			for i := range messages {
				w.push(alice, fmt.Sprint(i))
				w.push(news, fmt.Sprint(i))
			}
		}()
		for turn := 1; seen[""] < messages || seen["topic:news"] < messages; turn++ {
			for range 1 + rand.IntN(20) {
				if seen[""] == messages && seen["topic:news"] == messages {
					break
				}
				o := g.want(protocol.TMsg)
				take(o)
				if rand.IntN(3) > 0 {
					if refused := g.ack(o.Ch, o.Seq); refused != "" {
						t.Fatal(refused)
					}
				}
			}
			_ = g.tap().Close()
			for o := range g.objects() { // what has come is part of where it stands
				take(o)
			}
			g = nodes[turn%2].guest(t, d, "phone", topics("news"), g.again())
		}
		<-published
		g.quiet(w)
	})
}
