package route_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// link is a TCP relay in front of a server that can swallow the answers.
type link struct {
	listener net.Listener
	muted    atomic.Bool
}

func newLink(t *testing.T, server string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &link{listener: listener}
	var group errgroup.Group
	group.Go(func() error {
		for {
			client, err := listener.Accept()
			if err != nil {
				return nil //nolint:nilerr // the test has ended
			}
			group.Go(func() error { return l.relay(client, server) })
		}
	})
	t.Cleanup(func() {
		must(t, listener.Close())
		must(t, group.Wait())
	})
	return l
}

func (l *link) relay(client net.Conn, server string) error {
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		return fmt.Errorf("dial %s: %w", server, err)
	}
	var group errgroup.Group
	group.Go(func() error {
		_, _ = io.Copy(upstream, client)
		return upstream.Close()
	})
	group.Go(func() error {
		_, _ = io.Copy(writer(func(b []byte) (int, error) {
			if l.muted.Load() {
				return len(b), nil
			}
			return client.Write(b)
		}), upstream)
		return client.Close()
	})
	return group.Wait()
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func (l *link) address() string { return l.listener.Addr().String() }
func (l *link) mute()           { l.muted.Store(true) }
func (l *link) unmute()         { l.muted.Store(false) }

// TestHangs holds that a Redis that takes commands and never answers holds nobody for long.
func TestHangs(t *testing.T) {
	s := startRedis(t)
	link := newLink(t, s.host)
	link.mute()
	table, err := route.Open("redis://"+link.address()+"?read_timeout=100ms", "epoch")
	must(t, err)
	defer func() { must(t, table.Close()) }()
	begun := time.Now()
	if got, err := table.Routes(t.Context(), []subject.Address{alice()}); err == nil || got[0] != nil {
		t.Errorf("routes %q, %v; want nil for unknown, and an error", got, err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("a read timeout of 100 ms held the caller for %s", took)
	}

	patient, err := route.Open("redis://"+link.address()+"?read_timeout=1m", "epoch")
	must(t, err)
	defer func() { must(t, patient.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := patient.Nodes(ctx); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("the error is %v, want that time ran out", err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestGone holds that a Redis that is not there fails at once, and that nothing fails sooner than the first call.
func TestGone(t *testing.T) {
	table, err := route.Open("redis://127.0.0.1:"+freePort(t), "epoch")
	must(t, err)
	defer func() { must(t, table.Close()) }()
	begun, ctx := time.Now(), t.Context()
	_, connectErr := table.Connect(ctx, session("n1", "s1", "phone", alice()))
	_, headsErr := table.Heads(ctx, []subject.Address{alice()})
	_, nodesErr := table.Nodes(ctx)
	_, renewErr := table.Renew(ctx, "n1", ttl)
	for _, err := range []error{
		connectErr, headsErr, nodesErr, renewErr,
		table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 1}),
		table.RaiseCursors(ctx, []route.Cursor{{User: alice(), Device: "phone", Address: alice(), Seq: 1}}),
		table.Register(ctx, "n1", []route.Registration{{Address: alice()}}),
		table.Unregister(ctx, "n1", []route.Registration{{Address: alice()}}),
		table.Release(ctx, alice(), "phone", "n1/s1"),
		table.Leave(ctx, "n1"),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), "route: ") {
			t.Errorf("the error is %v, want one that says what failed", err)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("ten calls to a port that nobody listens on took %s", took)
	}
}

func TestOpen(t *testing.T) {
	for _, c := range []struct{ address, epoch, says string }{
		{"redis://127.0.0.1:6379", "", "epoch"},
		{"127.0.0.1:6379", "e", "redis://"},
		{"http://127.0.0.1:6379", "e", "scheme"},
		{"redis://127.0.0.1:6379/x", "e", "database"},
		{"redis://127.0.0.1:6379?read_timeuot=1s", "e", "read_timeuot"},
		{"redis://:p#secret@127.0.0.1:6379", "e", "route: "},
		{"redis://:secret@127.0.0.1:%zz", "e", "route: "},
	} {
		_, err := route.Open(c.address, c.epoch)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%q, %q) says %v; want %q in it, and no password", c.address, c.epoch, err, c.says)
		}
	}
}

// TestOrder watches on a real server that the route is written before the head is read, and in the same command.
func TestOrder(t *testing.T) {
	s := startRedis(t)
	table := s.open(t)
	watch, err := net.Dial("tcp", s.host)
	must(t, err)
	defer func() { must(t, watch.Close()) }()
	must(t, watch.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(watch, "MONITOR\r\n")
	must(t, err)
	lines := bufio.NewScanner(watch)
	if !lines.Scan() || lines.Text() != "+OK" {
		t.Fatalf("MONITOR answered %q, %v", lines.Text(), lines.Err())
	}
	_, err = table.Connect(t.Context(), session("n1", "s1", "phone", alice(), news()))
	must(t, err)
	must(t, s.client.Echo(t.Context(), "the end").Err())
	var seen []string
	for lines.Scan() && !strings.Contains(lines.Text(), "the end") {
		if _, command, script := strings.Cut(lines.Text(), " lua] "); script {
			seen = append(seen, command)
		}
	}
	for _, a := range []subject.Address{alice(), news()} {
		wrote, read := index(seen, "HSET", a, "route"), index(seen, "ZSCORE", a, "head")
		if wrote < 0 || read < wrote {
			t.Errorf("%s: route written at %d, head read at %d of %q", a, wrote, read, seen)
		}
	}
}

func index(commands []string, name string, a subject.Address, key string) int {
	for i, c := range commands {
		if strings.HasPrefix(strings.ToUpper(c), `"`+name+`"`) && strings.Contains(c, "{"+a.Tokens()+"}:"+key) {
			return i
		}
	}
	return -1
}

// BenchmarkRoutes looks up batches of 256 addresses, as dispatch does.
func BenchmarkRoutes(b *testing.B) {
	for kind, start := range kinds() {
		b.Run(kind, func(b *testing.B) {
			table := start(b).open(b)
			addresses, regs := make([]subject.Address, 256), make([]route.Registration, 256)
			for i := range addresses {
				addresses[i] = subject.UserAddress("default", fmt.Sprint("user", i))
				regs[i] = route.Registration{Address: addresses[i], Generation: 1}
			}
			must(b, table.Register(b.Context(), "01JD0000000000000000000000", regs))
			for b.Loop() {
				if _, err := table.Routes(b.Context(), addresses); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(addresses)), "ns/address")
		})
	}
}
