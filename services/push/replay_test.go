package push

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// replayed is a message of the archive, as a replay sends it.
func (w *world) replayed(to subject.Address, seq uint64) message.Addressed {
	w.t.Helper()
	page, err := w.archive.read(historyOf(to, seq))
	must(w.t, err)
	m := *page.Entries[0].Message
	m.Again = true
	return message.Addressed{To: to, Entry: message.Entry{From: seq, To: seq, Message: &m}}
}

// replay does what dispatch does with messages that are sent again.
func (w *world) replay(n *running, to subject.Address, seqs ...uint64) []node.Fate {
	w.t.Helper()
	var frame []byte
	for _, seq := range seqs {
		frame = message.AppendEntry(frame, to, w.replayed(to, seq).Entry)
	}
	return w.replayFrame(n, frame)
}

func (w *world) replayFrame(n *running, frame []byte) []node.Fate {
	w.t.Helper()
	reply, err := w.nc.RequestMsg(&nats.Msg{Subject: subject.Node(n.id), Data: frame, Header: nats.Header{node.HeaderReplay: {rand.Text()}}}, patience)
	must(w.t, err)
	must(w.t, rpc.Refused(reply))
	var done node.Replayed
	must(w.t, json.Unmarshal(reply.Data, &done))
	return done.Fates
}

// repeats takes messages that were sent again, which must be exactly from, from+1, … to.
func (g *guest) repeats(ch string, from, to uint64) {
	g.t.Helper()
	for seq := from; seq <= to; seq++ {
		if o := g.want(protocol.TMsg); o.Ch != ch || o.Seq != seq || !strings.Contains(string(o.raw), `"re":true`) {
			g.t.Fatalf("%.200s came; want %q %d again", o.raw, ch, seq)
		}
	}
}

func wantFates(t *testing.T, got []node.Fate, want ...node.Fate) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("fates are %v, want %v", got, want)
	}
}

// TestSessionsAreSentAgain what they have not acknowledged, in order, marked, and as often as somebody asks; then what is
// new goes on behind it, and everything can be acknowledged.
func TestSessionsAreSentAgain(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		w := newWorld(t)
		n := w.node()
		g := n.guest(t, d, "phone", topics("news"))
		w.push(alice, numbers(5)...)
		g.wants("", 1, 5)
		g.ack("", 2)
		eventually(t, "the cursor is there", func() bool { return w.acked()["alice/phone/default.user.alice"] == 2 })
		wantFates(t, w.replay(n, alice, 1, 2, 3, 4, 5), node.FateAway, node.FateAway, node.FateSent, node.FateSent, node.FateSent)
		g.repeats("", 3, 5)
		wantFates(t, w.replay(n, alice, 4), node.FateSent)
		g.repeats("", 4, 4)
		w.push(news, "1")
		g.wants("topic:news", 1, 1)
		wantFates(t, w.replay(n, news, 1), node.FateSent)
		g.repeats("topic:news", 1, 1)
		w.push(alice, "6")
		g.wants("", 6, 6)
		if epoch, cursors := g.stand(); d.mute && (epoch == "" || cursors["user:alice"] != 6) {
			t.Errorf("after a replay the client stands at %d", cursors["user:alice"])
		}
		g.ack("", 6)
		eventually(t, "everything is acknowledged", func() bool { return w.acked()["alice/phone/default.user.alice"] == 6 })
		wantFates(t, w.replay(n, alice, 1, 2, 3, 4, 5, 6), slices.Repeat([]node.Fate{node.FateAway}, 6)...)
		g.quiet(w)
	})
}

// TestAnEventIDNeverGoesBack: a client that connects again after a replay stands where it stood.
func TestAnEventIDNeverGoesBack(t *testing.T) {
	everyDoor(t, func(t *testing.T, d door) {
		if !strings.HasPrefix(d.name, "SSE") {
			return // other clients count for themselves
		}
		w := newWorld(t)
		n := w.node()
		g := n.guest(t, d, "phone")
		w.push(alice, numbers(5)...)
		g.wants("", 1, 5)
		wantFates(t, w.replay(n, alice, 2), node.FateSent)
		g.repeats("", 2, 2)
		if _, cursors := g.stand(); cursors["user:alice"] != 5 && len(cursors) > 0 {
			t.Errorf("it stands at %v; want 5", cursors)
		}
		g.leave(n)
		g = n.guest(t, d, "phone", g.again())
		if next := g.welcome.Boxes["user:alice"].Next; next != 6 {
			t.Errorf("it goes on with %d", next)
		}
	})
}

