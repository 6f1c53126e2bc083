package push

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/service"
)

// Service is one push node. Its id is new at every start: nothing that was meant for an earlier process of the same
// machine can reach this one.
type Service struct {
	id       string
	cfg      Config
	nc       *nats.Conn
	greeting time.Duration // greetTimeout
	keeping  time.Duration // keepEvery
	log      *slog.Logger
	faults   *service.Faults
	ready    chan struct{}

	// Set once by Run before anything else starts.
	epoch string
	table *route.Table
	acks  *acknowledger

	listener net.Listener // of the HTTP server

	hub      *hub
	presence *presence
	fills    *fillQueue
	shared   singleflight.Group // reads of shared addresses under way
	sweeping chan struct{}      // has room for one: sweep now

	counts  counts
	started time.Time

	tasks sync.WaitGroup // readers and writers of connections
	pulse *pulse
	gate  *gate

	until   atomic.Int64  // ms since 1970: when clients have to be gone; 0 unless the node drains
	emptied chan struct{} // closed by empty when the last session has left a node that drains
	empty   func()

	mu       sync.Mutex          // protects sessions and closing
	sessions map[string]*session // open ones, by id
	closing  bool                // no session may open any more
}

// New makes a node. It does no I/O.
func New(cfg Config, nc *nats.Conn, log *slog.Logger) (*Service, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	id := rand.Text()
	log = log.With("node", id)
	emptied := make(chan struct{})
	return &Service{
		id: id, cfg: cfg, nc: nc, log: log, greeting: greetTimeout, keeping: keepEvery,
		faults:   service.NewFaults(log),
		ready:    make(chan struct{}),
		started:  time.Now(),
		hub:      newHub(),
		presence: newPresence(),
		fills:    newFillQueue(),
		sweeping: make(chan struct{}, 1),
		sessions: make(map[string]*session),
		pulse:    newPulse(),
		gate:     newGate(arrivalsMost, openMost, turnWait),
		emptied:  emptied,
		empty:    sync.OnceFunc(func() { close(emptied) }),
	}, nil
}

// Ready is closed once the node takes frames and connections.
func (n *Service) Ready() <-chan struct{} { return n.ready }

// Run serves connections until ctx ends. Then every session is told to go elsewhere, what was acknowledged is handed
// over, and the node's routes and lease are removed.
func (n *Service) Run(ctx context.Context) error {
	js, err := jetstream.New(n.nc)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	facts, err := fabric.Wait(ctx, js)
	if err != nil {
		return fmt.Errorf("push: wait for the fabric: %w", err)
	}
	n.epoch = facts.Epoch
	if n.table, err = route.Open(n.cfg.Redis, facts.Epoch); err != nil {
		return fmt.Errorf("push: -redis: %w", err)
	}
	defer n.table.Close()
	n.acks = newAcknowledger(n.id, n.epoch, js, n.table, n.faults)

	// Before anything starts: the node is ready only when clients can connect.
	n.listener, err = service.Listen("listen", n.cfg.Listen) //nolint:contextcheck // a bind on an address of ours does not wait
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	stop, err := n.listen()
	if err != nil {
		return errors.Join(err, n.listener.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	// Three outlive the sessions: the acknowledger, which hands their last acknowledgements over, the watch, which cuts
	// those that are slow to end, and the reporter of presence, which says that all have gone.
	lateCtx, end := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return n.acks.run(lateCtx) })
	group.Go(func() error { return n.watch(lateCtx) })
	group.Go(func() error { return n.reportPresence(lateCtx, js) })
	group.Go(func() error { return n.keep(ctx) })
	for range fillers {
		group.Go(func() error { return n.fillLanes(ctx) })
	}
	served := make(chan struct{})
	group.Go(func() error {
		defer close(served)
		return service.ServeStreams(ctx, n.listener, n.handler(ctx), 2*n.cfg.Heartbeat)
	})
	group.Go(func() error {
		<-ctx.Done()
		stop()
		n.closeAll()
		<-served // from here on no connection begins
		n.tasks.Wait()
		end()
		return nil
	})
	return group.Wait()
}

// admit enters a session, unless the node is closing.
func (n *Service) admit(s *session) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing || n.until.Load() != 0 {
		return false
	}
	n.sessions[s.id] = s
	return true
}

// dismiss removes a session.
func (n *Service) dismiss(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sessions, s.id)
	n.noteEmpty()
}

// session finds an open session of this node.
func (n *Service) session(id string) *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions[id]
}

// all is every open session.
func (n *Service) all() []*session {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]*session, 0, len(n.sessions))
	for _, s := range n.sessions {
		list = append(list, s)
	}
	return list
}

// closeAll ends every session and lets no new one open.
func (n *Service) closeAll() {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	for _, s := range n.all() {
		s.finish(protocol.CloseDraining, leaving())
	}
}

// watch looks at the clocks of all sessions, eight times a heartbeat: that is how late after two heartbeats a client
// that is gone is noticed. One goroutine for all costs less than a timer each.
func (n *Service) watch(ctx context.Context) error {
	ticker := time.NewTicker(min(n.cfg.Heartbeat/8, time.Second))
	defer ticker.Stop()
	pauses := n.pulse.tick().pauses
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if b := n.pulse.tick(); b.pauses != pauses {
				pauses = b.pauses
				n.log.Warn("this node was paused; nothing is written to a client before it is heard again")
				n.sweepSoon()
			}
			for _, s := range n.all() {
				s.tick(now)
			}
		}
	}
}
