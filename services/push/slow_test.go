package push

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// TestAStuckClientCostsItsWindow in memory, whatever is sent to it: in all the addresses that it has, with holes and
// without, at any size of message. The lists of what waits come on top:
// 15 % at 1 KB a message, 70 % at 100 bytes.
func TestAStuckClientCostsItsWindow(t *testing.T) {
	for _, size := range []int{100, 1000, 30_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			const sessions, window = 10, 256 << 10
			b := newBench(t, window)
			stuck := make(chan struct{})
			var all []*session
			for i := range sessions {
				cursors := map[subject.Address]uint64{alice: 0}
				for j := range 6 {
					cursors[subject.Address{Tenant: "default", Kind: subject.Topic, ID: fmt.Sprint("t", i, "-", j)}] = 0
				}
				s, p := b.session(fmt.Sprint("phone", i), cursors)
				p.mu.Lock()
				p.stuck = stuck
				p.mu.Unlock()
				all = append(all, s)
			}
			before, _ := footprint()
			payload := `"` + strings.Repeat("x", size) + `"`
			for _, s := range all {
				for i, l := range s.lanes {
					for seq := uint64(1); seq < 300_000/uint64(size); seq++ { // each lane alone has more than the window
						if seq != 5 || i%2 == 0 { // a hole in every other: what follows is held
							s.offer(l, itemOf(messageOf(l.to, seq, payload)))
						}
					}
				}
			}
			after, _ := footprint()
			each := (after - before) / sessions
			t.Logf("a stuck session costs %d KiB with a window of %d", each>>10, window>>10)
			for _, s := range all {
				if kept := s.queued + s.held; kept > window {
					t.Errorf("it keeps %d bytes of messages", kept)
				}
			}
			if each > 2*window {
				t.Errorf("it costs %d KiB", each>>10)
			}
			runtime.KeepAlive(all)
			close(stuck)
			b.settle()
		})
	}
}

func messageOf(to subject.Address, seq uint64, payload string) *message.Message {
	return &message.Message{To: to, Seq: seq, ID: fmt.Sprint("m", seq), ContentType: message.JSON, At: time.Now().UnixMilli(), Payload: []byte(payload)}
}

// TestAStuckWriterIsCutWhenItsTimeIsOver: a client whose window was full for too long and that takes no last words.
func TestAStuckWriterIsCutWhenItsTimeIsOver(t *testing.T) {
	alone(t, 1024, func(b *bench, s *session, p *paper) {
		p.stuck = make(chan struct{})
		b.send(alice, `"`+strings.Repeat("x", 900)+`"`)
		b.send(alice, `"`+strings.Repeat("x", 900)+`"`)
		synctest.Wait()
		begun := time.Now()
		for end := time.Now().Add(time.Minute); p.cutOff() == 0 && time.Now().Before(end); {
			<-time.After(time.Second)
			s.hear()
			s.tick(time.Now())
		}
		if took := time.Since(begun); took < b.node.cfg.SlowAfter || took > b.node.cfg.SlowAfter+endMost+2*time.Second {
			t.Errorf("cut after %s; want -slow-after and %s", took, endMost)
		}
		close(p.stuck)
		b.settle()
		ended(t, p, protocol.CloseSlow, problem.TooSlow)
	})
}

func (p *paper) cutOff() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// TestOneStuckClientDelaysNobody: a client of the same topic reads nothing; the others' messages take no longer.
func TestOneStuckClientDelaysNobody(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Window = 16 << 20 })
	reader := n.dial(t, token("alice", func(who *identity.Identity) { who.Topics = []string{"*"} }))
	reader.hello("phone", topics("news"))
	reader.want(protocol.TWelcome)
	padding := `"` + strings.Repeat("x", 32<<10) + `"`
	round := func() []time.Duration {
		var took []time.Duration
		for range 500 {
			begun := time.Now()
			w.push(news, padding)
			o := reader.want(protocol.TMsg)
			took = append(took, time.Since(begun))
			reader.ack("topic:news", o.Seq)
		}
		slices.Sort(took)
		return took
	}
	without := round()
	h := newHole(t, n.listener.Addr().String())
	stuck := dialTo(t, h.listener.Addr().String(), token("bob", func(who *identity.Identity) { who.Topics = []string{"*"} }))
	stuck.hello("phone", topics("news"))
	stuck.want(protocol.TWelcome)
	close(h.open)
	with := round()
	t.Logf("a message of 32 KiB took %s, p99 %s; beside a stuck client %s, p99 %s", percentile(without, 50), percentile(without, 99), percentile(with, 50), percentile(with, 99))
	if most := 3*percentile(without, 99) + 100*time.Millisecond; percentile(with, 99) > most {
		t.Errorf("p99 beside a stuck client is %s", percentile(with, 99))
	}
}
