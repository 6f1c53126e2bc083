package dispatch

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

// steady logs a message for each address every 5 ms, until something has happened and for 50 messages at least, and
// returns how long those of the first took to come to the node: the median and the most.
func (w *world) steady(n *fake, until string, happened func() bool, addresses ...int) (p50, most time.Duration) {
	w.t.Helper()
	logged := make(map[string]time.Time)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	w.eventually(until, func() bool {
		<-tick.C
		for _, a := range addresses[1:] {
			w.log(address(a), `1`)
		}
		first := address(addresses[0])
		logged[fmt.Sprint(first, "/", w.seqs[first]+1)] = time.Now()
		w.log(first, `1`)
		return len(logged) >= 50 && happened()
	})
	took := make([]time.Duration, 0, len(logged))
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
	return took[len(took)/2], took[len(took)-1]
}

// A node that does not answer delays nobody: not before it is suspect, not while it is, and not when it wakes. Who waits
// for it waits for a hop time-out, which is longer here than a busy machine holds anything up.
func TestSlowNodeDelaysNobody(t *testing.T) {
	w := newWorld(t)
	good, slow := w.node("good", true, address(1)), w.node("slow", true, address(2))
	const hop = 2 * brief
	r := w.start(silence(hop))
	suspect := func() bool { return r.log.count("does not answer") > 0 }
	slow.set(true)
	p50, most := w.steady(good, "suspect", suspect, 1, 2)
	if t.Logf("one stopped: p50 %s, most %s", p50, most); most > hop*3/4 {
		t.Errorf("a message waited %s for a node that was stopped", most)
	}
	p50, most = w.steady(good, "probed", func() bool { return slow.told(node.Probe) }, 1, 2)
	if t.Logf("it is suspect: p50 %s, most %s", p50, most); most > hop*3/4 {
		t.Errorf("a message waited %s for a suspect", most)
	}
	slow.set(false)
	awake := w.seqs[address(2)] + 1
	p50, most = w.steady(good, "sent frames again", func() bool { return slow.since(address(2), awake) }, 1, 2)
	if t.Logf("it wakes: p50 %s, most %s", p50, most); most > hop*3/4 {
		t.Errorf("a message waited %s for a node that woke", most)
	}
	w.drained()
	if r.log.count("does not answer") != 1 {
		t.Error("a node became suspect that answers")
	}
}

// since says whether a message of an address came that is not below seq.
func (n *fake) since(to subject.Address, seq uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.frames) == 0 {
		return false
	}
	for _, e := range n.frames[len(n.frames)-1] {
		if e.To == to && e.From >= seq {
			return true
		}
	}
	return false
}

// What waits for a slow node is not acknowledged, however much of the others has been; it gets it in order, in few
// frames.
func TestALaggingNodeGetsEverythingInOrder(t *testing.T) {
	w := newWorld(t)
	good, slow := w.node("good", true, address(1)), w.node("slow", true, address(2))
	release := make(chan struct{})
	slow.hold = release
	w.start()
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
	r := w.start(func(c *Config) { c.prompt = time.Millisecond })
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
	r := w.start(silence(50 * time.Millisecond))
	w.eventually("suspect for the fourth time", func() bool {
		w.log(address(1), `1`)
		w.drained()
		return r.log.count("does not answer") >= 4
	})
	n.mu.Lock()
	probes := len(n.orders) - len(slices.DeleteFunc(slices.Clone(n.orders), func(op node.Op) bool { return op == node.Probe }))
	n.mu.Unlock()
	if probes < 1+2+4 {
		t.Errorf("%d probes brought it frames three times", probes)
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
	renew := func(ttl time.Duration) {
		if _, err := w.table.Renew(t.Context(), "dead", ttl); err != nil {
			t.Fatal(err)
		}
	}
	renew(patience)
	r := w.start()
	w.eventually("known", func() bool { return slices.Contains(r.peers.all(), "dead") })
	w.log(address(1), `1`)
	w.drained()
	if !slices.Contains(r.peers.suspects(), "dead") {
		t.Error("it is not suspect although it has a lease")
	}
	renew(time.Second)
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
