package dispatch

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/node"
)

// steady logs a message for each address every 5 ms, and returns how long those of the first took to come to the node:
// the median, the 99th percentile and the most.
func (w *world) steady(n *fake, messages int, addresses ...int) (p50, p99, most time.Duration) {
	w.t.Helper()
	logged := make(map[string]time.Time, messages)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range messages {
		<-tick.C
		for _, a := range addresses[1:] {
			w.log(address(a), `1`)
		}
		first := address(addresses[0])
		logged[fmt.Sprint(first, "/", w.seqs[first]+1)] = time.Now()
		w.log(first, `1`)
	}
	took := make([]time.Duration, 0, messages)
	for entry, at := range logged {
		w.eventually(entry, func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			came, there := n.came[entry]
			if there {
				took = append(took, came.Sub(at))
			}
			return there
		})
	}
	slices.Sort(took)
	return took[messages/2], took[messages*99/100], took[messages-1]
}

// A node that does not answer delays nobody: not before it is suspect, not while it is, and not when it wakes.
func TestSlowNodeDelaysNobody(t *testing.T) {
	w := newWorld(t)
	good, slow := w.node("good", true, address(1)), w.node("slow", true, address(2))
	hop := time.Second
	r := w.start(func(c *Config) { c.Hop = hop })
	w.log(address(1), `1`)
	w.drained()
	p50, p99, most := w.steady(good, 200, 1, 2)
	t.Logf("both well: p50 %s, p99 %s, most %s", p50, p99, most)
	slow.set(true)
	p50, p99, most = w.steady(good, 500, 1, 2)
	if t.Logf("one stopped: p50 %s, p99 %s, most %s", p50, p99, most); most > hop/2 {
		t.Errorf("a message waited %s for a node that was stopped", most)
	}
	if r.log.count("does not answer") != 1 {
		t.Error("the node is not suspect")
	}
	slow.set(false)
	p50, p99, most = w.steady(good, 300, 1, 2)
	if t.Logf("it wakes: p50 %s, p99 %s, most %s", p50, p99, most); most > hop/2 {
		t.Errorf("a message waited %s for a node that woke", most)
	}
	w.drained()
	w.eventually("sent frames again", func() bool {
		w.log(address(2), `1`)
		w.drained()
		return slow.has(fmt.Sprint(address(2), "/", w.seqs[address(2)]))
	})
}

// What waits for a slow node is not acknowledged, however much of the others has been; it gets it in order, in few
// frames.
func TestALaggingNodeGetsEverythingInOrder(t *testing.T) {
	w := newWorld(t)
	good, slow := w.node("good", true, address(1)), w.node("slow", true, address(2))
	release := make(chan struct{})
	slow.hold = release
	w.start(func(c *Config) { c.Hop = patience })
	const n = 50
	for range n {
		w.log(address(2), `1`)
		w.log(address(1), `1`)
	}
	w.eventually("the other has all", func() bool { return good.has(fmt.Sprint(address(1), "/", n)) })
	if got := w.unacknowledged(); got < n {
		t.Errorf("%d messages are unacknowledged, and %d were not answered", got, n)
	}
	close(release)
	w.drained()
	for i, entry := range slow.got() {
		if want := fmt.Sprint(address(2), "/", i+1); entry != want {
			t.Fatalf("%s came, want %s", entry, want)
		}
	}
	if len(slow.got()) != n || slow.framed() > n/2 {
		t.Errorf("%d messages came in %d frames", len(slow.got()), slow.framed())
	}
}

// What waits for slow nodes is bounded.
func TestUnderWayIsBounded(t *testing.T) {
	w := newWorld(t)
	slow := w.node("slow", true, address(1))
	release := make(chan struct{})
	slow.hold, slow.forget = release, true
	r := w.start(func(c *Config) { c.Hop, c.prompt = patience, time.Millisecond })
	out := newOutbox(r.Service)
	batch := []routed{{delivery: noAck{}, to: address(1), encoded: make([]byte, underWay/4)}}
	done := make(chan int, 10)
	var running sync.WaitGroup
	running.Go(func() {
		for i := range cap(done) {
			out.put(t.Context(), batch, nil, map[string][][]byte{"slow": {nil}})
			done <- i
		}
		out.running.Wait()
	})
	for range 5 { // four fill it, and the fifth is let in before that is seen
		<-done
	}
	select {
	case i := <-done:
		t.Errorf("number %d was put as well", i)
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	running.Wait()
}

// A node whose probes are answered and whose frames are not is tried less and less often; one that was well for long is
// as good as new.
func TestAFlappingNodeIsTriedSeldom(t *testing.T) {
	w := newWorld(t)
	n := w.node("n", true, address(1))
	n.deaf = true
	r := w.start(func(c *Config) { c.Hop = 50 * time.Millisecond })
	for begun := time.Now(); time.Since(begun) < 5*time.Second; {
		w.log(address(1), `1`)
		w.drained()
	}
	// With 2, 4, 8 … probes of 250 ms between: at 0, 0.3, 0.9, 1.9 and 4 s; without, every 0.3 s.
	if tried := r.log.count("does not answer"); tried < 2 || tried > 6 {
		t.Errorf("tried %d times in 5 s", tried)
	}
	n.mu.Lock()
	n.deaf = false
	n.mu.Unlock()
	w.eventually("sent frames again", func() bool {
		w.log(address(1), `1`)
		w.drained()
		return n.has(fmt.Sprint(address(1), "/", w.seqs[address(1)])) && n.told(node.Sweep)
	})
}

// A node that was killed is suspect while it has a lease; when that has lapsed it is gone, and asked nothing any more.
func TestADeadNodeIsForgottenWithItsLease(t *testing.T) {
	w := newWorld(t)
	dead := &fake{w: w, id: "dead"}
	dead.routes(address(1))
	if _, err := w.table.Renew(t.Context(), "dead", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	r := w.start()
	w.eventually("known", func() bool { return slices.Contains(r.peers.all(), "dead") })
	w.log(address(1), `1`)
	w.drained()
	if !slices.Contains(r.peers.suspects(), "dead") {
		t.Error("it is not suspect although it has a lease")
	}
	begun := time.Now()
	w.eventually("gone", func() bool { return r.peers.passedOver("dead") && len(r.peers.suspects()) == 0 })
	t.Logf("gone %s later", time.Since(begun))
	if slices.Contains(r.peers.all(), "dead") {
		t.Error("it counts as live")
	}
	w.log(address(1), `1`)
	w.drained()
	if r.log.count("does not answer") != 1 {
		t.Error("it became suspect again")
	}
}
