package push

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/service"
)

var _ service.Drainer = (*Service)(nil)

// drain lets a node drain; the answer comes when it has.
func (n *running) drain(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- n.Drain(ctx) }()
	return done
}

func wait[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s", what)
		panic("unreachable")
	}
}

func within(o wire) time.Duration {
	var d protocol.Drain
	_ = json.Unmarshal(o.raw, &d)
	return time.Duration(d.Within) * time.Millisecond
}

// TestANodeThatDrainsServesUntilAllHaveLeft, and lets nobody in.
func TestANodeThatDrainsServesUntilAllHaveLeft(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	phone, tablet := n.device(t, "alice", "phone"), n.device(t, "alice", "tablet")
	late := n.dial(t, token("alice")) // upgraded already
	done := n.drain(t.Context())
	for _, d := range []*device{phone, tablet} {
		if got := within(d.want(protocol.TDrain)); got <= 9*time.Second || got > 10*time.Second {
			t.Errorf("it says within %s", got)
		}
	}
	w.push(alice, "1")
	for _, d := range []*device{phone, tablet} {
		d.wants("", 1, 1)
		d.ack("", 1)
	}
	eventually(t, "the cursor is on WEFT_ACK", func() bool { return w.acked()["alice/phone/default.user.alice"] == 1 })
	if holders := w.holders(alice); len(holders) != 1 {
		t.Errorf("%q hold the address while the node drains", holders)
	}
	late.hello("watch")
	late.end(protocol.CloseDraining, problem.Draining)
	n.refused(t)
	phone.drop(n)
	w.push(alice, "2")
	tablet.wants("", 2, 2)
	select {
	case err := <-done:
		t.Fatalf("it has drained with a session: %v", err)
	default:
	}
	must(t, tablet.conn.Close())
	if err := wait(t, "the node has drained", done); err != nil {
		t.Error(err)
	}
	eventually(t, "the route is gone", func() bool { return len(w.holders(alice)) == 0 })
}

// refused holds what a client gets that comes to a node that drains.
func (n *running) refused(t *testing.T) {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Name}, HandshakeTimeout: patience}
	_, response, err := dialer.Dial("ws://"+n.listener.Addr().String()+protocol.Path, nil)
	if err == nil || response == nil {
		t.Fatalf("a node that drains answers %v, %v", response, err)
	}
	body, _ := io.ReadAll(response.Body)
	var p problem.Problem
	if err := json.Unmarshal(body, &p); err != nil || response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || p.Code != problem.Draining || !p.Retry {
		t.Errorf("a node that drains answers %s, Retry-After %q, %s", response.Status, response.Header.Get("Retry-After"), body)
	}
}

// TestASessionThatOpensAsTheNodeBeginsToDrain is told behind its welcome.
func TestASessionThatOpensAsTheNodeBeginsToDrain(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	gate := make(chan struct{})
	w.archive.set(func() { w.archive.opening = gate })
	d := n.dial(t, token("alice"))
	d.hello("phone")
	eventually(t, "the session waits for the archive", func() bool { return w.archive.opened() == 1 })
	done := n.drain(t.Context())
	n.refusing(t)
	close(gate)
	d.want(protocol.TWelcome)
	d.want(protocol.TDrain)
	must(t, d.conn.Close())
	if err := wait(t, "the node has drained", done); err != nil {
		t.Error(err)
	}
}

// refusing waits until the node drains.
func (n *running) refusing(t *testing.T) {
	t.Helper()
	eventually(t, "the node drains", func() bool { return n.until.Load() != 0 })
}

func (m *model) opened() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.opens)
}

// TestADrainEnds though clients stay and neither NATS nor Redis answers; what is left is closed by Run's end.
func TestADrainEnds(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Drain = 300 * time.Millisecond })
	d := n.device(t, "alice", "phone")
	w.redis.Close()
	w.nats.Stop()
	begun := time.Now()
	atMost := spent(func() {
		if err := wait(t, "the node has drained", n.drain(t.Context())); err == nil {
			t.Error("all have left, says the node")
		}
	})
	if atLeast := time.Since(begun); atLeast < 2*time.Second || atMost > 4*time.Second {
		t.Errorf("it took %s, of our own time %s; want 300 ms and 2 s", atLeast, atMost)
	}
	took := spent(n.stop)
	d.want(protocol.TDrain)
	d.end(protocol.CloseDraining, problem.Draining)
	if took > 14*time.Second {
		t.Errorf("it took %s to stop; service.Main waits 15 s", took)
	}
	must(t, w.redis.Restart())
}

// TestADrainThatIsCutShort ends at once, as does one with nobody there, and one of 0.
func TestADrainThatIsCutShort(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	n.device(t, "alice", "phone")
	ctx, cancel := context.WithCancel(t.Context())
	done := n.drain(ctx)
	n.refusing(t)
	cancel()
	if err := wait(t, "the drain was cut short", done); err == nil {
		t.Error("all have left, says the node")
	}
	if err := wait(t, "nobody to wait for", w.node().drain(t.Context())); err != nil {
		t.Error(err)
	}
	none := w.node(func(n *Service) { n.cfg.Drain = 0 })
	d := none.device(t, "bob", "phone")
	if err := wait(t, "no drain is wanted", none.drain(t.Context())); err != nil {
		t.Error(err)
	}
	d.quiet()
}

// TestNoSecondSeesAFifthOfTheClients: 400 clients of a node that drains come to another, each at its random moment.
func TestNoSecondSeesAFifthOfTheClients(t *testing.T) {
	const clients = 400
	w := newWorld(t)
	n, other := w.node(patient), w.node(patient)
	came := make(chan struct{}, clients)
	devices := make([]*device, clients)
	for i := range devices {
		devices[i] = n.device(t, fmt.Sprint("user", i), "phone")
	}
	perSecond := map[int]int{}
	begun := time.Now()
	done := n.drain(t.Context())
	for i, d := range devices {
		pause := rand.N(within(d.want(protocol.TDrain)))
		perSecond[int((time.Since(begun)+pause)/time.Second)]++ // when it means to come: a busy machine bunches them up
		time.AfterFunc(pause, func() {
			fd, err := connect(other.listener.Addr().(*net.TCPAddr), fmt.Sprint("user", i), "phone")
			came <- struct{}{}
			if err != nil {
				t.Error(err)
			}
			_ = d.conn.Close()
			t.Cleanup(func() { closeFD(fd) })
		})
	}
	for range clients {
		wait(t, "a client comes", came)
	}
	if err := wait(t, "the node has drained", done); err != nil {
		t.Error(err)
	}
	t.Logf("clients that came, by second: %v", perSecond)
	for i, c := range perSecond {
		if c > clients/5 {
			t.Errorf("%d of %d came in second %d", c, clients, i)
		}
	}
}
