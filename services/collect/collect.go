package collect

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/mongodb"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// stage names collect's leases on the partitions.
	stage = "collect"
	// maxPayload is the largest limit that -max-payload may set, in bytes: pages of history and quarantined originals
	// must fit a NATS message of 1 MiB, the server's default, with room for what is around them.
	maxPayload = 768 << 10
	// handlers is how many requests of one endpoint are worked on at once; the next one waits in the subscription. Each
	// endpoint has its own: publishers who wait for a slow owner must not keep nodes from reading history.
	handlers = 256
)

// Service is one collect process. Any number may run: each partition has one owner among them.
type Service struct {
	id     string
	cfg    Config
	nc     *nats.Conn
	log    *slog.Logger
	faults *service.Faults
	ready  chan struct{}

	// Through which receipts and events are published. Each has its own bound for what is under way, so that one whose
	// stream hangs keeps up neither the log nor the other.
	receipts, events jetstream.JetStream

	// Set once by Run before anything else starts.
	js      jetstream.JetStream
	archive archive.Archive
	table   *route.Table
	trials  *partition.Trials

	// One for each kind: while another process holds SQLite's lock, mailboxes can be read and devices not opened.
	fuses struct{ read, open, heads fuse }

	owned owned

	requests requests
	posts    chan struct{} // a place for each POST and each call that is worked on
	streams  chan struct{} // a place for each PublishStream
	streamed chan struct{} // a place for each message of them that is worked on
}

// New makes a collect. It does no I/O.
func New(cfg Config, nc *nats.Conn, log *slog.Logger) (*Service, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	receipts, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(publishTimeout))
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	events, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(publishTimeout))
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	id := rand.Text()
	log = log.With("instance", id)
	return &Service{
		receipts: receipts, events: events,
		id: id, cfg: cfg, nc: nc, log: log, faults: service.NewFaults(log),
		ready: make(chan struct{}), posts: make(chan struct{}, postsAtOnce),
		streams: make(chan struct{}, streamsAtOnce), streamed: make(chan struct{}, streamedAtOnce),
	}, nil
}

// Ready is closed once the fabric exists and the doors are open. Which partitions this process owns changes with
// those that run beside it.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run takes messages in until ctx ends. Then its partitions are handed over, and what was read and not finished is
// read again by their next owners.
func (s *Service) Run(ctx context.Context) error {
	a, err := s.openArchive(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.runOn(ctx, a), a.Close())
}

// runOn works on an open archive until ctx ends.
func (s *Service) runOn(ctx context.Context, a archive.Archive) (err error) {
	s.archive = a
	// Without a time-out an answer of the log that got lost would stay counted as pending for ever, and after 4,000 of
	// them nothing could be published any more.
	if s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncTimeout(publishTimeout)); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	s.trials = partition.NewTrials(s.js, stage)
	facts := a.Facts()
	if err := s.createFabric(ctx, fabric.Facts{Epoch: facts.Epoch, Partitions: facts.Partitions}); err != nil {
		return err
	}
	if s.table, err = route.Open(s.cfg.Redis, facts.Epoch); err != nil {
		return fmt.Errorf("collect: -redis: %w", err)
	}
	defer s.table.Close()
	return s.serve(ctx, facts.Partitions)
}

// serve opens the doors and works until ctx ends.
func (s *Service) serve(ctx context.Context, partitions int) error {
	group, ctx := errgroup.WithContext(ctx)
	endpoints, err := s.serveEndpoints(ctx)
	if err != nil {
		return err
	}
	own := partition.Config{Stage: stage, Instance: s.id, Partitions: partitions, Log: s.log}
	desk, err := s.desk().Serve(ctx)
	if err != nil {
		return errors.Join(err, endpoints.Stop())
	}
	group.Go(func() error { return partition.Own(ctx, s.js, own, s.owning) })
	for _, k := range s.kinds() {
		group.Go(func() error { return s.readReports(ctx, k) })
	}
	if s.cfg.Listen != "" {
		group.Go(func() error { return service.ServeHTTP(ctx, "listen", s.cfg.Listen, s.httpDoor(ctx)) })
	}
	group.Go(func() error {
		<-ctx.Done()
		err := errors.Join(endpoints.Stop(), desk.Stop())
		s.requests.end()
		return err
	})
	close(s.ready)
	return group.Wait()
}

// openArchive opens the archive that the configuration names, and waits for one that does not answer yet. Another
// number of partitions than the archive was made with is final.
func (s *Service) openArchive(ctx context.Context) (archive.Archive, error) {
	facts := archive.Facts{Partitions: s.cfg.Partitions}
	for {
		a, err := Open(ctx, s.cfg.Archive, facts)
		if err == nil {
			return a, nil
		}
		if errors.Is(err, archive.ErrPartitions) || errors.Is(err, archive.ErrAddress) || ctx.Err() != nil {
			return nil, fmt.Errorf("collect: -archive: %w", err)
		}
		s.faults.Note("open the archive", err)
		if !pause(ctx) {
			return nil, ctx.Err()
		}
	}
}

