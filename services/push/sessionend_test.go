package push

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// The tests of this file hold how a session ends, or does not begin, at every door alike.

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
