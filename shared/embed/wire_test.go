package embed_test

import (
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
)

// proxy stands between clients and a server and can stop the traffic without closing anything, as a paused process
// or a stalled server does.
type proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup
	mu       sync.Mutex // protects the rest
	gate     *sync.Cond
	frozen   bool
	closed   bool
	conns    []net.Conn
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: strings.TrimPrefix(target, "nats://")}
	p.gate = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	t.Cleanup(p.stop)
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) freeze() { p.set(true) }
func (p *proxy) thaw()   { p.set(false) }

func (p *proxy) set(frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = frozen
	p.gate.Broadcast()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.running.Go(func() { p.pass(server, client) })
		p.running.Go(func() { p.pass(client, server) })
	}
}

// pass copies until either end closes, and waits while the proxy is frozen.
func (p *proxy) pass(to io.WriteCloser, from io.ReadCloser) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.frozen && !p.closed {
			p.gate.Wait()
		}
		p.mu.Unlock()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) stop() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.gate.Broadcast()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// restartable is a server with a fabric that can be stopped and started again at the same place.
type restartable struct {
	t      *testing.T
	url    string
	opts   embed.NATSOptions
	server *embed.Server
}

func startRestartable(t *testing.T, partitions int) *restartable {
	t.Helper()
	r := &restartable{t: t, opts: embed.NATSOptions{Dir: t.TempDir(), Partitions: partitions}}
	r.start()
	r.url = r.server.URL()
	at, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	if r.opts.Port, err = strconv.Atoi(at.Port()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.server.Stop() })
	create(t, connect(t, r.url), fabric.Facts{Epoch: "e1", Partitions: partitions}, 1)
	return r
}

func (r *restartable) start() {
	r.t.Helper()
	s, err := embed.NATS(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = s
}

func (r *restartable) restart() {
	r.server.Stop()
	r.start()
}