// Open opens the archive that address names: mongodb://host/database (weft, if none is named) or sqlite:path.
func Open(ctx context.Context, address string, facts archive.Facts) (archive.Archive, error) {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok && path != "" {
		return sqlite.Open(ctx, path, facts)
	}
	if strings.HasPrefix(address, "mongodb://") || strings.HasPrefix(address, "mongodb+srv://") {
		return mongodb.Open(ctx, address, "", facts)
	}
	return nil, archive.ErrAddress
}

// createFabric makes the streams, waiting for JetStream if it does not answer yet. Another number of partitions and a
// server that takes too small messages are final.
func (s *Service) createFabric(ctx context.Context, facts fabric.Facts) error {
	for {
		err := nats.ErrDisconnected
		if s.nc.IsConnected() { // else the server's limits are not known
			err = fabric.Create(ctx, s.js, facts, fabric.Options{Replicas: s.cfg.Replicas, MaxPayload: s.nc.MaxPayload()})
		}
		if err == nil {
			return nil
		}
		final := errors.Is(err, &problem.Problem{Code: problem.WrongPartition}) || errors.Is(err, &problem.Problem{Code: problem.Unsupported})
		if final || ctx.Err() != nil {
			return fmt.Errorf("collect: %w", err)
		}
		s.faults.Note("create the streams", err)
		if !pause(ctx) {
			return ctx.Err()
		}
	}
}

// serveEndpoints opens the request door and the history service as a NATS micro service.
func (s *Service) serveEndpoints(ctx context.Context) (micro.Service, error) {
	m, err := micro.AddService(s.nc, micro.Config{
		Name: "weft-collect", Version: "0.1.0", Description: "takes messages in, keeps mailboxes",
		Metadata: map[string]string{"instance": s.id},
	})
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	for name, e := range map[string]struct {
		subject string
		handle  micro.HandlerFunc
	}{
		"publish": {subject.PublishAll, func(r micro.Request) { s.takeRequest(ctx, r) }},
		"read":    {subject.HistoryRead, func(r micro.Request) { s.read(ctx, r) }},
		"open":    {subject.HistoryOpen, rpc.Handle(s.opener(ctx))},
		"heads":   {subject.HistoryHeads, rpc.Handle(s.header(ctx))},
	} {
		if err := m.AddEndpoint(name, s.concurrently(e.handle), micro.WithEndpointSubject(e.subject)); err != nil {
			return nil, errors.Join(fmt.Errorf("collect: %s: %w", e.subject, err), m.Stop())
		}
	}
	return m, nil
}

// concurrently handles up to `handlers` requests of an endpoint at once.
func (s *Service) concurrently(handle micro.HandlerFunc) micro.HandlerFunc {
	free := make(chan struct{}, handlers)
	return func(r micro.Request) {
		free <- struct{}{} // handlers end soon after ctx, so this never waits for long
		started := s.requests.start(func() {
			defer func() { <-free }()
			handle(detached{Request: r, nc: s.nc})
		})
		if !started {
			<-free
			rpc.Refuse(r, problem.New(problem.Unavailable, "this collect is stopping; ask again"))
		}
	}
}

// detached is a request whose handler goes on after the endpoint has returned. Then micro looks whether the answer was
// an error, so answers must not go through it.
type detached struct {
	micro.Request
	nc *nats.Conn
}

func (d detached) Respond(data []byte, options ...micro.RespondOpt) error {
	m := &nats.Msg{Subject: d.Reply(), Data: data}
	for _, set := range options {
		set(m)
	}
	return d.nc.PublishMsg(m)
}

func (d detached) RespondJSON(v any, options ...micro.RespondOpt) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return d.Respond(data, options...)
}

func (d detached) Error(code, description string, data []byte, options ...micro.RespondOpt) error {
	header := micro.Headers{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {description}}
	return d.Respond(data, append(options, micro.WithHeaders(header))...)
}

// requests are the handlers at work. The subscriptions that start them are drained in the background, so some come
// when the service has stopped already.
type requests struct {
	working sync.WaitGroup

	mu    sync.Mutex // protects ended, and orders start before end's wait
	ended bool
}

// start runs a handler in a goroutine, unless the service has stopped.
func (r *requests) start(handle func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.working.Go(handle)
	return true
}

// end waits for the handlers and lets no other start.
func (r *requests) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.working.Wait()
}

// pause waits for retryAfter and says whether ctx still runs.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retryAfter):
		return true
	}
}
