package proxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/weft/chaos/world/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 10 * time.Second
	// moment is for what must not happen.
	moment = 100 * time.Millisecond
)

// echo is a server that says back what it hears. heard tells each piece, ended how each connection's reading ended.
type echo struct {
	address string
	heard   chan string
	ended   chan error
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{address: l.Addr().String(), heard: make(chan string, 100), ended: make(chan error, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go e.serve(conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return e
}

func (e *echo) serve(conn net.Conn) {
	defer conn.Close()
	b := make([]byte, 1024)
	for {
		n, err := conn.Read(b)
		if err != nil {
			e.ended <- err
			return
		}
		e.heard <- string(b[:n])
		_, _ = conn.Write(b[:n])
	}
}

func listen(t *testing.T, target string) *proxy.Proxy {
	t.Helper()
	p, err := proxy.Listen(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// talks says that what is written comes back.
func talks(t *testing.T, conn net.Conn, word string) {
	t.Helper()
	if _, err := conn.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != word {
		t.Fatalf("read %q, %v, want %q", b, err, word)
	}
}

// isReset says that the other end has reset a connection.
func isReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, %v, want a reset", n, err)
	}
}

// comesToNothing says that a new connection is reset, at once or a moment later.
func comesToNothing(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	isReset(t, conn)
}

func endsWith(t *testing.T, ended chan error, want error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, want) {
			t.Errorf("the server's connection ended with %v, want %v", err, want)
		}
	case <-time.After(patience):
		t.Error("the server's connection did not end")
	}
}

func TestForwardsBothWaysAndEachEnd(t *testing.T) {
	e := newEcho(t)
	conn := dial(t, listen(t, e.address).Addr())
	talks(t, conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	endsWith(t, e.ended, io.EOF)
	if b, err := io.ReadAll(conn); len(b) != 0 || err != nil {
		t.Errorf("read %q, %v, want a clean end", b, err)
	}
}

func TestPassesAResetOn(t *testing.T) {
	e := newEcho(t)
	conn := dial(t, listen(t, e.address).Addr())
	talks(t, conn, "hello")
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	endsWith(t, e.ended, syscall.ECONNRESET)
}

func TestATargetThatIsNotThereIsAReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	comesToNothing(t, listen(t, l.Addr().String()).Addr())
}

func TestCutResetsWhatIsThereAndWhatComes(t *testing.T) {
	e := newEcho(t)
	p := listen(t, e.address)
	conn := dial(t, p.Addr())
	talks(t, conn, "before")
	if n := p.Cut(); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	isReset(t, conn)
	endsWith(t, e.ended, syscall.ECONNRESET)
	comesToNothing(t, p.Addr())
	p.Heal()
	talks(t, dial(t, p.Addr()), "after")
}

func TestAHoleIsSilentUntilItHeals(t *testing.T) {
	e := newEcho(t)
	p := listen(t, e.address)
	before, leaving := dial(t, p.Addr()), dial(t, p.Addr())
	talks(t, before, "before")
	talks(t, leaving, "before")
	<-e.heard
	<-e.heard
	if n := p.Hole(); n != 2 {
		t.Errorf("%d connections went dark, want 2", n)
	}
	during := dial(t, p.Addr())
	for _, conn := range []net.Conn{before, leaving, during} {
		if _, err := conn.Write([]byte("vanishes")); err != nil {
			t.Errorf("write into the hole: %v", err)
		}
	}
	leaving.Close()
	for _, conn := range []net.Conn{before, during} {
		if err := conn.SetReadDeadline(time.Now().Add(moment)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes, %v out of the hole", n, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case word := <-e.heard:
		t.Errorf("the server heard %q", word)
	case err := <-e.ended:
		t.Errorf("the server's connection ended with %v", err)
	default:
	}
	p.Heal()
	isReset(t, before)
	isReset(t, during)
	endsWith(t, e.ended, syscall.ECONNRESET)
	endsWith(t, e.ended, syscall.ECONNRESET)
	talks(t, dial(t, p.Addr()), "after")
}

// A peer that writes without anybody reading is held up, as by a real path, and goes dark all the same.
func TestAHoleTakesConnectionsThatAreFull(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody accepts, so nobody reads
	p := listen(t, l.Addr().String())
	conn := dial(t, p.Addr())
	if err := conn.SetWriteDeadline(time.Now().Add(moment)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("64 MiB went somewhere: %v", err)
	}
	p.Hole()
	p.Heal()
	isReset(t, conn)
}
