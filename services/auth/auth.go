package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// Name and version as `nats micro ls` shows them.
const (
	serviceName    = "weft-auth"
	serviceVersion = "0.1.0"
)

// Service verifies tokens on NATS.
type Service struct {
	nc     *nats.Conn
	log    *slog.Logger
	keys   keyring
	signer *Key // nil where tokens are not issued
	ready  chan struct{}
}

// New reads the keys and speaks to no network. Run may be called once.
func New(cfg Config, nc *nats.Conn, log *slog.Logger) (*Service, error) {
	if cfg.Keys == "" {
		return nil, errors.New("-auth-keys is not set; name a key file or a folder of them")
	}
	keys, err := LoadKeys(cfg.Keys)
	if err != nil {
		return nil, fmt.Errorf("-auth-keys: %w", err)
	}
	ring, err := newKeyring(keys, cfg.Keys)
	if err != nil {
		return nil, err
	}
	s := &Service{nc: nc, log: log, keys: ring, ready: make(chan struct{})}
	if cfg.Issue {
		key, err := signer(keys, cfg.Keys)
		if err != nil {
			return nil, fmt.Errorf("-auth-issue: %w", err)
		}
		s.signer = &key
	}
	return s, nil
}

// Ready is closed once the server has the subscriptions.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run answers until ctx ends, then takes no more questions and answers those it has.
func (s *Service) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	service, err := micro.AddService(s.nc, micro.Config{
		Name: serviceName, Version: serviceVersion, Description: "verifies tokens: who you are and what you may do",
		DoneHandler: func(micro.Service) { close(stopped) },
	})
	if err != nil {
		return fmt.Errorf("auth: start: %w", err)
	}
	if err := s.serve(ctx, service, stopped); err != nil {
		return errors.Join(err, service.Stop())
	}
	if err := service.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("auth: stop: %w", err)
	}
	return nil
}

// serve adds the endpoints, reports readiness and waits for the end.
func (s *Service) serve(ctx context.Context, service micro.Service, stopped <-chan struct{}) error {
	if err := s.endpoints(service); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if s.signer != nil {
		s.log.Warn("tokens are given to whoever asks on NATS (-auth-issue): for the demo only")
	}
	if ctx.Err() == nil {
		close(s.ready)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-stopped: // an endpoint failed for good, or the connection was closed
		return errors.New("auth: the NATS service has stopped")
	}
}

func (s *Service) endpoints(service micro.Service) error {
	verify := rpc.Handle(func(ask identity.VerifyRequest) (*identity.Identity, error) {
		return s.keys.verify(ask.Token, time.Now())
	})
	if err := service.AddEndpoint("verify", verify, micro.WithEndpointSubject(subject.AuthVerify)); err != nil {
		return fmt.Errorf("endpoint %s: %w", subject.AuthVerify, err)
	}
	if s.signer == nil {
		return nil
	}
	issue := rpc.Handle(func(ask IssueRequest) (*IssueAnswer, error) { return issue(*s.signer, ask) })
	if err := service.AddEndpoint("issue", issue, micro.WithEndpointSubject(subject.AuthIssue)); err != nil {
		return fmt.Errorf("endpoint %s: %w", subject.AuthIssue, err)
	}
	return nil
}

// flush waits until the server has seen the subscriptions, through as many reconnects as it takes.
func (s *Service) flush(ctx context.Context) error {
	for ctx.Err() == nil {
		seen, err := s.tryFlush(ctx)
		if seen || err != nil {
			return err
		}
	}
	return nil
}

// tryFlush takes a second to fail, also where the flush itself fails at once, so that its caller may loop.
func (s *Service) tryFlush(ctx context.Context) (seen bool, err error) {
	attempt, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.nc.FlushWithContext(attempt); err == nil {
		return true, nil
	}
	if s.nc.IsClosed() {
		return false, fmt.Errorf("auth: %w", nats.ErrConnectionClosed)
	}
	<-attempt.Done()
	return false, nil
}
