package collect

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// pageMost is the most payload bytes of one page: with the largest payload that -max-payload may set, a page of
	// one message still fits a NATS message of 1 MiB.
	pageMost = 512 << 10
	// bodyOfPage is the most bytes of a page of several entries as it is sent: ids, types and traces count too.
	bodyOfPage = 900 << 10
	// readTimeout is how long the archive may take for one request of a node, which is refused then.
	readTimeout = 2 * time.Second
)

// read answers with a page of a mailbox. A page that would be larger than a NATS message is cut: who asks goes on
// behind its last entry.
func (s *Service) read(ctx context.Context, r micro.Request) {
	var q history.ReadRequest
	if err := json.Unmarshal(r.Data(), &q); err != nil {
		rpc.Refuse(r, problem.New(problem.BadRequest, "the request is not the JSON it should be: %v", err))
		return
	}
	to, err := subject.ParseTokens(q.Address)
	if err != nil {
		rpc.Refuse(r, err)
		return
	}
	var page *history.Page
	err = s.ask(ctx, &s.fuses.read, "read a mailbox", func(ctx context.Context) (err error) {
		page, err = s.archive.Read(ctx, to, q.After, q.UpTo, min(q.Bytes, pageMost), time.Now())
		return err
	})
	if err != nil {
		rpc.Refuse(r, err)
		return
	}
	var body []byte
	for _, e := range page.Entries {
		fits := len(body)
		if body = message.AppendEntry(body, to, e); fits > 0 && len(body) > bodyOfPage {
			body = body[:fits]
			break
		}
	}
	_ = r.Respond(body, micro.WithHeaders(micro.Headers{ // only fails on a closed connection
		history.HeaderHead:  {strconv.FormatUint(page.Head, 10)},
		history.HeaderEpoch: {s.archive.Facts().Epoch},
	}))
}

// opener answers where a device stands.
func (s *Service) opener(ctx context.Context) func(history.OpenRequest) (*history.OpenAnswer, error) {
	return func(q history.OpenRequest) (answer *history.OpenAnswer, err error) {
		err = s.ask(ctx, &s.fuses.open, "open a device", func(ctx context.Context) (err error) {
			answer, err = s.archive.Open(ctx, q)
			return err
		})
		return answer, err
	}
}

// header answers with heads.
func (s *Service) header(ctx context.Context) func(history.HeadsRequest) (*history.HeadsAnswer, error) {
	return func(q history.HeadsRequest) (*history.HeadsAnswer, error) {
		addresses := make([]subject.Address, len(q.Addresses))
		for i, tokens := range q.Addresses {
			var err error
			if addresses[i], err = subject.ParseTokens(tokens); err != nil {
				return nil, err
			}
		}
		var heads map[subject.Address]uint64
		err := s.ask(ctx, &s.fuses.heads, "read heads", func(ctx context.Context) (err error) {
			heads, err = s.archive.Heads(ctx, addresses)
			return err
		})
		if err != nil {
			return nil, err
		}
		answer := &history.HeadsAnswer{Heads: make([]uint64, len(addresses))}
		for i, a := range addresses {
			answer.Heads[i] = heads[a]
		}
		return answer, nil
	}
}

// ask asks the archive for a node. The error is what the node is told: that the request is wrong, or to try again, at
// the latest after readTimeout; at once while the archive is known to hang.
func (s *Service) ask(ctx context.Context, f *fuse, step string, do func(context.Context) error) error {
	away := problem.New(problem.Unavailable, "the archive does not answer; try again in a moment")
	end, ok := f.enter()
	if !ok {
		return away
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := do(ctx)
	end(errors.Is(ctx.Err(), context.DeadlineExceeded))
	if p, wrong := errors.AsType[*problem.Problem](err); wrong {
		return p
	}
	if err != nil {
		s.faults.Note(step, err)
		return away
	}
	return nil
}

// fuse keeps questions of a kind from standing in line behind an archive that hangs: after one took too long the others are
// refused, but for one at a time that finds out whether it answers again. Without it 10,000 questions, 256 at once, would
// be refused over 80 s.
type fuse struct {
	mu     sync.Mutex // protects what follows
	blown  bool
	trying bool // one is under way although it is blown
}

// enter says whether a question may be asked; then end takes whether it took too long.
func (f *fuse) enter() (end func(late bool), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tries := f.blown
	if tries && f.trying {
		return nil, false
	}
	f.trying = tries
	return func(late bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.blown = late
		if tries {
			f.trying = false
		}
	}, true
}
