package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

func TestBackoffGrowsToItsLimitOnceARound(t *testing.T) {
	b := backoff{most: reconnectMost, round: 2}
	for _, limit := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000} {
		limit *= time.Millisecond
		for range b.round {
			if b.limit() != limit {
				t.Errorf("the limit is %s and should be %s", b.limit(), limit)
			}
			if pause := b.next(); pause < 0 || pause >= limit {
				t.Errorf("a pause of %s, the limit is %s", pause, limit)
			}
		}
	}
	b.reset()
	if b.limit() != backoffLeast {
		t.Errorf("the limit after a reset is %s", b.limit())
	}
}

func threeNodes(t *testing.T) *nodes {
	t.Helper()
	n, err := newNodes("ws://a, ws://b,ws://c", true)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheNextNodeIsAskedQuicklyAfterAFineConnection(t *testing.T) {
	n := threeNodes(t)
	now := time.Now()
	for range 1000 { // pauses are random
		n.at = 0
		if pause := n.move(io.ErrUnexpectedEOF, fineAfter, now); pause >= backoffLeast || n.url() != "ws://b/v1/ws" {
			t.Fatalf("%s after %s", n.url(), pause)
		}
	}
}

func TestWelcomesThatDoNotLastSlowReconnectsDown(t *testing.T) {
	n := threeNodes(t)
	for range 30 {
		n.move(io.ErrUnexpectedEOF, fineAfter-1, time.Now())
	}
	if n.pause.limit() != reconnectMost {
		t.Errorf("after 30 connections that did not last, the limit is %s", n.pause.limit())
	}
}

func TestANodeThatAsksToBeLeftAloneIs(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		err  error
		want time.Duration
	}{
		"Retry-After":        {&Closed{Code: protocol.CloseDraining, RetryAfter: 20 * time.Second}, 20 * time.Second},
		"endless":            {&Closed{Code: protocol.CloseDraining, RetryAfter: time.Hour}, retryAfterMost},
		"4429":               {&Closed{Code: protocol.CloseBackOff}, backOffLeast},
		"4503":               {&Closed{Code: protocol.CloseDraining}, 0},
		"a connection ended": {io.EOF, 0},
	} {
		n := threeNodes(t)
		n.move(c.err, 0, now)
		if got := n.free[0].Sub(now); got != c.want {
			t.Errorf("%s: left alone for %s, want %s", name, got, c.want)
		}
	}
	// The two others are asked in turn as long as the first wants peace, and then it is asked again.
	n := threeNodes(t)
	n.move(&Closed{Code: protocol.CloseDraining, RetryAfter: time.Minute}, 0, now)
	for range 4 {
		if n.move(io.EOF, 0, now); n.at == 0 {
			t.Fatal("it was asked too early")
		}
	}
	n.at = 2
	if n.move(io.EOF, 0, now.Add(time.Minute)); n.at != 0 {
		t.Errorf("it is not asked again, but %s", n.url())
	}
}

func TestWhenAllNodesWantToBeLeftAloneTheFirstToBeFreeIsWaitedFor(t *testing.T) {
	n := threeNodes(t)
	now := time.Now()
	for _, seconds := range []time.Duration{30, 10, 20} {
		n.move(&Closed{Code: protocol.CloseDraining, RetryAfter: seconds * time.Second}, 0, now)
	}
	n.at = 0
	var pauses []time.Duration
	for range 100 {
		n.at, n.free[0] = 0, now.Add(30*time.Second)
		n.pause.reset()
		pauses = append(pauses, n.move(&Closed{Code: protocol.CloseDraining, RetryAfter: 30 * time.Second}, 0, now))
		if n.at != 1 {
			t.Fatalf("%s is waited for", n.url())
		}
	}
	slices.Sort(pauses)
	if pauses[0] < 10*time.Second || pauses[99] >= 10*time.Second+backoffLeast || pauses[99]-pauses[0] < backoffLeast/10 {
		t.Errorf("pauses from %s to %s: they must be spread over 250 ms behind 10 s", pauses[0], pauses[99])
	}
}

func TestTheOrderOfNodesIsRandomUnlessTold(t *testing.T) {
	first := make(map[string]bool)
	for range 200 {
		n, err := newNodes("ws://a,ws://b", false)
		if err != nil {
			t.Fatal(err)
		}
		first[n.url()] = true
	}
	if len(first) != 2 {
		t.Errorf("200 devices all begin with %v", first)
	}
	if _, err := newNodes("ws://a,,ws://b", false); err == nil {
		t.Error("an empty URL between two was taken")
	}
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q is %s, want %s", value, got, want)
		}
	}
}

// refusing is a node that answers every handshake with a status, and counts them.
func refusing(t *testing.T, status int, retryAfter, body string) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, body, status)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

