package collect

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/subject"
)

// publishing is one PublishStream. The call's goroutine reads messages and starts one goroutine for each, of which no
// more than streamAtOnce are there; those of one address wait for each other in the order of the stream.
type publishing struct {
	door *grpcDoor
	call *call

	working sync.WaitGroup
	free    chan struct{} // has an element for each message that is read and not answered

	mu       sync.Mutex                        // protects everything below
	receipts []*weftv1.PublishResponse         // by index; nil where there is none yet
	last     map[subject.Address]chan struct{} // closed when the last message of the address that was read is answered
	archived int
	failed   int // the first index that failed, if why is set
	why      *problem.Problem
}

// PublishStream implements the service.
func (d *grpcDoor) PublishStream(ctx context.Context, stream *connect.ClientStream[weftv1.PublishStreamRequest]) (*weftv1.PublishStreamResponse, error) {
	p := &publishing{
		door: d, call: callOf(ctx),
		free: make(chan struct{}, streamAtOnce), last: make(map[subject.Address]chan struct{}),
	}
	index := 0
	for stream.Receive() {
		if !p.take(ctx, index, stream.Msg().GetMessage()) {
			break
		}
		index++
	}
	if err := stream.Err(); err != nil {
		p.fail(index, p.call.cut(err))
	}
	p.working.Wait()
	return p.answer()
}

// cut is the problem of a stream that ended before its publisher had half-closed it.
func (c *call) cut(err error) *problem.Problem {
	switch code := connect.CodeOf(err); {
	case c.stopped():
		return problem.New(problem.Unavailable, "this collect is stopping; send what has no receipt again, with the same ids")
	case code == connect.CodeResourceExhausted:
		return tooLarge()
	case code == connect.CodeInvalidArgument:
		return problem.New(problem.BadRequest, "a message can't be read: %v", err)
	default:
		return problem.New(problem.Unavailable, "the stream broke; send what has no receipt again, with the same ids")
	}
}

// take starts the archiving of a message when there is a place for it. It says whether the stream goes on.
func (p *publishing) take(ctx context.Context, index int, r *weftv1.PublishRequest) bool {
	m, err := p.check(index, r)
	if err != nil {
		p.fail(index, byMember(err))
		return false
	}
	for _, places := range []chan struct{}{p.free, p.door.streamed} {
		select {
		case places <- struct{}{}:
		case <-ctx.Done(): // every message has ownerTimeout, so places are given back
			p.fail(index, problem.New(problem.Unavailable, "the stream broke; send what has no receipt again, with the same ids"))
			return false
		}
	}
	before, done := p.enter(m.To)
	p.working.Go(func() {
		defer func() { <-p.free; <-p.door.streamed }()
		if before != nil {
			<-before
		}
		p.archive(ctx, index, m)
		p.leave(m.To, done)
	})
	return !p.over(index)
}

// check makes a message of a request, as Publish does. The token has to be good for every message.
func (p *publishing) check(index int, r *weftv1.PublishRequest) (*message.Message, error) {
	switch {
	case index >= streamMost:
		return nil, problem.New(problem.TooLarge, "a stream takes %d messages; close it and open the next one", streamMost)
	case p.call.who.Expired(time.Now()):
		return nil, problem.New(problem.TokenExpired, "the token has expired; open a stream with a fresh one")
	}
	return p.door.fromPost(p.call.who, postOf(r))
}

// enter puts a message behind the last one of its address, which closes before when it is answered.
func (p *publishing) enter(to subject.Address) (before, done chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, done = p.last[to], make(chan struct{})
	p.last[to] = done
	p.receipts = append(p.receipts, nil)
	return before, done
}

// leave lets the next message of the address have its turn.
func (p *publishing) leave(to subject.Address, done chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last[to] == done {
		delete(p.last, to)
	}
	close(done)
}

// archive gives a message to the owner of its partition, unless one before it has failed.
func (p *publishing) archive(ctx context.Context, index int, m *message.Message) {
	if p.over(index) {
		return
	}
	receipt, err := p.door.pass(ctx, m)
	if err != nil {
		p.fail(index, byMember(err))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.receipts[index] = receiptOf(receipt)
	p.archived++
}

// over says whether the stream has failed at a message before this one, so that it must not be tried.
func (p *publishing) over(index int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why != nil && p.failed < index
}

// fail notes the problem of a message. The first in the order of the stream is the stream's, whichever came first. The
// call's goroutine need not wait for the publisher any more.
func (p *publishing) fail(index int, why *problem.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil || index < p.failed {
		p.failed, p.why = index, why
	}
	p.call.readUntil(time.Now())
}

// answer is the end of the stream: the receipts, or the problem and how far it came.
func (p *publishing) answer() (*weftv1.PublishStreamResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil {
		return &weftv1.PublishStreamResponse{Receipts: p.receipts}, nil
	}
	return nil, refusal.Of(p.why, &weftv1.PublishStreamFailure{
		Index: uint32(p.failed), Archived: uint32(p.archived), Problem: refusal.Message(p.why), //nolint:gosec // below streamMost
	})
}
