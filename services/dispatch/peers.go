package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// leasesEvery is how often the set of live nodes is read.
	leasesEvery = time.Second
	// probeEvery is how often a suspect node is asked whether it is back.
	probeEvery = 250 * time.Millisecond
	// goneFor is how long a node that nobody answers for is not tried again. A node's id is never used twice, so this
	// only spares useless requests for routes that are not cleaned up yet.
	goneFor = 10 * time.Second
)

// peers is what this process knows of the push nodes. A node that is not in it counts as well.
type peers struct {
	*Service
	probers sync.WaitGroup

	mu      sync.Mutex           // protects everything below
	live    map[string]bool      // nodes with a lease, as of the last reading
	suspect map[string]bool      // nodes that owe an answer; a prober runs for each
	gone    map[string]time.Time // nodes that NATS knows no subscription of, since when
}

func newPeers(s *Service) *peers {
	return &peers{Service: s, live: make(map[string]bool), suspect: make(map[string]bool), gone: make(map[string]time.Time)}
}

// run reads the leases until ctx ends, and waits for the probers.
func (p *peers) run(ctx context.Context) error {
	defer p.probers.Wait()
	ticker := time.NewTicker(leasesEvery)
	defer ticker.Stop()
	for {
		nodes, err := p.table.Nodes(ctx)
		if err == nil {
			p.setLive(nodes)
		} else if ctx.Err() == nil {
			p.faults.Note("read the leases of nodes", err) // what was known stays
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *peers) setLive(nodes []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.live)
	for _, id := range nodes {
		p.live[id] = true
	}
	for id, since := range p.gone {
		if time.Since(since) > goneFor {
			delete(p.gone, id)
		}
	}
}

// all is every live node.
func (p *peers) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]string, 0, len(p.live))
	for id := range p.live {
		list = append(list, id)
	}
	return list
}

// send gives a node a frame and says whether it has answered. A node that is suspect or gone is passed over at once;
// one that does not answer in time becomes suspect.
func (p *peers) send(ctx context.Context, id string, frame []byte) bool {
	if p.passedOver(id) {
		return false
	}
	err := p.request(ctx, subject.Node(id), frame)
	switch {
	case err == nil:
		return true
	case errors.Is(err, nats.ErrNoResponders):
		p.mu.Lock()
		p.gone[id] = time.Now()
		p.mu.Unlock()
	case ctx.Err() == nil:
		p.suspectNow(ctx, id)
	}
	return false
}

func (p *peers) passedOver(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, gone := p.gone[id]
	return gone || p.suspect[id]
}

// suspectNow starts a prober for a node, unless one runs.
func (p *peers) suspectNow(ctx context.Context, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.suspect[id] {
		return
	}
	p.suspect[id] = true
	p.log.Warn("a node does not answer; going on without it", "node", id)
	p.probers.Go(func() { p.probe(ctx, id) })
}

// probe asks a suspect node until it answers, is gone, or has lost its lease. When it answers it gets frames again and
// then is told to sweep: what it was not sent is below the heads that it reads then.
func (p *peers) probe(ctx context.Context, id string) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := p.order(ctx, id, node.Probe)
		gone := errors.Is(err, nats.ErrNoResponders)
		if err != nil && !gone && p.leased(id) {
			continue
		}
		p.mu.Lock()
		delete(p.suspect, id)
		if err != nil {
			p.gone[id] = time.Now()
		}
		p.mu.Unlock()
		if err == nil {
			err = p.order(ctx, id, node.Sweep)
		}
		p.log.Info("a node is not suspect any more", "node", id, "err", err)
		if err != nil && !gone && ctx.Err() == nil {
			p.suspectNow(ctx, id)
		}
		return
	}
}

func (p *peers) leased(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[id]
}

func (p *peers) order(ctx context.Context, id string, op node.Op) error {
	body, err := json.Marshal(node.Order{Op: op})
	if err != nil {
		return err
	}
	return p.request(ctx, subject.NodeControl(id), body)
}

// request sends and waits for the answer, at most for the hop time-out.
func (p *peers) request(ctx context.Context, to string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Hop)
	defer cancel()
	_, err := p.nc.RequestWithContext(ctx, to, body)
	return err
}
