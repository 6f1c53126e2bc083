package mongodb_test

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/mongodb"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// pit is a network between the driver and its server that can lose everything: what is sent while it is open is gone,
// and the connection that it was sent on stays as it is, silent, for ever.
type pit struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup
	mu       sync.Mutex // protects the rest
	open     bool
	conns    []net.Conn
}

func dig(t *testing.T, target string) *pit {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pit{listener: l, target: target}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

func (p *pit) set(open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = open
}

func (p *pit) accept() {
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
		lost := new(bool) // p.mu
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.running.Go(func() { p.pass(server, client, lost) })
		p.running.Go(func() { p.pass(client, server, lost) })
	}
}

func (p *pit) pass(to, from net.Conn, lost *bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.mu.Lock()
		*lost = *lost || p.open
		gone := *lost
		p.mu.Unlock()
		if gone {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestTheNetworkIsAPit holds that an archive that can't be reached fails within the caller's time, and that it takes
// messages again within 2 s of the network's return, tried as collect does.
func TestTheNetworkIsAPit(t *testing.T) {
	const attempt, pinged, pause = 1500 * time.Millisecond, time.Second, 250 * time.Millisecond // as in services/collect
	uri, err := url.Parse(startFerretDB(t))
	if err != nil {
		t.Fatal(err)
	}
	p := dig(t, uri.Host)
	uri.Host = p.listener.Addr().String()
	a, err := mongodb.Open(t.Context(), uri.String(), "pit", archive.Facts{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	to, heads, sent := subject.UserAddress("default", "alice"), archive.Heads{}, uint64(0)
	bounded := func(d time.Duration, do func(context.Context) error) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		begun := time.Now()
		err := do(ctx)
		if took := time.Since(begun); took > d+500*time.Millisecond {
			t.Errorf("it took %s, not %s", took, d)
		}
		return err
	}
	try := func() bool {
		err := bounded(attempt, func(ctx context.Context) error {
			m := &message.Message{To: to, ID: "id " + string(rune('a'+sent)), Payload: []byte("1")}
			outcomes, err := a.Append(ctx, 0, []*message.Message{m}, heads)
			if err == nil && outcomes[0].Message.Seq != sent+1 {
				t.Errorf("sequence %d, not %d", outcomes[0].Message.Seq, sent+1)
			}
			return err
		})
		if err != nil {
			_ = bounded(pinged, a.Ping)
			<-time.After(pause)
			return false
		}
		sent++
		return true
	}
	for round := range 3 {
		if !try() {
			t.Fatal("the archive does not work")
		}
		p.set(true)
		for range 2 {
			if try() {
				t.Fatal("something came through")
			}
		}
		// The network comes back in the middle of the next attempt, which is lost.
		begun := time.Now().Add(time.Duration(round) * attempt / 4)
		back := time.AfterFunc(time.Until(begun), func() { p.set(false) })
		for !try() {
			if time.Since(begun) > 20*time.Second {
				t.Fatal("the archive does not come back")
			}
		}
		back.Stop()
		t.Logf("round %d: it took a message %s after the network was back", round, time.Since(begun))
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("only after %s", took)
		}
	}
}
