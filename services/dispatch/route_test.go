package dispatch

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// What comes while a batch is under way makes up the next one: one frame for each node that holds any of its
// addresses, with just those, in the log's order.
func TestOneFramePerNodeAndBatch(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	a, b := w.node("a", true, address(1), address(2)), w.node("b", true, address(2), address(3))
	a.hold = release
	w.start(func(c *Config) { c.prompt = patience })
	w.log(address(1), `0`)
	w.eventually("a first frame", func() bool { return a.framed() == 1 })
	for range 10 {
		for n := 1; n <= 4; n++ { // nobody holds the fourth
			w.log(address(n), `1`)
		}
	}
	w.eventually("all delivered to dispatch", func() bool { return w.delivered() == 41 })
	close(release)
	w.drained()
	// One batch; or some, where what the server has sent was not all read when the first one was made up.
	if a.framed() > 4 || b.framed() > 3 {
		t.Errorf("%d and %d frames", a.framed(), b.framed())
	}
	var wantA, wantB []string
	wantA = append(wantA, "user:u1/1")
	for i := 1; i <= 10; i++ {
		wantA = append(wantA, fmt.Sprintf("user:u1/%d", i+1), fmt.Sprintf("user:u2/%d", i))
		wantB = append(wantB, fmt.Sprintf("user:u2/%d", i), fmt.Sprintf("user:u3/%d", i))
	}
	if got := fmt.Sprint(a.got()); got != fmt.Sprint(wantA) {
		t.Errorf("a: %s", got)
	}
	if got := fmt.Sprint(b.got()); got != fmt.Sprint(wantB) {
		t.Errorf("b: %s", got)
	}
}

func TestFramesAreBounded(t *testing.T) {
	to := address(1)
	var batch []routed
	for _, size := range []int{400 << 10, 400 << 10, 400 << 10, 950 << 10, 1 << 10, 1 << 10} {
		m := &message.Message{To: to, Seq: uint64(len(batch)) + 1, Payload: make([]byte, size)}
		batch = append(batch, routed{to: to, encoded: message.AppendEntry(nil, to, message.Entry{From: m.Seq, To: m.Seq, Message: m})})
	}
	batch = append(batch, routed{to: address(2), encoded: batch[0].encoded})
	all := frames(batch, map[subject.Address][]string{to: {"n"}})
	var shape []string
	next := uint64(1)
	for _, frame := range all["n"] {
		entries, err := message.DecodeEntries(frame)
		if err != nil {
			t.Fatal(err)
		}
		if len(frame) > frameMost && len(entries) > 1 {
			t.Errorf("a frame of %d bytes", len(frame))
		}
		for _, e := range entries {
			if e.From != next {
				t.Errorf("%d, not %d", e.From, next)
			}
			next++
		}
		shape = append(shape, fmt.Sprint(len(entries)))
	}
	if got := strings.Join(shape, " "); got != "2 1 1 2" || len(all) != 1 {
		t.Errorf("entries per frame: %s, nodes %d", got, len(all))
	}
}

func TestGoneNodeDelaysNobody(t *testing.T) {
	w := newWorld(t)
	here := w.node("here", true, address(1))
	gone := &fake{w: w, id: "gone"} // killed: a route, no subscription, no lease
	gone.routes(address(1))
	r := w.start()
	for range 20 {
		w.log(address(1), `1`)
	}
	w.drained()
	if len(here.got()) != 20 {
		t.Errorf("%v", here.got())
	}
	if r.peers.passedOver("gone") != true || r.log.count("does not answer") != 0 {
		t.Error("the node is not known to be gone")
	}
}

func TestUnreadableMessageStopsNothing(t *testing.T) {
	w := newWorld(t)
	n := w.node("n", true, address(1))
	r := w.start()
	w.put([]byte("x"), address(1))
	w.put(nil, address(1))
	w.log(address(1), `1`)
	w.drained()
	if fmt.Sprint(n.got()) != "[user:u1/1]" || r.log.count("read the log") == 0 {
		t.Errorf("%v", n.got())
	}
}

