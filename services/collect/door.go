package collect

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/oklog/ulid/v2"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// ownerTimeout is how long a partition's owner may take for a message of the request door.
const ownerTimeout = 5 * time.Second

// takeRequest is the request door on NATS. The answer, a receipt or a problem, comes after the archive has the
// message.
func (s *Service) takeRequest(ctx context.Context, r micro.Request) {
	to, err := addressed(r.Subject())
	if err != nil {
		rpc.Refuse(r, err)
		return
	}
	m, err := message.Read(to, map[string][]string(r.Headers()), r.Data(), time.Now(), s.cfg.Limits)
	if err != nil {
		rpc.Refuse(r, err)
		return
	}
	receipt, err := s.pass(ctx, m)
	if err != nil {
		rpc.Refuse(r, err)
		return
	}
	_ = r.RespondJSON(receipt) // only fails on a closed connection: the publisher asks again
}

// pass hands a checked message to the owner of its partition and waits for the receipt. A message without an id gets
// one here; the problem of a message that may or may not have been archived names it, so that the publisher can ask
// again without doubling it.
func (s *Service) pass(ctx context.Context, m *message.Message) (*message.Receipt, error) {
	if m.ID == "" {
		m.ID = ulid.Make().String()
	}
	ctx, cancel := context.WithTimeout(ctx, ownerTimeout)
	defer cancel()
	p := subject.Partition(m.To, s.archive.Facts().Partitions)
	request := &nats.Msg{Subject: subject.Collect(p), Data: message.AppendEntry(nil, m.To, message.Entry{Message: m})}
	reply, err := rpc.Send(ctx, s.nc, request)
	if err != nil {
		if p := problem.From(err); p.Code == problem.Unavailable {
			return nil, problem.New(problem.Unavailable, "the message could not be archived now (%s); send it again with the id %s", p.Message, m.ID)
		}
		return nil, err
	}
	receipt := new(message.Receipt)
	if err := json.Unmarshal(reply.Data, receipt); err != nil {
		return nil, problem.New(problem.InternalFault, "the owner's answer can't be read")
	}
	return receipt, nil
}
