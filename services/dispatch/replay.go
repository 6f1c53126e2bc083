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

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// replayQueue is how many requests of replays may wait in a term. A replay has one under way.
	replayQueue = 64
	// replayClose is how long a term that has ended waits for requests that are on their way to it.
	replayClose = time.Second
)

// replays is the part of a term that sends again what an operator's replay hands in. One request is done after the other,
// so that messages keep the order in which they are handed in; nothing of the log waits for that.
func (t *term) replays(ctx context.Context) error {
	requests := make(chan *nats.Msg, replayQueue)
	sub, err := t.nc.ChanSubscribe(subject.Dispatch(t.partition), requests)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject.Dispatch(t.partition), err)
	}
	for {
		select {
		case <-ctx.Done():
			t.endReplays(sub, requests)
			return nil
		case request := <-requests:
			t.respond(request, func() (*node.Replayed, error) { return t.replay(ctx, request) })
		}
	}
}

// endReplays refuses what is on its way to a term that has ended, so that nobody waits for a time-out.
func (t *term) endReplays(sub *nats.Subscription, requests <-chan *nats.Msg) {
	closed := sub.StatusChanged(nats.SubscriptionClosed)
	if err := sub.Drain(); err != nil {
		return // the connection is closed: nobody can be answered
	}
	select {
	case <-closed: // the server has sent what there was
	case <-time.After(replayClose):
		_ = sub.Unsubscribe() // NATS is away; the requests are lost with it
	}
	for {
		select {
		case request := <-requests:
			t.respond(request, func() (*node.Replayed, error) { return nil, errMoved() })
		default:
			return
		}
	}
}

// errMoved is the answer where this process does not own the partition any more.
func errMoved() error {
	return problem.New(problem.Unavailable, "the partition is being handed over to another dispatch; try again in a moment")
}

func (s *Service) respond(request *nats.Msg, do func() (*node.Replayed, error)) {
	done, err := do()
	var body []byte
	if err == nil {
		body, err = json.Marshal(done)
	}
	answer := &nats.Msg{Data: body}
	if err != nil {
		answer = rpc.Refusal(problem.From(err))
	}
	if err := request.RespondMsg(answer); err != nil {
		s.faults.Note("answer a replay", err)
	}
}

// share is what one node has of a replay.
type share struct {
	frame []byte
	of    []int // which of the replay's messages they are
}

// replay hands messages once more to the nodes that have their addresses, and says what became of each. It raises no
// heads: what it sends is below them. The messages of a node that does not answer within two hops count as away, unless another
// node has sent them. The error is a *problem.Problem.
func (s *Service) replay(ctx context.Context, request *nats.Msg) (*node.Replayed, error) {
	entries, err := message.DecodeEntries(request.Data)
	switch {
	case err != nil:
		return nil, problem.New(problem.BadRequest, "the frame can't be read: %v", err)
	case request.Header.Get(node.HeaderReplay) == "":
		return nil, problem.New(problem.BadRequest, "a replay says which one it is").In(node.HeaderReplay)
	}
	holders, err := s.holders(ctx, entries)
	if err != nil {
		return nil, err
	}
	answer := &node.Replayed{Fates: make([]node.Fate, len(entries))}
	shares := make(map[string]*share)
	for i, e := range entries {
		answer.Fates[i] = node.FateAway
		for _, id := range holders[e.To] {
			if shares[id] == nil {
				shares[id] = new(share)
			}
			shares[id].frame = message.AppendEntry(shares[id].frame, e.To, e.Entry)
			shares[id].of = append(shares[id].of, i)
		}
	}
	s.sendShares(ctx, request.Header, shares, answer)
	if ctx.Err() != nil {
		return nil, errMoved() // some of it may be done; a message that comes once more is dropped by its client
	}
	return answer, nil
}

// holders are the nodes that have each address. While Redis can't be relied on those are all that are known.
func (s *Service) holders(ctx context.Context, entries []message.Addressed) (map[subject.Address][]string, error) {
	var addresses []subject.Address
	found := make(map[subject.Address][]string, len(entries))
	for _, e := range entries {
		if _, seen := found[e.To]; !seen {
			addresses, found[e.To] = append(addresses, e.To), nil
		}
	}
	if s.cache.usable() {
		asking, cancel := context.WithTimeout(ctx, lookUpTimeout)
		defer cancel()
		routes, err := s.table.Routes(asking, addresses)
		if err == nil {
			for i, to := range addresses {
				found[to] = routes[i]
			}
			return found, nil
		}
		s.faults.Note("look routes up for a replay", err)
	}
	all := slices.DeleteFunc(s.peers.all(), func(id string) bool { return id == everyone })
	if len(all) == 0 {
		return nil, problem.New(problem.Unavailable, "Redis can't be relied on right now, and no push node is known without it; try again in a moment")
	}
	for to := range found {
		found[to] = all
	}
	return found, nil
}

// sendShares sends all nodes their shares at the same time, and enters in answer what they say.
func (s *Service) sendShares(ctx context.Context, header nats.Header, shares map[string]*share, answer *node.Replayed) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Hop)
	defer cancel()
	var mu sync.Mutex // protects answer
	var sending sync.WaitGroup
	for id, part := range shares {
		if s.peers.passedOver(id) {
			continue
		}
		sending.Go(func() {
			fates, err := s.sendShare(ctx, id, header, part)
			if err != nil {
				s.peers.unproductive(ctx, id, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, fate := range fates {
				if at := part.of[i]; better(fate, answer.Fates[at]) {
					answer.Fates[at] = fate
				}
			}
		})
	}
	sending.Wait()
}

// sendShare sends one node its share.
func (s *Service) sendShare(ctx context.Context, id string, header nats.Header, part *share) ([]node.Fate, error) {
	reply, err := s.nc.RequestMsgWithContext(ctx, &nats.Msg{
		Subject: subject.Node(id), Data: part.frame, Header: nats.Header{node.HeaderReplay: header.Values(node.HeaderReplay)},
	})
	if err != nil {
		return nil, err
	}
	if err := rpc.Refused(reply); err != nil {
		return nil, err
	}
	var done node.Replayed
	if err := json.Unmarshal(reply.Data, &done); err != nil {
		return nil, fmt.Errorf("read the answer to a replay: %w", err)
	}
	if len(done.Fates) != len(part.of) {
		return nil, fmt.Errorf("%d messages were replayed, and the answer names %d", len(part.of), len(done.Fates))
	}
	return done.Fates, nil
}

// better says whether a fate is the better one of two.
func better(a, b node.Fate) bool {
	order := []node.Fate{node.FateAway, node.FateFull, node.FateSent}
	return slices.Index(order, a) > slices.Index(order, b)
}

// unproductive decides about a node that did not do its share: one that did not answer is suspect, as after a frame.
func (p *peers) unproductive(ctx context.Context, id string, err error) {
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // the term has ended
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		p.unanswered(id, err)
	default:
		p.faults.Note("replay to a node", err)
	}
}