func TestADrainingNodeIsPassedOver(t *testing.T) {
	first, asked := refusing(t, http.StatusServiceUnavailable, "30", `{"code":"draining","message":"this node is going away"}`)
	second := serve(t, func(p *peer) { p.welcome(1); p.close(protocol.CloseDraining); p.gone() },
		func(p *peer) { p.welcome(1); p.send(msg(1)); p.gone() })
	l := listen(t, first+","+second, func(o *Options) { o.InOrder = true })
	if closed, ok := errors.AsType[*Closed](l.offline()); !ok || closed.Code != protocol.CloseDraining {
		t.Errorf("closed %+v", closed)
	}
	l.want(1)
	if asked.Load() != 1 {
		t.Errorf("the draining node was asked %d times", asked.Load())
	}
	l.end()
	_, err := Dial(t.Context(), Options{URL: first, Device: "d", Token: func(context.Context) (string, error) { return "", nil }})
	closed, ok := errors.AsType[*Closed](err)
	if !ok || closed.RetryAfter != 30*time.Second || !errors.Is(err, problem.New(problem.Draining, "")) {
		t.Errorf("refused with %+v", err)
	}
}

func TestADrainedDeviceGoesToAnotherNode(t *testing.T) {
	first := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1), `{"t":"drain","within":20}`)
		p.acked("", 1)
		p.gone()
	}, func(p *peer) { p.t.Error("it came back to the node that drains"); p.gone() })
	second := serve(t, func(p *peer) {
		p.welcome(p.hello.Cursors["user:alice"] + 1)
		p.send(msg(2))
		p.gone()
	})
	l := listen(t, first+","+second, func(o *Options) { o.InOrder = true })
	l.want(1, 2)
	l.end()
}

// A node that is stopped accepts connections, by its kernel, and says nothing.
func TestASilentNodeCostsItsTimeoutOnly(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	good := serve(t, func(p *peer) { p.welcome(1); p.send(msg(1)); p.gone() })
	began := time.Now()
	l := listen(t, "ws://"+silent.Addr().String()+","+good, func(o *Options) { o.InOrder = true })
	l.want(1)
	if took := time.Since(began); took < otherTimeout || took > greetTimeout {
		t.Errorf("connected after %s; the silent node may cost %s", took, otherTimeout)
	}
	l.end()
}

// The node that took a hello was stopped before it answered. When it wakes it opens the session and closes the one
// that the device has elsewhere by now.
func TestADeviceThatReplacedItselfComesBack(t *testing.T) {
	dropped := func(p *peer) { _ = p.ws.NetConn().Close() }
	replaced := func(p *peer) {
		p.send(`{"t":"error","code":"replaced","message":"a newer connection exists"}`)
		p.close(protocol.CloseReplaced)
		p.gone()
	}
	url := serve(t, func(p *peer) { p.welcome(1); p.close(protocol.CloseDraining); p.gone() },
		dropped,
		func(p *peer) { p.welcome(1); replaced(p) },
		func(p *peer) { p.welcome(1); p.send(msg(1)); p.acked("", 1); replaced(p) })
	l := listen(t, url, nil)
	l.want(1)
	err := receive(t, l.ended) // the second time somebody else is there
	if closed, ok := errors.AsType[*Closed](err); !ok || closed.Code != protocol.CloseReplaced {
		t.Errorf("Run returned %v", err)
	}
}

func TestConnectionsAreOpenedAsTold(t *testing.T) {
	url := serve(t, func(p *peer) { p.welcome(1); p.send(msg(1)); p.gone() })
	var dialed atomic.Int32
	l := listen(t, url, func(o *Options) {
		o.NetDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialed.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	l.want(1)
	l.end()
	if dialed.Load() != 1 {
		t.Errorf("%d connections were opened by NetDial", dialed.Load())
	}
}

// stuck is a connection that takes nothing more from a moment on, whatever the deadline.
type stuck struct {
	net.Conn

	full   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (s *stuck) Write(b []byte) (int, error) {
	if !s.full.Load() {
		return s.Conn.Write(b)
	}
	<-s.closed
	return 0, net.ErrClosed
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// dialStuck opens such connections, and says which was the first.
func dialStuck(first **stuck) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		s := &stuck{Conn: conn, closed: make(chan struct{})}
		if *first == nil {
			*first = s
		}
		return s, err
	}
}

// A path that is gone while an acknowledgement is being written: the watchdog of reading ends the writing as well.
func TestAStuckWriteDoesNotHoldUpTheReconnect(t *testing.T) {
	var first *stuck
	url := serve(t,
		func(p *peer) {
			w := welcome("e", map[string]uint64{"user:alice": 1})
			w.Heartbeat = 50
			p.welcomeTo(w)
			first.full.Store(true)
			p.send(msg(1))
			p.gone()
		},
		func(p *peer) { p.welcome(2); p.send(msg(2)); p.gone() })
	l := listen(t, url, func(o *Options) { o.NetDial = dialStuck(&first) })
	t.Cleanup(func() { _ = first.Close() }) // so that a failure does not hang
	l.want(1, 2)
	l.end()
}
