package push

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// alone runs a test with one session on paper and a clock of its own.
func alone(t *testing.T, window int, test func(b *bench, s *session, p *paper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, window)
		s, p := b.session("phone", map[subject.Address]uint64{alice: 0, news: 0})
		s.who.Expires = time.Now().Add(1000 * time.Hour).UnixMilli()
		test(b, s, p)
		b.settle()
	})
}

// pass lets time pass as watch does, with the client answering pings or not.
func (b *bench) pass(s *session, d time.Duration, answers bool) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		<-time.After(time.Second) // of the bubble's clock
		if answers {
			s.hear()
		}
		s.tick(time.Now())
		for b.fill() {
			b.settle()
		}
		b.settle()
	}
}

func ended(t *testing.T, p *paper, code protocol.CloseCode, why problem.Code) {
	t.Helper()
	said := ""
	for _, o := range p.take() {
		said = o.Code
	}
	if codes := p.closed(); len(codes) != 1 || codes[0] != code || said != string(why) {
		t.Errorf("closed with %v and %q; want %d and %q, once", codes, said, code, why)
	}
}

func kinds(objects []wire) (list []string) {
	for _, o := range objects {
		list = append(list, o.T)
	}
	return list
}

func TestASilentClientIsPingedThenClosed(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		b.pass(s, 20*time.Second, false)
		if got := p.take(); len(got) != 0 {
			t.Errorf("%s within the first heartbeat", kinds(got))
		}
		b.pass(s, 20*time.Second, false)
		if got := kinds(p.take()); len(got) != 1 || got[0] != protocol.TPing {
			t.Errorf("%s in the second heartbeat; want one ping", got)
		}
		b.pass(s, time.Second, false)
		ended(t, p, protocol.CloseSlow, problem.Silent)
	})
}

func TestAClientThatAnswersStays(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		b.pass(s, time.Hour, true)
		if codes := p.closed(); len(codes) != 0 {
			t.Errorf("closed with %v", codes)
		}
	})
}

// TestWrittenIsNotDelivered: a client that never acknowledges stays while its window has room, and is closed 30 s
// after it was full; an acknowledgement starts the time anew.
func TestWrittenIsNotDelivered(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		b.send(alice, `"`+strings.Repeat("x", 3000)+`"`)
		b.pass(s, time.Hour, true)
		b.send(alice, `"`+strings.Repeat("x", 3000)+`"`)
		b.pass(s, 29*time.Second, true)
		must(t, s.ack("", 1))
		b.fill()
		b.send(alice, `"`+strings.Repeat("x", 3000)+`"`)
		b.pass(s, 30*time.Second, true)
		if got := seqs(p.take(), ""); len(got) != 2 || len(p.closed()) != 0 {
			t.Errorf("%d came, closed %v; want 1 and 2, and patience", got, p.closed())
		}
		b.pass(s, time.Second, true)
		ended(t, p, protocol.CloseSlow, problem.TooSlow)
		b.node.acks.mu.Lock()
		defer b.node.acks.mu.Unlock()
		if got := b.node.acks.own[cursorKey{alice, "phone", alice}].seq; got != 1 {
			t.Errorf("the cursor is %d; only 1 was acknowledged", got)
		}
	})
}

func TestOneMessageIsAlwaysAdmitted(t *testing.T) {
	alone(t, 1024, func(b *bench, s *session, p *paper) {
		for range 3 {
			b.send(alice, `"`+strings.Repeat("x", 10_000)+`"`)
		}
		for seq := uint64(1); seq <= 3; seq++ {
			b.settle()
			if got := seqs(p.take(), ""); len(got) != 1 || got[0] != seq {
				t.Fatalf("%d came; want %d alone", got, seq)
			}
			must(t, s.ack("", seq))
			for b.fill() {
				b.settle()
			}
		}
		if s.unacked != 0 {
			t.Errorf("%d bytes are left in the window", s.unacked)
		}
	})
}

// TestUnsubscribingGivesRoomBack: what waited for room must not wait for an acknowledgement that can't come.
func TestUnsubscribingGivesRoomBack(t *testing.T) {
	alone(t, 1024, func(b *bench, s *session, p *paper) {
		b.send(news, `"`+strings.Repeat("x", 900)+`"`)
		b.send(alice, `"`+strings.Repeat("y", 900)+`"`)
		b.node.leave(t.Context(), nil)
		dropped := s.drop([]subject.Address{news})
		for _, l := range dropped {
			b.node.hub.leave(l)
		}
		for b.fill() {
			b.settle()
		}
		b.settle()
		if got := seqs(p.take(), ""); len(got) != 1 {
			t.Errorf("%d came of the mailbox; want 1", got)
		}
		must(t, s.ack("", 1))
		if s.unacked != 0 {
			t.Errorf("%d bytes are in the window of a session that has acknowledged all", s.unacked)
		}
	})
}

