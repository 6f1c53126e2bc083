package dispatch

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/service"
)

// stage names dispatch's leases on the partitions.
const stage = "dispatch"

// Service is one dispatch process. Any number may run: each partition has one owner among them.
type Service struct {
	id     string
	cfg    Config
	nc     *nats.Conn
	log    *slog.Logger
	faults *service.Faults
	ready  chan struct{}

	// Set once by Run before anything else starts.
	js      jetstream.JetStream
	table   *route.Table
	peers   *peers
	trials  *partition.Trials
	cache   cache
	reports *reports
}

// New makes a dispatch. It does no I/O.
func New(cfg Config, nc *nats.Conn, log *slog.Logger) (*Service, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	id := rand.Text()
	log = log.With("instance", id)
	return &Service{id: id, cfg: cfg, nc: nc, log: log, faults: service.NewFaults(log), ready: make(chan struct{})}, nil
}

// Ready is closed once the fabric exists and this process takes part in sharing its partitions out.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run routes until ctx ends. Then its partitions are handed over.
func (s *Service) Run(ctx context.Context) error {
	var err error
	if s.js, err = jetstream.New(s.nc); err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	facts, err := fabric.Wait(ctx, s.js)
	if err != nil {
		return fmt.Errorf("dispatch: wait for the fabric: %w", err)
	}
	if s.table, err = route.Open(s.cfg.Redis, facts.Epoch); err != nil {
		return fmt.Errorf("dispatch: -redis: %w", err)
	}
	defer s.table.Close()
	s.peers = newPeers(s)
	s.trials = partition.NewTrials(s.js, stage)
	s.reports = newReports(facts.Epoch)
	// Without endpoints: it only shows who is there.
	shown, err := micro.AddService(s.nc, micro.Config{
		Name: "weft-dispatch", Version: "0.1.0", Description: "routes", Metadata: map[string]string{"instance": s.id},
	})
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	defer func() { _ = shown.Stop() }() // fails on a connection that is gone
	own := partition.Config{Stage: stage, Instance: s.id, Partitions: facts.Partitions, Log: s.log}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.tend(ctx) })
	group.Go(func() error { return s.peers.probe(ctx) })
	ended := make(chan struct{})
	group.Go(func() error { return s.report(ctx, ended) })
	group.Go(func() error {
		defer close(ended)
		return partition.Own(ctx, s.js, own, s.own)
	})
	close(s.ready)
	return group.Wait()
}
