package push

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
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