func TestSuspectNodeDelaysOnce(t *testing.T) {
	w := newWorld(t)
	good, dumb := w.node("good", true, address(1)), w.node("dumb", true, address(1))
	dumb.set(true)
	r := w.start(silence(2 * brief))
	w.log(address(1), `1`)
	w.drained()
	if r.log.count("does not answer") != 1 {
		t.Error("the node is not suspect")
	}
	begun := time.Now()
	const batches = 20
	for range batches {
		w.log(address(1), `1`)
		w.drained()
	}
	if took := time.Since(begun); took >= batches*2*brief {
		t.Errorf("%d batches took %s: each waited for the suspect", batches, took)
	}
	if dumb.framed() != 1 || len(good.got()) != batches+1 {
		t.Errorf("the suspect got %d frames, the other %v", dumb.framed(), good.got())
	}
	w.eventually("probed", func() bool { return dumb.told(node.Probe) })
	if dumb.told(node.Sweep) {
		t.Error("told to sweep before it answered")
	}
	dumb.set(false)
	w.eventually("told to sweep", func() bool { return dumb.told(node.Sweep) })
	w.log(address(1), `1`)
	w.eventually("sent frames again", func() bool { return dumb.has(fmt.Sprint("user:u1/", batches+2)) })
	if dumb.has("user:u1/2") {
		t.Error("a suspect was sent a frame")
	}
}

// A suspect that a term found must be probed when that term has ended: other terms pass it over too.
func TestSuspectOutlivesItsTerm(t *testing.T) {
	w := newWorld(t)
	n := w.node("n", true, address(1))
	r := w.start(silence(brief))
	w.log(address(1), `1`)
	w.drained()
	n.set(true)
	ctx, cancel := context.WithCancel(t.Context())
	r.peers.send(ctx, "n", nil)
	cancel()
	n.set(false)
	w.eventually("told to sweep", func() bool { return n.told(node.Sweep) })
	w.log(address(1), `1`)
	w.eventually("sent frames again", func() bool { return n.has("user:u1/2") })
}

