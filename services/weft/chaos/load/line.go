package load

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// slowBytes every slowPause is how much a device reads that is slow.
	slowBytes = 1024
	slowPause = 50 * time.Millisecond
)

// line is a network connection that can be made to fail as those of phones do.
type line struct {
	net.Conn

	network *network
	dead    chan struct{} // closed when it is dead: nothing arrives, what is written is lost, nobody is told
	closed  chan struct{} // closed when it was given up

	mu       sync.Mutex // protects what follows
	slow     bool       // reads little at a time
	deadline time.Time  // of reads
}

// network opens lines. A dead one stays open for a while after it was given up, so that the other end has to notice by
// itself.
type network struct {
	keep time.Duration

	mu   sync.Mutex // protects left
	left map[*line]*time.Timer
}

func newNetwork(keep time.Duration) *network {
	return &network{keep: keep, left: make(map[*line]*time.Timer)}
}

func (n *network) dial(ctx context.Context, kind, address string) (*line, error) {
	conn, err := new(net.Dialer).DialContext(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	return &line{Conn: conn, network: n, dead: make(chan struct{}), closed: make(chan struct{})}, nil
}

// leave closes a dead line later.
func (n *network) leave(l *line) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left[l] = time.AfterFunc(n.keep, func() {
		_ = l.Conn.Close()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.left, l)
	})
}

// close closes what was left. No line is used any more.
func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l, timer := range n.left {
		timer.Stop()
		_ = l.Conn.Close()
	}
}

// Read implements net.Conn.
func (l *line) Read(b []byte) (int, error) {
	l.mu.Lock()
	slow := l.slow
	l.mu.Unlock()
	if slow {
		b = b[:min(len(b), slowBytes)]
		select {
		case <-time.After(slowPause):
		case <-l.closed:
		}
	}
	n, err := l.Conn.Read(b)
	select {
	case <-l.dead: // what came meanwhile did not come
		return 0, l.silence()
	default:
		return n, err
	}
}

// silence is how reading a dead line ends: with the deadline, or with the end of the line.
func (l *line) silence() error {
	l.mu.Lock()
	deadline := l.deadline
	l.mu.Unlock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-late:
		return os.ErrDeadlineExceeded
	case <-l.closed:
		return net.ErrClosed
	}
}

// Write implements net.Conn.
func (l *line) Write(b []byte) (int, error) {
	select {
	case <-l.dead:
		return len(b), nil
	default:
		return l.Conn.Write(b)
	}
}

// SetReadDeadline implements net.Conn.
func (l *line) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	l.deadline = t
	l.mu.Unlock()
	return l.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn. The WebSocket library sets it for the handshake.
func (l *line) SetDeadline(t time.Time) error {
	l.mu.Lock()
	l.deadline = t
	l.mu.Unlock()
	return l.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if isClosed(l.closed) {
		return net.ErrClosed
	}
	close(l.closed)
	if !isClosed(l.dead) {
		return l.Conn.Close()
	}
	l.network.leave(l)
	return l.Conn.SetReadDeadline(time.Unix(1, 0)) // ends a read that is waiting
}

// die makes the line dead for good.
func (l *line) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !isClosed(l.dead) {
		close(l.dead)
	}
}

// reset ends the line as a crash of the machine's network does: with RST.
func (l *line) reset() {
	if tcp, ok := l.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = l.Conn.Close() // the owner learns of it from its next read
}

// setSlow makes the line slow, or quick again.
func (l *line) setSlow(slow bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = slow
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
