package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// reportEvery is how often dispatch tells what it has routed, and reportSoon how many ranges it keeps until then.
	reportEvery = time.Second
	reportSoon  = 5000
	// reportMost is how many ranges it keeps while they can't be told, some 100 bytes each; what is routed beyond stays
	// unknown to the ledger.
	reportMost = 50_000
	// reportBytes is how large one message with reports becomes, but for its last one: a NATS message may have 1 MiB.
	reportBytes = 256 << 10
	// reportTimeout bounds the publishing of one such message.
	reportTimeout = 2 * time.Second
	// joined is how far apart messages of one address may be routed and still be told as one range, with the time of its
	// last: nothing is said to have been routed before it was, and nothing by more than this after. A row for each message
	// would cost the archive as much as the message.
	joined = 1000 // ms
)

var errForgotten = errors.New("reports can't be told fast enough, and are forgotten")

// span is a range of an address's messages that went to the same nodes at the same time.
type span struct {
	to          subject.Address
	from, upTo  uint64
	first, last int64 // when, ms since 1970
	nodes       []string
}

// reports are what was routed and is not told yet. The batches write here as they are acknowledged, without I/O; report
// reads. What is lost of them is unknown later, and no more.
type reports struct {
	epoch string
	soon  chan struct{} // there is enough for a message

	mu        sync.Mutex // protects what follows
	spans     []span
	newest    map[subject.Address]int // the place of each address's last one
	forgotten int
}

func newReports(epoch string) *reports {
	return &reports{epoch: epoch, soon: make(chan struct{}, 1), newest: make(map[subject.Address]int)}
}

// note takes in a batch that was given to nodes, but for those that were silent.
func (r *reports) note(batch []routed, nodes map[subject.Address][]string, silent []string) {
	now := time.Now().UnixMilli()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		if one := &batch[i]; one.encoded != nil {
			r.add(span{to: one.to, from: one.seq, upTo: one.seq, first: now, last: now, nodes: given(nodes[one.to], silent)})
		}
	}
	if len(r.spans) >= reportSoon {
		select {
		case r.soon <- struct{}{}:
		default:
		}
	}
}

func (r *reports) add(s span) {
	if i, ok := r.newest[s.to]; ok {
		last := &r.spans[i]
		if s.from == last.upTo+1 && s.last-last.first <= joined && slices.Equal(s.nodes, last.nodes) {
			last.upTo, last.last = s.upTo, s.last
			return
		}
	}
	if len(r.spans) >= reportMost {
		r.forgotten++
		return
	}
	r.newest[s.to] = len(r.spans)
	r.spans = append(r.spans, s)
}

// given are the nodes that have a message: all that it was sent to, if none was silent.
func given(nodes, silent []string) []string {
	left := func(id string) bool { return id == everyone || slices.Contains(silent, id) }
	if !slices.ContainsFunc(nodes, left) {
		return nodes
	}
	return slices.DeleteFunc(slices.Clone(nodes), left)
}

// take empties the reports, and says how many had no room.
func (r *reports) take() (spans []span, forgotten int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	spans, forgotten = r.spans, r.forgotten
	r.spans, r.forgotten = nil, 0
	clear(r.newest)
	return spans, forgotten
}

// report tells what was routed, until routing has ended, and then the rest. What the stream does not take is kept for the
// next time, as far as there is room.
func (s *Service) report(ctx context.Context, ended <-chan struct{}) error {
	every := time.NewTicker(reportEvery)
	defer every.Stop()
	var left []span
	for last := false; !last; {
		select {
		case <-every.C:
		case <-s.reports.soon:
		case <-ended:
			last = true
		}
		spans, forgotten := s.reports.take()
		if over := len(left) + len(spans) - reportMost; over > 0 {
			forgotten += over
			spans = spans[:len(spans)-over]
		}
		if forgotten > 0 {
			s.faults.Note("keep what was routed", fmt.Errorf("%w: %d ranges", errForgotten, forgotten))
		}
		left = s.tell(ctx, append(left, spans...))
	}
	return nil
}

// tell publishes spans and returns those that the stream did not take.
func (s *Service) tell(ctx context.Context, spans []span) (left []span) {
	for len(spans) > 0 {
		n, body, err := encodeSpans(spans)
		if err == nil {
			err = s.publishReport(ctx, body)
		}
		if err != nil {
			s.faults.Note("tell what was routed", err)
			return spans
		}
		spans = spans[n:]
	}
	return nil
}

// encodeSpans makes the body of one message of the first n spans.
func encodeSpans(spans []span) (n int, body []byte, err error) {
	body = []byte{'['}
	for n < len(spans) && len(body) < reportBytes {
		if n > 0 {
			body = append(body, ',')
		}
		s := &spans[n]
		one, err := json.Marshal(ledger.Routed{Address: s.to.Tokens(), From: s.from, To: s.upTo, At: s.last, Nodes: s.nodes})
		if err != nil {
			return 0, nil, err
		}
		body = append(body, one...)
		n++
	}
	return n, append(body, ']'), nil
}

func (s *Service) publishReport(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	_, err := s.js.PublishMsg(ctx, &nats.Msg{
		Subject: subject.Routed(s.id), Data: body, Header: nats.Header{history.HeaderEpoch: {s.reports.epoch}},
	})
	return err
}
