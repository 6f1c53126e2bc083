package client

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/protocol"
)

// slow is a Subscriber whose handler has one message after the other, each until it is let go.
type slow struct {
	*Subscriber

	has    chan Message // a message is with the handler
	result chan error   // lets it go
	status chan Status
	ended  chan error
	stop   context.CancelFunc
}

func runSlow(t *testing.T, url string, change func(*Options)) *slow {
	t.Helper()
	s := &slow{has: make(chan Message), result: make(chan error), status: make(chan Status, 100), ended: make(chan error, 1)}
	options := Options{
		URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil },
		OnStatus: func(status Status) { s.status <- status },
	}
	if change != nil {
		change(&options)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	var err error
	if s.Subscriber, err = Dial(ctx, options); err != nil {
		stop()
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		s.ended <- s.Run(ctx, func(ctx context.Context, m Message) error {
			select {
			case s.has <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case err := <-s.result:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return s
}

// online waits for so many welcomes.
func (s *slow) online(t *testing.T, times int) {
	t.Helper()
	for times > 0 {
		if status := receive(t, s.status); status.Online {
			times--
		}
	}
}

// handed takes a message and lets it go.
func (s *slow) handed(t *testing.T, seq uint64) {
	t.Helper()
	if m := receive(t, s.has); m.Seq != seq {
		t.Fatalf("the handler has %d, want %d", m.Seq, seq)
	}
	s.result <- nil
}

// The connection ends while the handler has 1 and 2 is queued. The device comes back at once, and both come again.
func TestAConnectionThatEndsWhileTheHandlerWorks(t *testing.T) {
	resent, more := make(chan struct{}), make(chan struct{})
	url := serve(t,
		func(p *peer) {
			p.welcome(1)
			p.send(msg(1), msg(2))
			_, _ = p.read() // nothing, to its end
		},
		func(p *peer) {
			if p.hello.Cursors["user:alice"] != 0 {
				t.Errorf("the second hello says %v", p.hello.Cursors)
			}
			p.welcome(1)
			// An acknowledgement before 1 was sent here would break the protocol.
			<-more
			p.send(`{"t":"ping"}`)
			if o, ok := p.read(); !ok || o.T != protocol.TPong {
				t.Errorf("before 1 was sent on this connection the client says %+v", o)
			}
			p.send(msg(1), msg(2), msg(3))
			close(resent)
			p.acked("", 3)
			p.gone()
		})
	var first *stuck
	s := runSlow(t, url, func(o *Options) { o.NetDial = dialStuck(&first) })
	t.Cleanup(func() { _ = first.Close() })
	if m := receive(t, s.has); m.Seq != 1 {
		t.Fatal(m)
	}
	_ = first.Conn.Close()
	s.online(t, 2) // while the handler works
	s.result <- nil
	if m := receive(t, s.has); m.Seq != 2 { // it was queued
		t.Fatal(m)
	}
	// 1 is saved by now or soon: the acknowledgement has to wait for the session all the same.
	if err := s.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(more)
	receive(t, resent)
	s.result <- nil
	s.handed(t, 3)
	s.stop()
	if err := receive(t, s.ended); err != nil {
		t.Error(err)
	}
}

// A server that falls silent is left although the handler works, and the retries of the handler go on.
func TestSilenceIsNoticedWhileTheHandlerWorks(t *testing.T) {
	url := serve(t,
		func(p *peer) {
			w := welcome("e", map[string]uint64{"user:alice": 1})
			w.Heartbeat = 20
			p.welcomeTo(w)
			p.send(msg(1))
			p.gone()
		},
		func(p *peer) {
			p.welcome(1)
			p.send(msg(1))
			p.acked("", 1)
			p.gone()
		})
	s := runSlow(t, url, nil)
	receive(t, s.has)
	s.online(t, 2)
	began := time.Now()
	s.result <- errBusy
	s.handed(t, 1)
	if took := time.Since(began); took < failedPauses[0] {
		t.Errorf("it was handed over again after %s", took)
	}
	s.stop()
	if err := receive(t, s.ended); err != nil {
		t.Error(err)
	}
}

// The watchdog leaves time for what a loaded machine adds, and not much more.
func TestASilentServerHasTwoHeartbeatsAndALittle(t *testing.T) {
	for heartbeat, want := range map[int64]time.Duration{20_000: 42 * time.Second, 100: 250 * time.Millisecond} {
		got := make(chan time.Duration, 1)
		url := serve(t, func(p *peer) {
			w := welcome("e", map[string]uint64{"user:alice": 1})
			w.Heartbeat = heartbeat
			p.welcomeTo(w)
			p.gone()
		})
		s, err := Dial(t.Context(), Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
		if err != nil {
			t.Fatal(err)
		}
		got <- s.first.silence
		s.Close()
		if silence := <-got; silence != want {
			t.Errorf("heartbeats of %d ms: %s, want %s", heartbeat, silence, want)
		}
	}
}

// What the handler had when the archive was restored says nothing of the new numbers.
func TestAnEpochThatEndsWhileTheHandlerWorks(t *testing.T) {
	var first *stuck
	url := serve(t,
		func(p *peer) { p.welcome(100); p.send(msg(100), msg(101)); p.gone() },
		func(p *peer) {
			p.welcomeTo(welcome("restored", map[string]uint64{"user:alice": 3}))
			p.send(msg(3))
			p.acked("", 3)
			p.gone()
		})
	s := runSlow(t, url, func(o *Options) { o.NetDial = dialStuck(&first) })
	t.Cleanup(func() { _ = first.Close() })
	if m := receive(t, s.has); m.Seq != 100 {
		t.Fatal(m)
	}
	_ = first.Conn.Close()
	s.online(t, 2)
	s.result <- nil
	s.handed(t, 3) // 101 of the old epoch is nobody's any more
	s.stop()
	if err := receive(t, s.ended); err != nil {
		t.Error(err)
	}
}

// The queue is full: what could not be queued when the connection ended comes again, and is news then.
func TestAFullQueueLosesNothing(t *testing.T) {
	s := device(t, Options{})
	s.events = make(chan event, 1)
	alive, end := context.WithCancelCause(t.Context())
	parsed := func(seq uint64) object {
		o, err := parse([]byte(msg(seq)))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	if err := s.queue(alive, parsed(7)); err != nil {
		t.Fatal(err)
	}
	end(errBusy)
	if err := s.queue(alive, parsed(8)); !errors.Is(err, errBusy) {
		t.Errorf("8 in a full queue: %v", err)
	}
	s.ledger.end()
	s.ledger.begin(welcome("e", map[string]uint64{"user:alice": 7}))
	<-s.events
	for i, seq := range []uint64{7, 8} { // 8 is news
		if err := s.queue(t.Context(), parsed(seq)); err != nil || len(s.events) != i {
			t.Errorf("%d again: %v, %d in the queue", seq, err, len(s.events))
		}
	}
}

// A handler that ignores the end of its context is waited for, and what it did is acknowledged.
func TestTheLastMessageIsAcknowledgedAlthoughTheHandlerIsSlow(t *testing.T) {
	acked := make(chan struct{})
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1))
		p.acked("", 1)
		close(acked)
		p.gone()
	})
	has, release := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s, err := Dial(ctx, Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, func(context.Context, Message) error { close(has); <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	receive(t, has)
	stop()
	close(release)
	running.Wait()
	receive(t, acked)
}

// Run ends while there is no connection, and then the handler returns: what it did is in the store.
func TestTheLastMessageIsSavedWithoutAConnection(t *testing.T) {
	url := serve(t, func(p *peer) { p.welcome(1); p.send(msg(1)) })
	has, release, away := make(chan struct{}), make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cursors, tokens := new(Memory), 0
	s, err := Dial(ctx, Options{URL: url, Device: "d", Cursors: cursors, Token: func(ctx context.Context) (string, error) {
		if tokens++; tokens == 1 {
			return "token", nil
		}
		close(away)
		<-ctx.Done()
		return "", ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, func(context.Context, Message) error { close(has); <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	receive(t, has)
	receive(t, away)
	stop()
	close(release)
	running.Wait()
	if state, _ := cursors.Load(t.Context()); state.Cursors["user:alice"] != 1 {
		t.Errorf("the store has %+v", state)
	}
}

// Whatever ends the handler, Run leaves nothing behind; TestMain would find it.
func TestAPanicInTheHandlerLeavesNothingBehind(t *testing.T) {
	url := serve(t, func(p *peer) { p.welcome(1); p.send(msg(1)); p.gone() })
	s, err := Dial(t.Context(), Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() != "oops" {
			t.Error("the panic was lost")
		}
		if err := s.Subscribe(t.Context(), "news"); !errors.Is(err, ErrEnded) {
			t.Errorf("Run has ended, and Subscribe says %v", err)
		}
		if err := s.Run(t.Context(), nil); !errors.Is(err, ErrEnded) {
			t.Errorf("a second Run: %v", err)
		}
	}()
	_ = s.Run(t.Context(), func(context.Context, Message) error { panic("oops") })
}

func TestMessagesAsALoop(t *testing.T) {
	cursors := new(Memory)
	options := func(url string) Options {
		return Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }, Cursors: cursors}
	}
	acked := make(chan struct{}, 1)
	url := serve(t,
		func(p *peer) { p.welcome(1); p.send(msg(1), msg(2), msg(3)); p.acked("", 2); signal(acked); p.gone() },
		func(p *peer) {
			if want := map[string]uint64{"user:alice": 2}; !maps.Equal(p.hello.Cursors, want) {
				t.Errorf("the loop was left at 3, and the hello says %v", p.hello.Cursors)
			}
			p.welcome(3)
			p.send(msg(3))
			p.acked("", 3)
			p.close(protocol.CloseReplaced)
			p.gone()
		})
	s, err := Dial(t.Context(), options(url))
	if err != nil {
		t.Fatal(err)
	}
	want := uint64(1)
	for m, err := range s.Messages(t.Context()) {
		if err != nil || m.Seq != want {
			t.Fatalf("got %d, %v; want %d", m.Seq, err, want)
		}
		if want++; m.Seq == 3 {
			break
		}
	}
	receive(t, acked)
	if s, err = Dial(t.Context(), options(url)); err != nil {
		t.Fatal(err)
	}
	var last error
	for m, err := range s.Messages(t.Context()) {
		if last = err; err == nil && m.Seq != 3 {
			t.Errorf("got %d, want 3", m.Seq)
		}
	}
	if closed, ok := errors.AsType[*Closed](last); !ok || closed.Code != protocol.CloseReplaced {
		t.Errorf("the loop ended with %v", last)
	}
}

func TestALoopEndsWithItsContext(t *testing.T) {
	url := serve(t, func(p *peer) { p.welcome(1); p.send(msg(1)); p.gone() })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s, err := Dial(ctx, Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	for m, err := range s.Messages(ctx) {
		if err != nil || m.Seq != 1 {
			t.Errorf("got %d, %v", m.Seq, err)
		}
		stop()
	}
}
