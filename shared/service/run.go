package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// Service is one of Weft's services, made but not started.
type Service interface {
	// Run does the service's work until ctx ends or it can't go on, and returns when every goroutine of it has ended.
	Run(ctx context.Context) error
	// Ready is closed once the service does what it is for.
	Ready() <-chan struct{}
}

// Drainer is a service that gives its work away before it stops.
type Drainer interface {
	// Drain gives the work to others while Run goes on. Main calls it once, after SIGTERM, when readiness has failed; that
	// may be before Run is ready. It returns when nothing is left, when its own limit is over, or soon after ctx ended;
	// then Run's ctx ends. Its error is logged and changes nothing.
	Drain(ctx context.Context) error
}

// Refuser is a service that can be told, while it runs, to take no new work. It is not ready any more then.
type Refuser interface {
	Refuses() bool
}

const (
	// stopLimit bounds how long Run may take to return once its ctx has ended, whatever does not answer. With push's
	// drain of 10 s and its grace that stays below the 30 s after which Kubernetes kills.
	stopLimit = 15 * time.Second
)

// Main is the body of a service's main function: it parses base and the service's own part of the configuration,
// connects, makes the service with start and runs it until SIGINT or SIGTERM. Either fails readiness at once, and the
// admin server answers until Run has returned. SIGTERM lets the service drain first, where it is a Drainer; SIGINT
// stops it quickly, also when it comes during a drain. Main returns the exit status: 0 stopped as told, 1 failed or did
// not return within 15 s of its ctx's end, 2 wrong configuration.
func Main(name string, args []string, own Registrar, start Start) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", name)
	var base Base
	if err := Parse("weft-"+name, args, &base, own); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := newProcess(log, stopLimit).run(name, base, start, signals); err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

// Start makes a service on a connection that Main closes. ctx ends when the process is told to stop.
type Start func(ctx context.Context, nc *nats.Conn, log *slog.Logger) (Service, error)

// process is one run of Main.
type process struct {
	log      *slog.Logger
	limit    time.Duration // stopLimit
	started  chan Service  // has the service once it is made
	stopping chan struct{} // closed when the process was told to stop
	ended    chan struct{} // closed when run returns
}

func newProcess(log *slog.Logger, limit time.Duration) *process {
	return &process{log: log, limit: limit, started: make(chan Service, 1), stopping: make(chan struct{}), ended: make(chan struct{})}
}

func (p *process) run(name string, base Base, start Start, signals <-chan os.Signal) error {
	defer close(p.ended)
	nc, err := base.Connect(name, p.log)
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		defer stop()
		p.obey(signals)
	}()
	s, err := start(ctx, nc, p.log)
	if err != nil {
		return p.asTold(err)
	}
	p.started <- s
	served := make(chan error, 1)
	go func() { served <- p.serve(ctx, base.Admin, s) }()
	select {
	case err := <-served:
		return p.asTold(err)
	case <-ctx.Done():
	}
	select {
	case err := <-served:
		return p.asTold(err)
	case <-time.After(p.limit):
		return fmt.Errorf("it has not stopped within %s; what it still had under way is left to others", p.limit)
	}
}

// asTold is err, unless it only says that the process was told to stop while it waited for something.
func (p *process) asTold(err error) error {
	select {
	case <-p.stopping:
		if errors.Is(err, context.Canceled) {
			return nil
		}
	default:
	}
	return err
}

// obey waits for a signal, lets the service drain if that was SIGTERM, and returns when the service has to stop.
func (p *process) obey(signals <-chan os.Signal) {
	var told os.Signal
	select {
	case told = <-signals:
	case <-p.ended:
		return
	}
	close(p.stopping)
	p.log.Info("stopping", "signal", told.String())
	if told != syscall.SIGTERM {
		return
	}
	select {
	case s := <-p.started:
		if d, ok := s.(Drainer); ok {
			p.drain(d, signals)
		}
	default: // told before there was anything to drain
	}
}

// drain lets a service drain until it has finished, SIGINT comes, or the process ends by itself.
func (p *process) drain(d Drainer, signals <-chan os.Signal) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.Drain(ctx) }()
	for {
		select {
		case err := <-done:
			if err != nil {
				p.log.Warn("drained in part", "err", err)
			}
			return
		case told := <-signals:
			if told == os.Interrupt {
				return
			}
		case <-p.ended:
			return
		}
	}
}

// serve runs a service, and the admin server until the service has ended.
func (p *process) serve(ctx context.Context, admin string, s Service) error {
	over, end := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer end()
		return s.Run(ctx)
	})
	if admin != "" {
		group.Go(func() error { return serveAdmin(over, admin, p.stopping, s) })
	}
	group.Go(func() error {
		select {
		case <-s.Ready():
			p.log.Info("ready")
		case <-over.Done():
		}
		return nil
	})
	return group.Wait()
}

// ServeAdmin serves /healthz (the process answers) and /readyz (every service is ready: 200, else 503) until ctx
// ends.
func ServeAdmin(ctx context.Context, address string, services ...Service) error {
	return serveAdmin(ctx, address, nil, services...)
}

// serveAdmin is ServeAdmin for a process that is not ready any more once stopping is closed.
func serveAdmin(ctx context.Context, address string, stopping <-chan struct{}, services ...Service) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-stopping:
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		default:
		}
		for _, s := range services {
			select {
			case <-s.Ready():
			default:
				http.Error(w, "starting", http.StatusServiceUnavailable)
				return
			}
			if r, ok := s.(Refuser); ok && r.Refuses() {
				http.Error(w, "drained", http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	return ServeHTTP(ctx, "admin", address, mux)
}