// A node that has lost NATS for a moment has a lease: it is not gone, and is told to sweep when it is back.
func TestLeasedNodeWithoutSubscriptionIsSuspect(t *testing.T) {
	w := newWorld(t)
	n := w.node("n", true, address(1))
	r := w.start()
	w.eventually("known", func() bool { return slices.Contains(r.peers.all(), "n") })
	for _, sub := range n.subs {
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("nobody listening", func() bool {
		w.log(address(1), `1`)
		w.drained()
		return r.log.count("does not answer") > 0
	})
	again := w.node("n", true, address(1))
	w.eventually("told to sweep", func() bool { return again.told(node.Sweep) })
	before := w.seqs[address(1)]
	w.log(address(1), `1`)
	w.eventually("sent frames again", func() bool { return again.has(fmt.Sprintf("user:u1/%d", before+1)) })
}

func TestRedisIsACache(t *testing.T) {
	t.Run("away: all known nodes", func(t *testing.T) {
		w := newWorld(t)
		a, b := w.node("a", true, address(1)), w.node("b", true)
		r := w.start()
		w.eventually("both known", func() bool { return len(r.peers.all()) == 3 })
		w.stopRedis()
		for range 5 {
			w.log(address(1), `1`)
		}
		w.drained()
		for i := 1; i <= 5; i++ {
			if e := fmt.Sprint("user:u1/", i); !a.has(e) || !b.has(e) {
				t.Errorf("%v and %v", a.got(), b.got())
			}
		}
	})
	t.Run("away from the beginning: everyone", func(t *testing.T) {
		w := newWorld(t)
		a := w.node("a", true)
		w.stopRedis()
		w.start()
		w.log(address(1), `1`)
		w.eventually("sent to everyone", func() bool { return a.has("user:u1/1") })
		w.drained()
	})
	t.Run("hanging: not for every batch", func(t *testing.T) {
		w := newWorld(t)
		l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		a := w.node("a", true)
		w.start(func(c *Config) { c.Redis = "redis://" + l.Addr().String() })
		w.log(address(1), `1`)
		w.drained()
		begun := time.Now()
		const batches = 20
		for range batches {
			w.log(address(1), `1`)
			w.drained()
		}
		if took := time.Since(begun); took >= batches*lookUpTimeout {
			t.Errorf("%d batches took %s: each waited for Redis", batches, took)
		}
		w.eventually("all there", func() bool { return len(a.got()) == batches+1 })
	})
	t.Run("flushed and filled again", func(t *testing.T) {
		w := newWorld(t)
		a := w.node("a", true)
		w.start()
		w.log(address(1), `1`)
		w.drained()
		a.heard()
		if a.framed() != 0 {
			t.Error("a node got what it has no route of")
		}
		a.routes(address(1))
		w.log(address(1), `1`)
		w.eventually("routed", func() bool { return a.has("user:u1/2") })
	})
}

func TestTheLivePathIsAHint(t *testing.T) {
	// Heads that Redis has lost are raised again as messages are routed, before their routes are read.
	w := newWorld(t)
	n := w.node("n", true, address(1))
	release := make(chan struct{})
	n.hold = release
	defer close(release)
	w.start()
	w.log(address(1), `1`)
	w.log(address(1), `1`)
	w.eventually("framed", func() bool { return n.framed() > 0 })
	table, err := route.Open("redis://"+w.redis.Addr(), epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	heads, err := table.Heads(t.Context(), []subject.Address{address(1)})
	if err != nil || heads[0] == 0 {
		t.Errorf("%v, %v", heads, err)
	}
}

func TestAcknowledgeLast(t *testing.T) {
	t.Run("not before the node has answered", func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		n := w.node("n", true, address(1))
		n.hold = release
		w.start()
		w.log(address(1), `1`)
		w.eventually("framed", func() bool { return n.framed() == 1 })
		if got := w.unacknowledged(); got != 1 {
			t.Errorf("%d unacknowledged", got)
		}
		close(release)
		w.drained()
	})
	t.Run("what ended before the answer is routed again", func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		n := w.node("n", true, address(1))
		n.hold = release
		r := w.start()
		w.log(address(1), `1`)
		w.eventually("framed", func() bool { return n.framed() == 1 })
		r.stop()
		if got := w.unacknowledged(); got != 1 {
			t.Errorf("%d unacknowledged", got)
		}
		close(release)
		w.start()
		w.drained()
		if fmt.Sprint(n.got()) != "[user:u1/1 user:u1/1]" {
			t.Errorf("%v", n.got())
		}
	})
}

// What two owners, one after the other, send of an address is in order, but for what is sent again from the first
// unacknowledged message on: a node drops what it had, and never sees a hole.
func TestInOrderEvenWithTwoOwners(t *testing.T) {
	w := newWorld(t)
	n := w.node("n", true, address(1), address(2), address(3))
	r := w.start()
	const each, terms = 60, 4
	for term := range terms {
		for i := range each {
			w.log(address(1+i%3), `1`)
			if i == each/2 && term < terms-1 {
				next := w.start()
				r.stop()
				r = next
			}
		}
	}
	w.drained()
	last := map[string]int{}
	for _, e := range n.got() {
		to, seq := "", 0
		if at := strings.LastIndex(e, "/"); at > 0 {
			to = e[:at]
			if _, err := fmt.Sscan(e[at+1:], &seq); err != nil {
				t.Fatal(err)
			}
		}
		if seq > last[to]+1 {
			t.Errorf("%s came after %d", e, last[to])
		}
		last[to] = max(last[to], seq)
	}
	for to, seq := range last {
		if seq != each*terms/3 {
			t.Errorf("%s ends at %d", to, seq)
		}
	}
}
