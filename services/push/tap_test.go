package push

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
)

// tap is a connection of a client that can go wrong.
type tap struct {
	net.Conn
	frozen chan struct{} // closed: reads nothing any more
	ended  chan struct{} // closed when the connection is
	freeze func()
	close  func() error
	gone   chan struct{} // closed: writes nothing any more
}

func newTap(conn net.Conn) *tap {
	t := &tap{Conn: conn, frozen: make(chan struct{}), gone: make(chan struct{}), ended: make(chan struct{})}
	t.freeze = sync.OnceFunc(func() { close(t.frozen) })
	t.close = sync.OnceValue(func() error {
		close(t.ended)
		return conn.Close()
	})
	return t
}

func (t *tap) Read(b []byte) (int, error) {
	select {
	case <-t.frozen:
		<-t.ended
		return 0, net.ErrClosed
	default:
	}
	n, err := t.Conn.Read(b)
	select {
	case <-t.frozen:
		<-t.ended
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (t *tap) Write(b []byte) (int, error) {
	select {
	case <-t.gone:
		return len(b), nil
	default:
		return t.Conn.Write(b)
	}
}

func (t *tap) Close() error { return t.close() }

// vanish lets the client's host be gone: the kernel drops whatever comes before TCP sees it, so that nothing is
// acknowledged, and nothing leaves.
func (t *tap) vanish(tb testing.TB) {
	tb.Helper()
	t.freeze()
	close(t.gone)
	raw, err := t.Conn.(*net.TCPConn).SyscallConn()
	must(tb, err)
	must(tb, raw.Control(func(fd uintptr) {
		err = syscall.AttachLsf(int(fd), []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}}) //nolint:staticcheck // keep 0 bytes: golang.org/x/net/bpf is a module more for one instruction
	}))
	must(tb, err)
}

// wireTap is a dialer whose connection can go wrong.
func wireTap(made chan<- *tap) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		t := newTap(conn)
		made <- t
		return t, nil
	}
}
