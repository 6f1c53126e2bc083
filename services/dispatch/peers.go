package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// probeEvery is how often suspect nodes are asked whether they are back.
	probeEvery = 250 * time.Millisecond
	// goneFor is how long a node that nobody answers for and that has no lease is not tried again. A node's id is never
	// used twice, so this only spares useless requests for routes that are not cleaned up yet.
	goneFor = 10 * time.Second
	// calm is for how long a node that was suspect must not be it again to be as good as new. Until then it has to answer
	// twice as many probes in a row each time, up to provenMost: one whose probes are answered and whose frames are not
	// would hold a part of its messages up at every probe, and now does so every 2 s.
	calm       = 30 * time.Second
	provenMost = 8
	// everyone stands for all nodes, where none is known. No node has this id.
	everyone = "*"
)

// peers is what this process knows of the push nodes. A node that is not in it counts as well.
type peers struct {
	*Service

	mu      sync.Mutex            // protects everything below
	live    map[string]bool       // nodes with a lease, as of the last reading
	suspect map[string]*suspicion // nodes that owe an answer: probed until they give enough
	freed   map[string]*suspicion // nodes that were suspect lately
	gone    map[string]time.Time  // nodes without lease that NATS knows no subscription of, since when
}

// suspicion is what it takes a node to get frames again.
type suspicion struct {
	answered int       // probes in a row
	proven   int       // how many it takes
	until    time.Time // of one that is over: when it is forgotten
}

func newPeers(s *Service) *peers {
	return &peers{
		Service: s, live: make(map[string]bool), gone: make(map[string]time.Time),
		suspect: make(map[string]*suspicion), freed: make(map[string]*suspicion),
	}
}

// setLive takes in which nodes have a lease. While Redis can't be relied on, those that had one keep it: they may just
// not be able to renew it.
func (p *peers) setLive(nodes []string, unreliable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !unreliable {
		clear(p.live)
	}
	for _, id := range nodes {
		p.live[id] = true
	}
}

// all is every live node, and everyone, for those that are not known: Redis may have been away since they came.
func (p *peers) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]string, 0, len(p.live)+1)
	for id := range p.live {
		list = append(list, id)
	}
	return append(list, everyone)
}

// send gives a node a frame and says whether it has answered. A node that is suspect or gone is passed over at once;
// one that does not answer in time becomes suspect. Everyone is not asked for an answer.
func (p *peers) send(ctx context.Context, id string, frame []byte) bool {
	if id == everyone {
		return p.nc.Publish(subject.Nodes, frame) == nil
	}
	if p.passedOver(id) {
		return false
	}
	err := p.request(ctx, subject.Node(id), frame)
	if err != nil && ctx.Err() == nil {
		p.unanswered(id, err)
	}
	return err == nil
}

func (p *peers) passedOver(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, gone := p.gone[id]
	return gone || p.suspect[id] != nil
}

// unanswered decides about a node that owes an answer: it is gone if nobody listens in its name and it has no lease.
// With a lease it has only lost NATS for a moment, and has to be told to sweep when it is back.
func (p *peers) unanswered(id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, nats.ErrNoResponders) && !p.live[id] {
		delete(p.suspect, id)
		p.gone[id] = time.Now()
		return
	}
	if s := p.suspect[id]; s != nil {
		s.answered = 0
		return
	}
	s := &suspicion{proven: 1}
	if before := p.freed[id]; before != nil && time.Now().Before(before.until) {
		s.proven = min(2*before.proven, provenMost)
	}
	p.suspect[id] = s
	p.log.Warn("a node does not answer; going on without it", "node", id, "err", err)
}

// proven takes in that a suspect node has answered a probe, and says whether that is enough.
func (p *peers) proven(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.suspect[id]
	if s == nil {
		return false
	}
	if s.answered++; s.answered < s.proven {
		return false
	}
	delete(p.suspect, id)
	s.until = time.Now().Add(calm)
	p.freed[id] = s
	p.log.Info("a node answers again", "node", id)
	return true
}

// probe asks all suspect nodes, again and again until ctx ends, whether they are back.
func (p *peers) probe(ctx context.Context) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		var group errgroup.Group
		for _, id := range p.suspects() {
			group.Go(func() error { p.ask(ctx, id); return nil })
		}
		_ = group.Wait() // its functions return no error
	}
}

// suspects are the suspect nodes. Those that were gone for long enough are forgotten, and old suspicions.
func (p *peers) suspects() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, since := range p.gone {
		if time.Since(since) > goneFor {
			delete(p.gone, id)
		}
	}
	for id, s := range p.freed {
		if time.Now().After(s.until) {
			delete(p.freed, id)
		}
	}
	list := make([]string, 0, len(p.suspect))
	for id := range p.suspect {
		list = append(list, id)
	}
	return list
}

// ask probes one suspect node. When it has answered enough it gets frames again, and then is told to sweep: what it was not sent
// is below the heads that it reads then.
func (p *peers) ask(ctx context.Context, id string) {
	err := p.order(ctx, id, node.Probe)
	if err == nil && p.proven(id) {
		err = p.order(ctx, id, node.Sweep)
	}
	if err != nil && ctx.Err() == nil {
		p.unanswered(id, err)
	}
}

func (p *peers) order(ctx context.Context, id string, op node.Op) error {
	body, err := json.Marshal(node.Order{Op: op})
	if err != nil {
		return fmt.Errorf("encode an order: %w", err)
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