// TestAMessageThatExpiresWhileItWaitsIsAGap.
func TestAMessageThatExpiresWhileItWaitsIsAGap(t *testing.T) {
	alone(t, 1024, func(b *bench, s *session, p *paper) {
		b.send(alice, `"`+strings.Repeat("x", 900)+`"`)
		b.settle() // what is written is out of memory, and there is room to hold more
		m := b.archive.add(alice, `"`+strings.Repeat("x", 100)+`"`, time.Now().Add(time.Second).UnixMilli())
		b.node.hub.deliver(alice, itemOf(m))
		b.pass(s, 2*time.Second, true)
		must(t, s.ack("", 1))
		b.settle()
		got := p.take()
		if last := got[len(got)-1]; last.T != protocol.TGap || last.From != 2 || last.To != 2 || last.Why != message.WhyExpired {
			t.Errorf("%s came; want a gap of 2, expired", last.raw)
		}
	})
}

// TestAReadThatBringsNothingIsNotTriedAtOnce: an archive that is behind, or wrong, must not be asked in a loop.
func TestAReadThatBringsNothingIsNotTriedAtOnce(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		b.node.hub.observe(alice, 3) // the archive has none of it yet
		reads := 0
		for b.fill() {
			if reads++; reads > 3 {
				t.Fatal("the archive is asked again and again")
			}
		}
		for range 3 {
			b.archive.add(alice, "1", 0)
		}
		b.pass(s, time.Second, true)
		for b.fill() {
			b.settle()
		}
		if got := seqs(p.take(), ""); len(got) != 3 {
			t.Errorf("%d came; want 1 to 3", got)
		}
		l := s.lane("")
		l.head = 9 // a page that jumps over what is next, as none should
		s.filled(l, 3, []item{gapItem(alice, 6, 9, message.WhyRetention)}, 9, nil)
		if l.filling || !l.faulted || len(p.take()) != 0 {
			t.Error("a page with a hole was taken, or is asked for again at once")
		}
	})
}

// TestAStuckClientIsClosedOnce: a write that fails ends the session, whatever else ends it meanwhile.
func TestAStuckClientIsClosedOnce(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		p.stuck, p.broken = make(chan struct{}), errors.New("broken pipe")
		b.send(alice, "1")
		synctest.Wait() // the writer is stuck
		b.send(alice, "2")
		s.finish(protocol.CloseDraining, problem.New(problem.Draining, "going away"))
		s.finish(protocol.CloseReplaced, nil)
		must(t, s.ack("", 1))
		close(p.stuck)
		b.settle()
		must(t, s.ack("", 2)) // the reader may still have it
		s.say(protocol.Beat{T: protocol.TPong})
		b.send(alice, "3")
		b.settle()
		if codes := p.closed(); len(codes) != 1 || codes[0] != protocol.CloseDraining {
			t.Errorf("closed with %v; want once, draining", codes)
		}
		for _, o := range p.take() {
			if o.Seq > 1 {
				t.Errorf("%s was written after the end", o.raw)
			}
		}
	})
}

// TestAcknowledgementsAfterTheEndWriteNothing: the reader may be in the middle of one.
func TestAcknowledgementsAfterTheEndWriteNothing(t *testing.T) {
	alone(t, 1024, func(b *bench, s *session, p *paper) {
		b.send(alice, `"`+strings.Repeat("x", 900)+`"`)
		b.settle()
		b.send(alice, `"`+strings.Repeat("x", 100)+`"`) // held
		b.settle()
		s.finish(protocol.CloseReplaced, nil)
		b.settle()
		p.take()
		must(t, s.ack("", 1))
		b.settle()
		if got := p.take(); len(got) != 0 || len(p.closed()) != 1 {
			t.Errorf("%s was written, closed %v", kinds(got), p.closed())
		}
	})
}

func TestAClientThatReadsNoAnswersIsClosed(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		p.stuck = make(chan struct{})
		for range controlMost + 2 {
			s.say(protocol.Beat{T: protocol.TPong})
		}
		synctest.Wait()
		for range controlMost {
			s.say(protocol.Beat{T: protocol.TPong})
		}
		close(p.stuck)
		b.settle()
		ended(t, p, protocol.CloseSlow, problem.TooSlow)
	})
}

// TestAGapThatBeganEarlierIsCut: it covers exactly what was not sent.
func TestAGapThatBeganEarlierIsCut(t *testing.T) {
	alone(t, 4096, func(b *bench, _ *session, p *paper) {
		b.send(alice, "1")
		b.send(alice, "2")
		b.node.hub.deliver(alice, gapItem(alice, 1, 5, message.WhyDeleted))
		b.settle()
		got := p.take()
		if last := got[len(got)-1]; last.T != protocol.TGap || last.From != 3 || last.To != 5 || last.Why != message.WhyDeleted {
			t.Errorf("%s came; want a gap from 3 to 5, deleted", last.raw)
		}
	})
}

// TestAnAcknowledgementDoesNotCostARead: a client with a full window that acknowledges each message by itself.
func TestAnAcknowledgementDoesNotCostARead(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		const messages = 300
		for range messages {
			b.archive.add(alice, `"`+strings.Repeat("x", 100)+`"`, 0)
		}
		b.node.hub.observe(alice, messages)
		for seq := uint64(1); seq <= messages; seq++ {
			b.fill()
			must(t, s.ack("", seq))
			b.settle()
		}
		if got := len(seqs(p.take(), "")); got != messages {
			t.Errorf("%d messages came; want %d", got, messages)
		}
		if reads := b.archive.readsOf(alice); reads > messages/5 {
			t.Errorf("%d messages took %d reads", messages, reads)
		}
	})
}
