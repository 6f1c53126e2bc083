package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
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

// shutdown bounds how long an HTTP server waits for requests that are under way.
const shutdown = 5 * time.Second

// Main is the body of a service's main function: it parses base and the service's own part of the configuration,
// connects, makes the service with start and runs it until SIGINT or SIGTERM. It returns the exit status: 0 stopped
// as told, 1 failed, 2 wrong configuration.
func Main(name string, args []string, own Registrar, start func(ctx context.Context, nc *nats.Conn, log *slog.Logger) (Service, error)) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", name)
	var base Base
	if err := Parse("weft-"+name, args, &base, own); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, name, base, start, log)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // it was told to stop while it waited for something
	}
	if err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, name string, base Base, start func(context.Context, *nats.Conn, *slog.Logger) (Service, error), log *slog.Logger) error {
	nc, err := base.Connect(name, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	s, err := start(ctx, nc, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(ctx) })
	if base.Admin != "" {
		group.Go(func() error { return ServeAdmin(ctx, base.Admin, s) })
	}
	group.Go(func() error {
		select {
		case <-s.Ready():
			log.Info("ready")
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// ServeAdmin serves /healthz (the process answers) and /readyz (every service is ready: 200, else 503) until ctx
// ends.
func ServeAdmin(ctx context.Context, address string, services ...Service) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for _, s := range services {
			select {
			case <-s.Ready():
			default:
				http.Error(w, "starting", http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	return ServeHTTP(ctx, "admin", address, mux)
}

// ServeHTTP listens on address, which the flag named flagName gave, and serves until ctx ends; then it waits up to
// 5 s for requests that are under way.
func ServeHTTP(ctx context.Context, flagName, address string, handler http.Handler) error {
	l, err := Listen(flagName, address)
	if err != nil {
		return err
	}
	return Serve(ctx, l, handler)
}

// Serve is ServeHTTP for a service that has to know that it listens before it says that it is ready. It closes l.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
		defer cancel()
		return server.Shutdown(grace)
	})
	return group.Wait()
}
