package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// prompt is how long a batch waits for its nodes before the next one is made up. A node that takes longer lags:
	// nobody waits for it any more, and what comes for it queues up until it answers or is suspect. Waiting at all is
	// what makes batches grow under load; nodes answer within some 2 ms.
	prompt = 20 * time.Millisecond
	// underWay bounds the payload, in bytes, of the batches of a term that wait for lagging nodes. They do so for two hop
	// time-outs at most.
	underWay = 16 << 20
)

var errBehind = errors.New("it answers, but does not keep up")

// outbox is what a term has under way to the nodes. Each node is sent its frames in order, one lot after the other.
type outbox struct {
	*Service
	running sync.WaitGroup // a goroutine for each node that has something under way

	mu    sync.Mutex       // protects the rest, and the counts of all parcels
	jobs  map[string][]job // by node: what it will be sent. A node that is in it has a goroutine
	bytes int              // in parcels that are not done
	freed chan struct{}    // closed when bytes have become fewer
}

func newOutbox(s *Service) *outbox {
	return &outbox{Service: s, jobs: make(map[string][]job), freed: make(chan struct{})}
}

// job is what one parcel has for one node.
type job struct {
	parcel *parcel
	frames [][]byte
	since  time.Time
	waited bool // the parcel waits for this one
}

// parcel is a batch under way. It is acknowledged when every node has answered or is suspect.
type parcel struct {
	batch   []routed
	nodes   map[subject.Address][]string // of each address
	silent  []string                     // those among them that did not take it
	bytes   int
	open    int           // nodes that have not
	waiting int           // those among them that did not lag before
	prompt  chan struct{} // closed when those have
}

// put gives the nodes of each address their frames, all nodes at once, and returns when those have answered that did not lag before, or
// are found to lag now.
func (o *outbox) put(ctx context.Context, batch []routed, nodes map[subject.Address][]string, frames map[string][][]byte) {
	p := &parcel{batch: batch, nodes: nodes, open: len(frames), prompt: make(chan struct{})}
	for _, r := range batch {
		p.bytes += len(r.encoded)
	}
	if len(frames) == 0 {
		o.acknowledge(p)
		return
	}
	o.room(ctx)
	o.mu.Lock()
	o.bytes += p.bytes
	for id, list := range frames {
		before, lags := o.jobs[id]
		j := job{parcel: p, frames: list, since: time.Now(), waited: !lags}
		o.jobs[id] = append(before, j)
		if !lags {
			p.waiting++
			o.running.Go(func() { o.serve(ctx, id) })
		}
	}
	if p.waiting == 0 {
		close(p.prompt)
	}
	o.mu.Unlock()
	patience := time.NewTimer(o.cfg.prompt)
	defer patience.Stop()
	select {
	case <-p.prompt:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// room waits until less than the bound is under way.
func (o *outbox) room(ctx context.Context) {
	for {
		o.mu.Lock()
		full, freed := o.bytes > underWay, o.freed
		o.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return
		}
	}
}

// serve sends a node what there is for it until there is no more, or ctx ends.
func (o *outbox) serve(ctx context.Context, id string) {
	for {
		o.mu.Lock()
		lot := o.jobs[id]
		if len(lot) == 0 || ctx.Err() != nil {
			delete(o.jobs, id)
			o.mu.Unlock()
			return
		}
		o.jobs[id] = nil // it is in it still: it lags
		o.mu.Unlock()
		if !lot[0].waited && time.Since(lot[0].since) > o.cfg.Hop {
			o.peers.unanswered(id, errBehind)
		}
		took := true
		for _, frame := range join(lot) {
			if took = o.peers.send(ctx, id, frame); !took {
				break
			}
		}
		if ctx.Err() == nil { // else the next owner sends it
			o.answered(id, lot, took)
		}
	}
}

// join makes the frames of a lot into as few as there can be.
func join(lot []job) [][]byte {
	var frames [][]byte
	for _, j := range lot {
		for _, frame := range j.frames {
			if last := len(frames) - 1; last >= 0 && len(frames[last])+len(frame) <= frameMost {
				frames[last] = message.AppendEncoded(frames[last], frame)
			} else {
				frames = append(frames, frame)
			}
		}
	}
	return frames
}

// answered notes that a node has answered a lot, or is suspect and has not taken all of it.
func (o *outbox) answered(id string, lot []job, took bool) {
	var done []*parcel
	o.mu.Lock()
	for _, j := range lot {
		p := j.parcel
		if !took {
			p.silent = append(p.silent, id)
		}
		if j.waited {
			if p.waiting--; p.waiting == 0 {
				close(p.prompt)
			}
		}
		if p.open--; p.open == 0 {
			done = append(done, p)
			o.bytes -= p.bytes
		}
	}
	if len(done) > 0 {
		close(o.freed)
		o.freed = make(chan struct{})
	}
	o.mu.Unlock()
	for _, p := range done {
		o.acknowledge(p)
	}
}

// acknowledge ends a batch. Nobody writes to the parcel any more.
func (o *outbox) acknowledge(p *parcel) {
	o.reports.note(p.batch, p.nodes, p.silent)
	for _, r := range p.batch {
		if err := r.delivery.Ack(); err != nil {
			o.faults.Note("acknowledge", err)
		}
	}
}
