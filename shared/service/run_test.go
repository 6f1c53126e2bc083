package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// patience bounds every wait; nothing takes that long unless it is broken.
const patience = 20 * time.Second

// fake is a service that tells what happens to it and waits to be let go.
type fake struct {
	ready    chan struct{}
	events   chan string   // what was called, in order
	drained  chan struct{} // Drain returns
	let      chan struct{} // Run returns after its ctx has ended
	drainErr error
}

func newFake() *fake {
	f := &fake{ready: make(chan struct{}), events: make(chan string, 10), drained: make(chan struct{}), let: make(chan struct{})}
	close(f.ready)
	return f
}

func (f *fake) Ready() <-chan struct{} { return f.ready }

func (f *fake) Run(ctx context.Context) error {
	f.events <- "run"
	<-ctx.Done()
	f.events <- "end"
	<-f.let
	return ctx.Err()
}

// drainer is a fake that drains.
type drainer struct{ *fake }

func (d drainer) Drain(ctx context.Context) error {
	d.events <- "drain"
	select {
	case <-d.drained:
	case <-ctx.Done():
	}
	return d.drainErr
}

// world is a process that runs a fake service, without a NATS server: nobody asks for one.
type world struct {
	t       *testing.T
	admin   string
	signals chan os.Signal
	ended   chan error
}

func start(t *testing.T, limit time.Duration, s Service) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, admin: l.Addr().String(), signals: make(chan os.Signal, 4), ended: make(chan error, 1)}
	_ = l.Close()
	p := newProcess(slog.New(slog.DiscardHandler), limit)
	base := Base{NATS: "nats://127.0.0.1:1", Admin: w.admin}
	go func() {
		w.ended <- p.run("test", base, func(context.Context, *nats.Conn, *slog.Logger) (Service, error) { return s, nil }, w.signals)
	}()
	return w
}

func (f *fake) want(t *testing.T, event string) {
	t.Helper()
	select {
	case got := <-f.events:
		if got != event {
			t.Fatalf("%q happened; want %q", got, event)
		}
	case <-time.After(patience):
		t.Fatalf("waited in vain for %q", event)
	}
}

// readyz waits until the admin server answers so.
func (w *world) readyz(status int, text string) {
	w.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		got, body := 0, []byte{}
		response, err := client.Get("http://" + w.admin + "/readyz")
		if err == nil {
			got = response.StatusCode
			body, _ = io.ReadAll(response.Body)
			_ = response.Body.Close()
		}
		if got == status && strings.TrimSpace(string(body)) == text {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("/readyz answers %d %q, %v; want %d %q", got, body, err, status, text)
		}
	}
}

func (w *world) wait() error {
	w.t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(patience):
		w.t.Fatal("the process does not end")
		return nil
	}
}

// TestSIGTERMFailsReadinessThenDrainsThenStops, and the admin server answers to the end.
func TestSIGTERMFailsReadinessThenDrainsThenStops(t *testing.T) {
	f := newFake()
	f.drainErr = errors.New("some were left") // is logged, no more
	w := start(t, patience, drainer{f})
	w.readyz(http.StatusOK, "ready")
	f.want(t, "run")
	w.signals <- syscall.SIGTERM
	f.want(t, "drain")
	w.readyz(http.StatusServiceUnavailable, "stopping")
	w.signals <- syscall.SIGTERM // impatience of a supervisor is no reason to drop anybody
	w.readyz(http.StatusServiceUnavailable, "stopping")
	select {
	case e := <-f.events:
		t.Fatalf("%q happened while the service drains", e)
	default:
	}
	close(f.drained)
	f.want(t, "end")
	w.readyz(http.StatusServiceUnavailable, "stopping")
	close(f.let)
	if err := w.wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// TestSIGINTStopsAtOnce, also during a drain.
func TestSIGINTStopsAtOnce(t *testing.T) {
	for _, drains := range []bool{false, true} {
		f := newFake()
		close(f.let)
		w := start(t, patience, drainer{f})
		f.want(t, "run")
		if drains {
			w.signals <- syscall.SIGTERM
			f.want(t, "drain")
		}
		w.signals <- os.Interrupt
		f.want(t, "end")
		if err := w.wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
}

// TestAServiceThatDoesNotDrainIsStoppedBySIGTERM with readiness failed until Run has returned.
func TestAServiceThatDoesNotDrainIsStoppedBySIGTERM(t *testing.T) {
	f := newFake()
	w := start(t, patience, f)
	f.want(t, "run")
	w.signals <- syscall.SIGTERM
	f.want(t, "end")
	w.readyz(http.StatusServiceUnavailable, "stopping")
	close(f.let)
	if err := w.wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// TestAServiceThatHangsIsLeft after its limit, with an error.
func TestAServiceThatHangsIsLeft(t *testing.T) {
	f := newFake()
	w := start(t, 50*time.Millisecond, f)
	f.want(t, "run")
	w.signals <- os.Interrupt
	if err := w.wait(); err == nil || !strings.Contains(err.Error(), "has not stopped within 50ms") {
		t.Errorf("it ended with %v", err)
	}
	close(f.let)
	w.gone()
}

// gone waits until the admin server of a service that was left has ended as well.
func (w *world) gone() {
	w.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		conn, err := net.Dial("tcp", w.admin)
		if err != nil {
			return
		}
		_ = conn.Close()
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatal("the admin server goes on")
		}
	}
}

// broken fails by itself.
type broken struct{ *fake }

func (b broken) Run(context.Context) error { return errors.New("broken") }

// TestAServiceThatFailsEndsTheProcess though nobody told it to stop.
func TestAServiceThatFailsEndsTheProcess(t *testing.T) {
	w := start(t, patience, broken{newFake()})
	if err := w.wait(); err == nil || err.Error() != "broken" {
		t.Errorf("it ended with %v", err)
	}
	w = start(t, patience, canceled{newFake()})
	if err := w.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v; nobody told it to", err)
	}
}

type canceled struct{ *fake }

func (c canceled) Run(context.Context) error { return context.Canceled }

// refuser is a fake that can be told to take no new work.
type refuser struct {
	*fake
	refuses *atomic.Bool
}

func (r refuser) Refuses() bool { return r.refuses.Load() }

// TestAServiceThatRefusesIsNotReady, and goes on.
func TestAServiceThatRefusesIsNotReady(t *testing.T) {
	r := refuser{newFake(), new(atomic.Bool)}
	w := start(t, patience, r)
	r.want(t, "run")
	w.readyz(http.StatusOK, "ready")
	r.refuses.Store(true)
	w.readyz(http.StatusServiceUnavailable, "drained")
	w.signals <- os.Interrupt
	r.want(t, "end")
	close(r.let)
	if err := w.wait(); err != nil {
		t.Error(err)
	}
}
