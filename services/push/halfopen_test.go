package push

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/subject"
)

// hole is a proxy in front of a node. Once it is opened it swallows everything in silence: no byte passes, nothing is
// closed, and the kernel's buffers go on taking what they have room for.
type hole struct {
	listener net.Listener
	open     chan struct{}
	over     chan struct{}
	pipes    sync.WaitGroup
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := &hole{listener: l, open: make(chan struct{}), over: make(chan struct{})}
	h.pipes.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			h.pipes.Go(func() { h.pass(server, client) })
			h.pipes.Go(func() { h.pass(client, server) })
		}
	})
	t.Cleanup(func() {
		close(h.over)
		_ = l.Close()
		h.pipes.Wait()
	})
	return h
}

// pass copies one direction until the hole opens; then it reads no more.
func (h *hole) pass(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-h.open:
			<-h.over
			return
		default:
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// TestHalfOpenClientsAreNoticedWithin10s with a heartbeat of 4 s: their sessions are closed and their routes gone. The
// kernel takes everything that is written to the first; of the second's it takes no more, and a write is stuck.
func TestHalfOpenClientsAreNoticedWithin10s(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Heartbeat, n.cfg.Window = 4*time.Second, 256<<20 })
	h := newHole(t, n.listener.Addr().String())
	boxes := map[string]subject.Address{}
	for _, user := range []string{"idle", "stuck"} {
		d := dialTo(t, h.listener.Addr().String(), token(user))
		d.hello("phone")
		d.welcome = d.want("welcome")
		boxes[user] = subject.UserAddress("default", user)
	}
	healthy := n.device(t, "alice", "phone")
	var answering sync.WaitGroup
	answering.Go(func() {
		for range healthy.objects {
			continue // gorilla answers pings of the WebSocket while somebody reads
		}
	})
	defer answering.Wait()
	defer func() { _ = healthy.conn.Close() }()
	close(h.open)
	begun := time.Now()
	w.push(boxes["idle"], `"one more"`)
	large := `"` + strings.Repeat("x", 512<<10) + `"`
	for range 30 { // 15 MiB: more than a loopback connection holds
		w.push(boxes["stuck"], large)
	}
	for user, to := range boxes {
		eventually(t, user+" is noticed", func() bool { return !n.hub.holds(to) && len(w.holders(to)) == 0 })
		took := time.Since(begun)
		t.Logf("%s: noticed after %s", user, took.Round(time.Millisecond))
		if took > 10*time.Second {
			t.Errorf("%s was noticed after %s", user, took)
		}
	}
	if !n.hub.holds(alice) {
		t.Error("the client that answers is gone as well")
	}
	eventually(t, "no writer is left behind", func() bool { return len(n.all()) == 1 })
}
