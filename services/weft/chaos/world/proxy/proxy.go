// Package proxy stands between two processes that speak TCP on this machine, and cuts their connections or lets what
// they say vanish.
package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// buffer is what each direction of a connection holds in memory; the judge has thousands of connections.
	buffer = 8 << 10
	// acceptPause is how long accepting rests after a failure, when there are no file descriptors left, say.
	acceptPause = 50 * time.Millisecond
)

// state is what becomes of connections.
type state int

const (
	open  state = iota // forwarded
	cut                // reset as they are accepted
	holed              // accepted, and nothing is read from them
)

// Proxy forwards what connects to Addr to its target. It has no opinion of what is said: a peer that ends its
// half of a connection or resets it does so on the other side too, and so does a target that can't be reached. Its
// methods may be called at any time, by any goroutine.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup
	ctx      context.Context //nolint:containedctx // the proxy's life, for what its goroutines dial
	quit     context.CancelFunc

	mu    sync.Mutex // protects state, links, and server of each link
	state state
	links map[*link]struct{}
}

// link is one connection through the proxy.
type link struct {
	client *net.TCPConn
	server *net.TCPConn  // nil until it is dialled
	gone   chan struct{} // closed when it has been reset or has ended; Proxy.mu is held then
}

// Listen begins to forward from a free port of 127.0.0.1 to target.
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a bind on loopback does not wait
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: l, links: map[*link]struct{}{}}
	p.ctx, p.quit = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p, nil
}

// Addr is where to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut resets every connection, and from now on each new one at once, until Heal. It returns how many there were.
func (p *Proxy) Cut() int { return p.become(cut) }

// Hole makes what is said on every connection vanish, until Heal: nothing is read, so peers may write until their
// buffers are full; nothing is closed, not even when a peer closes its end; new connections are accepted and silent.
// It returns how many connections there were.
func (p *Proxy) Hole() int { return p.become(holed) }

// Heal forwards again. Connections from before are reset: what they said is lost, and a path that comes back after a
// while has forgotten them. It returns how many those were.
func (p *Proxy) Heal() int { return p.become(open) }

// Close resets all connections and returns when nothing of the proxy is left.
func (p *Proxy) Close() {
	p.quit()
	_ = p.listener.Close()
	p.Cut()
	p.running.Wait()
}

func (p *Proxy) become(s state) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == s {
		return 0
	}
	p.state = s
	n := len(p.links)
	for l := range p.links {
		if s == holed {
			l.darken()
		} else {
			p.reset(l)
		}
	}
	return n
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err == nil {
			p.running.Go(func() { p.carry(&link{client: conn.(*net.TCPConn), gone: make(chan struct{})}) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case <-time.After(acceptPause):
		case <-p.ctx.Done():
			return
		}
	}
}

// carry forwards a connection until both directions have ended, or it is reset.
func (p *Proxy) carry(l *link) {
	defer p.drop(l)
	if !p.enter(l) || !p.dial(l) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() { p.pump(l, l.server, l.client) })
	p.pump(l, l.client, l.server)
	up.Wait()
}

// enter says whether the connection is to be forwarded; in a hole it returns only when the connection was reset.
func (p *Proxy) enter(l *link) bool {
	p.mu.Lock()
	p.links[l] = struct{}{}
	s := p.state
	if s == cut {
		p.reset(l)
	}
	p.mu.Unlock()
	if s == holed {
		<-l.gone
	}
	return s == open
}

// dial connects to the target. The proxy may have changed its state meanwhile.
func (p *Proxy) dial(l *link) bool {
	conn, err := new(net.Dialer).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		p.end(l)
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l.server = conn.(*net.TCPConn)
	select {
	case <-l.gone:
		kill(l.server)
		return false
	default:
	}
	if p.state == holed {
		l.darken()
	}
	return true
}

// pump copies one direction until its end, which it passes on, or until the connection is reset.
func (p *Proxy) pump(l *link, to, from *net.TCPConn) {
	b := make([]byte, buffer)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, failed := to.Write(b[:n]); failed != nil {
				err = failed
			}
		}
		if err == nil {
			continue
		}
		if p.isDark(l) {
			<-l.gone
			return
		}
		if errors.Is(err, io.EOF) && to.CloseWrite() == nil {
			return
		}
		p.end(l)
		return
	}
}

func (p *Proxy) isDark(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, there := p.links[l]
	return there && p.state == holed
}

// end resets a connection whose peer has reset it, or can't be reached.
func (p *Proxy) end(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == holed { // the reset comes with Heal
		return
	}
	p.reset(l)
}

// drop forgets a connection that both peers have ended. In a hole it waits for Heal.
func (p *Proxy) drop(l *link) {
	p.mu.Lock()
	wait := p.state == holed
	p.mu.Unlock()
	if wait {
		<-l.gone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.links[l]; there {
		delete(p.links, l)
		close(l.gone)
		_ = l.client.Close()
		if l.server != nil {
			_ = l.server.Close()
		}
	}
}

// reset ends a connection with a reset on both sides. p.mu is held.
func (p *Proxy) reset(l *link) {
	if _, there := p.links[l]; !there {
		return
	}
	delete(p.links, l)
	close(l.gone)
	kill(l.client)
	if l.server != nil {
		kill(l.server)
	}
}

// darken wakes the pumps of a connection, which then wait for its reset. Proxy.mu is held.
func (l *link) darken() {
	past := time.Unix(1, 0)
	_ = l.client.SetDeadline(past)
	if l.server != nil {
		_ = l.server.SetDeadline(past)
	}
}

func kill(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
