package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPayloadShowsEveryChange(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	broken, large := 0, 0
	for n := range uint64(3000) {
		p := payload{Writer: "w1", To: "user:u1", Counter: n + 1}
		b := p.encode(random)
		if got, sound := read(b); !sound || got != p || !json.Valid(b) {
			t.Fatalf("read %+v, sound %t, of %s", got, sound, b)
		}
		if bytes.ContainsRune(b, '\n') {
			broken++
		}
		if len(b) > padMost+200 {
			large++
		}
		at := random.IntN(len(b))
		changed := bytes.Clone(b)
		changed[at] ^= 1 << random.IntN(8)
		if _, sound := read(changed); sound {
			t.Fatalf("byte %d was changed, and nobody noticed:\n%s\n%s", at, b, changed)
		}
		if _, sound := read(b[:at]); sound {
			t.Fatalf("%s was cut", b)
		}
	}
	if broken == 0 || large == 0 || large > 20 {
		t.Errorf("%d of 3000 payloads have a line break, %d are large", broken, large)
	}
	if _, sound := read(nil); sound {
		t.Error("nothing is sound")
	}
}

func TestPaceSpreadsOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(100)
		began := time.Now()
		for range burst + 1 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the burst took %s", took)
		}
		for range 100 {
			_ = p.wait(t.Context())
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("100 operations at 100 a second took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v after the end", err)
		}
		free := newPace(0)
		for range 1000 {
			_ = free.wait(t.Context())
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("without a limit 1000 operations took %s", took-time.Second)
		}
	})
}

func TestOwedCountsMessagesNotDevices(t *testing.T) {
	o := newOwed()
	o.add("a", 1)
	o.add("a", 2)
	want := func(n int) {
		t.Helper()
		if o.count() != n {
			t.Fatalf("%d in flight, want %d", o.count(), n)
		}
	}
	o.begin("early", "a") // gets there before its acknowledgement does
	o.begin("late", "a")
	want(2)
	o.got("early", 1)
	o.got("early", 1) // the same device again
	o.got("early", 3) // a device that is owed nothing
	want(2)
	o.got("early", 2)
	want(1)
	o.got("early", 2) // again, before the acknowledgement
	want(1)
	o.end("early", true)
	o.end("late", true)
	want(1)
	o.got("late", 2)
	o.got("late", 1)
	o.got("late", 1)
	want(0)
	o.begin("refused", "a")
	o.end("refused", false)
	want(0)
	o.got("refused", 1)
	o.begin("nobody's", "b")
	want(0)
	o.end("nobody's", true)
	if len(o.messages) != 0 {
		t.Errorf("%d messages are kept for nothing", len(o.messages))
	}
}

// pair is a line and its other end.
func pair(t *testing.T, keep time.Duration) (*network, *line, net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	n := newNetwork(keep)
	l, err := n.dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); n.close(); other.Close() })
	_ = other.SetDeadline(time.Now().Add(patienceOfTests))
	return n, l, other
}

func TestADeadLineIsSilentOnBothSides(t *testing.T) {
	n, l, other := pair(t, time.Hour)
	_, _ = other.Write([]byte("hello"))
	b := make([]byte, 10)
	if got, err := l.Read(b); string(b[:got]) != "hello" {
		t.Fatal(err)
	}
	l.die()
	_, _ = other.Write([]byte("nobody hears this"))
	if got, err := l.Write([]byte("lost")); got != 4 || err != nil {
		t.Errorf("writing on a dead line: %d, %v", got, err)
	}
	_ = l.SetDeadline(time.Now().Add(50 * time.Millisecond)) // as the handshake of the library does
	if _, err := l.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading from a dead line: %v", err)
	}
	_ = l.Close()
	_ = other.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := other.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the other end noticed: %v", err)
	}
	n.close()
	_ = other.SetReadDeadline(time.Now().Add(patienceOfTests))
	if _, err := other.Read(b); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what was left is open at the end: %v", err)
	}
}

func TestALineIsReset(t *testing.T) {
	_, l, other := pair(t, 0)
	l.reset()
	if _, err := other.Read(make([]byte, 1)); err == nil || err.Error() == "EOF" {
		t.Errorf("the other end saw %v", err)
	}
}

func TestASlowLineReadsLittleAtATime(t *testing.T) {
	_, l, other := pair(t, 0)
	_, _ = other.Write(make([]byte, 4*slowBytes))
	l.setSlow(true)
	began := time.Now()
	b := make([]byte, 4*slowBytes)
	for got := 0; got < len(b); {
		n, err := l.Read(b)
		if err != nil || n > slowBytes {
			t.Fatal(n, err)
		}
		got += n
	}
	if took := time.Since(began); took < 4*slowPause {
		t.Errorf("4 reads took %s", took)
	}
}

func TestARingGoesRoundAndSlowsDown(t *testing.T) {
	r := newRing([]string{"a", "b"}, rand.New(rand.NewPCG(1, 1)))
	r.at = 0
	for i := range 40 {
		pause := r.move(errors.New("no"), 0)
		if limit := min(firstPause<<min(i/2, 10), mostPause); pause >= limit {
			t.Errorf("failure %d: %s", i, pause)
		}
		if want := []string{"b", "a"}[i%2]; r.url() != want {
			t.Errorf("failure %d: %s is next", i, r.url())
		}
	}
	if pause := r.move(errors.New("no"), finePeriod); pause >= firstPause {
		t.Errorf("%s after a connection that was fine", pause)
	}
	one := newRing([]string{"a"}, rand.New(rand.NewPCG(1, 1)))
	if pause := one.move(&refusal{after: 3 * time.Second}, finePeriod); pause < 3*time.Second {
		t.Errorf("the only node asked for 3 s and is asked again after %s", pause)
	}
}