// TestAReplayOfWhatWasNotSent goes the ordinary way: into a hole, behind it, or to nobody.
func TestAReplayOfWhatWasNotSent(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.keeping = patience }) // nothing but the replay tells of what was lost
	d := n.device(t, "alice", "phone")
	w.archive.add(alice, "1", 0)
	w.archive.add(alice, "2", 0)
	w.archive.add(alice, "3", 0)
	wantFates(t, w.replay(n, alice, 1), node.FateSent)
	d.wants("", 1, 1)
	wantFates(t, w.replay(n, alice, 3), node.FateFull) // 2 comes from the archive before it
	d.wants("", 2, 3)
	wantFates(t, w.replay(n, alice, 3), node.FateSent)
	d.wants("", 3, 3)
	bob := subject.UserAddress("default", "bob")
	w.archive.add(bob, "1", 0)
	wantFates(t, w.replay(n, bob, 1), node.FateAway)
	if n.hub.recent(alice, 0) != nil {
		t.Error("a replay is remembered as recent")
	}
	expired := w.replayed(alice, 2)
	expired.Message.Expires = 1
	frame := message.AppendEntry(nil, alice, expired.Entry)
	frame = message.AppendEntry(frame, alice, message.Entry{From: 1, To: 2, Why: message.WhyExpired})
	wantFates(t, w.replayFrame(n, frame), node.FateAway, node.FateAway)
	d.quiet()
	reply, err := w.nc.RequestMsg(&nats.Msg{Subject: subject.Node(n.id), Data: []byte{9}, Header: nats.Header{node.HeaderReplay: {"r"}}}, patience)
	must(t, err)
	if problem.From(rpc.Refused(reply)).Code != problem.BadRequest {
		t.Errorf("garbage is answered with %v", rpc.Refused(reply))
	}
}

// TestAReplayIsBounded: a client that does not read is sent no more than its session may hold, nothing behind what it had no
// room for, and all of it once it reads. The window neither grows nor moves.
func TestAReplayIsBounded(t *testing.T) {
	b := newBench(t, 8<<10)
	s, p := b.session("phone", map[subject.Address]uint64{alice: 0})
	large, small := `"`+strings.Repeat("x", 1500)+`"`, `"s"`
	for _, payload := range []string{large, large, large, small} {
		b.send(alice, payload)
	}
	b.settle()
	if got := seqs(p.take(), ""); len(got) != 4 {
		t.Fatalf("%v came", got)
	}
	unacked := s.unacked
	p.mu.Lock()
	p.stuck = make(chan struct{})
	p.mu.Unlock()
	fates := map[node.Fate]int{}
	var last node.Fate
	for round := range 20 {
		for seq := uint64(1); seq <= 4; seq++ {
			fate := b.again(fmt.Sprint(round), seq)
			if seq > 1 && last == node.FateFull && fate != node.FateFull {
				t.Fatalf("%d is %s behind one that had no room", seq, fate)
			}
			last = fate
			fates[fate]++
		}
		s.mu.Lock()
		waiting := s.queued + s.held
		s.mu.Unlock()
		if waiting > 8<<10 {
			t.Fatalf("%d bytes wait for a client that does not read", waiting)
		}
	}
	if fates[node.FateFull] == 0 || fates[node.FateSent] < 4 || s.unacked != unacked {
		t.Errorf("fates %v; %d bytes unacknowledged, before %d", fates, s.unacked, unacked)
	}
	close(p.stuck)
	b.settle()
	if got := p.take(); len(got) != fates[node.FateSent] {
		t.Errorf("%d were written; sent are %d", len(got), fates[node.FateSent])
	}
	must(t, s.ack("", 4))
	if s.unacked != 0 {
		t.Errorf("%d bytes are unacknowledged after all", s.unacked)
	}
}

// TestAMessageLargerThanTheWindowIsSentAgain, when nothing else waits.
func TestAMessageLargerThanTheWindowIsSentAgain(t *testing.T) {
	b := newBench(t, 1<<10)
	_, p := b.session("phone", map[subject.Address]uint64{alice: 0})
	b.send(alice, `"`+strings.Repeat("x", 4000)+`"`)
	b.settle()
	if fate := b.again("r", 1); fate != node.FateSent {
		t.Errorf("it is %s", fate)
	}
	b.settle()
	if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{1, 1}) {
		t.Errorf("%v came", got)
	}
}

// TestReplayModel: whatever is published, lost, acknowledged, filled and replayed in whatever order, each replay's messages
// keep their order, first-time messages are dense, and everything can be acknowledged at the end.
func TestReplayModel(t *testing.T) {
	for seed := range uint64(200) {
		r := mathrand.New(mathrand.NewPCG(seed, 1))
		b := newBench(t, 2<<10)
		s, p := b.session("phone", map[subject.Address]uint64{alice: 0})
		head, first := uint64(0), uint64(0)
		look := func() {
			b.settle()
			for _, seq := range seqs(p.take(), "") {
				if seq > first+1 {
					t.Fatalf("seed %d: %d came after %d", seed, seq, first)
				}
				first = max(first, seq)
			}
		}
		for range 60 {
			switch r.IntN(5) {
			case 0:
				b.send(alice, `"`+strings.Repeat("x", r.IntN(900))+`"`)
				head++
			case 1: // its frame is lost
				b.archive.add(alice, "1", 0)
				head++
			case 2:
				look()
				if first > s.lane("").acked {
					must(t, s.ack("", s.lane("").acked+1+r.Uint64N(first-s.lane("").acked)))
				}
			case 3:
				b.fill()
			default:
				b.replayAll(head, r)
			}
		}
		look()
		for round := 0; s.lane("").acked < head; round++ {
			if round > 500 {
				t.Fatalf("seed %d: it hangs at %d of %d", seed, s.lane("").acked, head)
			}
			b.node.hub.observe(alice, head)
			b.fill()
			look()
			must(t, s.ack("", first))
		}
	}
}

