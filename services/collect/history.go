package collect

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
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
	// archiveTimeout is how long the archive may take for one request.
	archiveTimeout = 5 * time.Second
)

// read answers with a page of a mailbox. A page that would be larger than a NATS message is cut: who asks goes on
// behind its last entry.
func (s *Service) read(ctx context.Context, r micro.Request) {
	ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
	defer cancel()
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
	page, err := s.archive.Read(ctx, to, q.After, q.UpTo, min(q.Bytes, pageMost), time.Now())
	if err != nil {
		rpc.Refuse(r, s.archiveAway("read a mailbox", err))
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
	return func(q history.OpenRequest) (*history.OpenAnswer, error) {
		ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
		defer cancel()
		answer, err := s.archive.Open(ctx, q)
		if err != nil {
			return nil, s.archiveAway("open a device", err)
		}
		return answer, nil
	}
}

// header answers with heads.
func (s *Service) header(ctx context.Context) func(history.HeadsRequest) (*history.HeadsAnswer, error) {
	return func(q history.HeadsRequest) (*history.HeadsAnswer, error) {
		ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
		defer cancel()
		addresses := make([]subject.Address, len(q.Addresses))
		for i, tokens := range q.Addresses {
			var err error
			if addresses[i], err = subject.ParseTokens(tokens); err != nil {
				return nil, err
			}
		}
		heads, err := s.archive.Heads(ctx, addresses)
		if err != nil {
			return nil, s.archiveAway("read heads", err)
		}
		answer := &history.HeadsAnswer{Heads: make([]uint64, len(addresses))}
		for i, a := range addresses {
			answer.Heads[i] = heads[a]
		}
		return answer, nil
	}
}

// archiveAway notes what failed on the archive and returns what the asker is told; that the request itself is wrong,
// if it is.
func (s *Service) archiveAway(step string, err error) error {
	if p, wrong := errors.AsType[*problem.Problem](err); wrong {
		return p
	}
	s.faults.Note(step, err)
	return problem.New(problem.Unavailable, "the archive does not answer; try again in a moment")
}