// replayAll sends a random part of a mailbox again.
func (b *bench) replayAll(head uint64, r *mathrand.Rand) {
	run := fmt.Sprint(r.IntN(9))
	for seq := uint64(1); seq <= head; seq += 1 + r.Uint64N(2) {
		b.again(run, seq)
	}
}

// again sends a message of alice's again, and returns what became of it.
func (b *bench) again(run string, seq uint64) node.Fate {
	b.t.Helper()
	page, err := b.archive.read(historyOf(alice, seq))
	must(b.t, err)
	return b.node.hub.replay(alice, itemOf(page.Entries[0].Message), run)
}

// TestAReplayDoesNotWaitForAWindowThatStaysFull: it is worth waiting for a client that acknowledges; of one that does not, what
// it was not sent yet comes by itself when it does.
func TestAReplayDoesNotWaitForAWindowThatStaysFull(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		for range 4 {
			b.send(alice, `"`+strings.Repeat("x", 1500)+`"`)
		}
		b.settle()
		wantFates(t, []node.Fate{b.again("r", 1), b.again("r", 2), b.again("r", 3)}, node.FateSent, node.FateSent, node.FateFull)
		b.pass(s, 2*roomWithin, true)
		// What it was sent again it is not sent a third time, though the replay asks anew.
		wantFates(t, []node.Fate{b.again("r", 1), b.again("r", 2), b.again("r", 3), b.again("r", 4)}, node.FateSent, node.FateSent, node.FateAway, node.FateAway)
		must(t, s.ack("", 1))
		b.fill()
		b.settle()
		// What came as ever after the replay had asked for it is not sent twice; another replay does send it again.
		wantFates(t, []node.Fate{b.again("r", 2), b.again("r", 3), b.again("r", 4)}, node.FateSent, node.FateSent, node.FateFull)
		wantFates(t, []node.Fate{b.again("t", 3)}, node.FateSent)
		b.settle()
		if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{1, 2, 1, 2, 3, 3}) {
			t.Errorf("%v came", got)
		}
	})
}

// TestAReplayLeavesNothingOutInBetween: what a session had no room for it is sent before anything behind it, in whatever frame
// that comes: a client that acknowledges as it handles would acknowledge what it was never sent again.
func TestAReplayLeavesNothingOutInBetween(t *testing.T) {
	alone(t, 4096, func(b *bench, _ *session, p *paper) {
		for range 3 {
			b.send(alice, `"`+strings.Repeat("x", 1000)+`"`)
		}
		b.settle()
		p.take()
		p.mu.Lock()
		p.stuck = make(chan struct{})
		p.mu.Unlock()
		wantFates(t, []node.Fate{b.again("r", 1), b.again("r", 2), b.again("r", 3)}, node.FateSent, node.FateSent, node.FateSent)
		wantFates(t, []node.Fate{b.again("s", 1), b.again("s", 2), b.again("s", 3)}, node.FateFull, node.FateFull, node.FateFull)
		<-time.After(2 * roomWithin) // of the bubble's clock
		wantFates(t, []node.Fate{b.again("s", 1), b.again("s", 2)}, node.FateAway, node.FateAway)
		close(p.stuck)
		b.settle()
		wantFates(t, []node.Fate{b.again("s", 2), b.again("s", 3)}, node.FateAway, node.FateAway)
		wantFates(t, []node.Fate{b.again("s", 1), b.again("s", 2)}, node.FateSent, node.FateSent)
		b.settle()
		b.settle()
		if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{1, 2, 3, 1, 2}) {
			t.Errorf("%v came", got)
		}
	})
}

// TestWhatIsAcknowledgedHoldsNoReplayUp: nobody needs it any more.
func TestWhatIsAcknowledgedHoldsNoReplayUp(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		for range 3 {
			b.send(alice, `"`+strings.Repeat("x", 1000)+`"`)
		}
		b.settle()
		p.mu.Lock()
		p.stuck = make(chan struct{})
		p.mu.Unlock()
		for run := 0; b.again(fmt.Sprint(run), 1) != node.FateFull; run++ {
			if run > 10 {
				t.Fatal("a client that does not read has room")
			}
		}
		wantFates(t, []node.Fate{b.again("r", 2)}, node.FateFull)
		close(p.stuck)
		b.settle()
		wantFates(t, []node.Fate{b.again("r", 3)}, node.FateFull)
		must(t, s.ack("", 2))
		wantFates(t, []node.Fate{b.again("r", 3)}, node.FateSent)
	})
}

// historyOf asks for one message.
func historyOf(to subject.Address, seq uint64) history.ReadRequest {
	return history.ReadRequest{Address: to.Tokens(), After: seq - 1, UpTo: seq, Bytes: 1}
}
