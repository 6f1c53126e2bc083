package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// publishPatience is how long a publish goes on trying when its context has no deadline. The loss of a stream's
	// leader takes 4 to 7 s (design section 9).
	publishPatience = 15 * time.Second
	// publishAttempt is how long one try waits for its answer before the same message is sent again.
	publishAttempt = 2 * time.Second
	// publishPause is the longest pause between two tries.
	publishPause = time.Second
	// messageTooLarge is JetStream's error code for a message over its stream's limit.
	messageTooLarge = 10054
)

// Publisher publishes messages over a NATS connection, which stays the caller's. It may be used concurrently.
type Publisher struct {
	nc      *nats.Conn
	attempt time.Duration
}

// NewPublisher makes a Publisher; it does no I/O.
func NewPublisher(nc *nats.Conn) *Publisher { return &Publisher{nc: nc, attempt: publishAttempt} }

// Ack says that a partition's stream holds the message: it is accepted, and survives every process. It has no
// sequence in its mailbox yet.
type Ack struct {
	ID       string // the message's id: the one given, or the one made for it
	Stream   string
	Position uint64 // in the stream; not the mailbox's sequence
	Tries    int    // how often it was sent
}

// Receipt is a fact about a message: that the archive holds it, under Seq in the mailbox of To, or that it was
// quarantined, and why.
type Receipt = message.Receipt

// Publish hands a message to the stream door and returns once its stream holds it. A message that collect would
// refuse is refused here already, since behind the stream door a refusal is only a receipt and a quarantine entry.
//
// It tries until ctx ends (15 s where ctx has no deadline) and sends the same id each time, so that a message whose
// answer was lost is still one message. When it fails the Ack has the message's id all the same, and the error says
// whether the message may have been accepted: then it is ErrUnknown.
func (p *Publisher) Publish(ctx context.Context, to subject.Address, payload []byte, options ...Option) (Ack, error) {
	m, err := outgoing(subject.In, to, payload, options)
	if err != nil {
		return Ack{}, err
	}
	return p.publish(ctx, m)
}

// publish tries until a stream holds the message.
func (p *Publisher) publish(ctx context.Context, m *nats.Msg) (Ack, error) {
	ack := Ack{ID: idOf(m)}
	ctx, cancel := patience(ctx)
	defer cancel()
	pause := backoff{most: publishPause}
	var unknown bool // of any try: a later refusal says nothing of an earlier one that may have been taken
	for {
		held, refusal := p.try(ctx, m)
		ack.Tries++
		if refusal == nil {
			ack.Stream, ack.Position = held.Stream, held.Sequence
			return ack, nil
		}
		unknown = unknown || refusal.unknown
		if !refusal.Retry || p.nc.IsClosed() || wait(ctx, pause.next()) != nil {
			return ack, refusal.err(unknown)
		}
	}
}

// failure is why a try to publish failed.
type failure struct {
	*problem.Problem

	unknown bool // the message may have been taken
}

// err is what the publisher is told.
func (f *failure) err(unknown bool) error {
	if unknown {
		return fmt.Errorf("%w: %w", ErrUnknown, f.Problem)
	}
	return f.Problem
}

// pubAck is what JetStream answers to a publish.
type pubAck struct {
	nats.PubAck

	Refusal *nats.APIError `json:"error"`
}

// try publishes once.
func (p *Publisher) try(ctx context.Context, m *nats.Msg) (*nats.PubAck, *failure) {
	ctx, cancel := context.WithTimeout(ctx, p.attempt)
	defer cancel()
	closed := p.nc.IsClosed() // else what is under way may have been taken when the connection is closed
	reply, err := p.nc.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, &failure{Problem: tooLarge()}
	case errors.Is(err, nats.ErrNoResponders):
		return nil, &failure{Problem: problem.New(problem.Unavailable, "no stream takes messages right now; is collect running? Publish again")}
	case errors.Is(err, nats.ErrReconnectBufExceeded), closed && err != nil, errors.Is(err, nats.ErrHeadersNotSupported):
		// The last one is what nats.go says before it has ever been connected.
		return nil, &failure{Problem: problem.New(problem.Unavailable, "there is no connection to NATS (%v); publish again", err)}
	case err != nil:
		return nil, &failure{problem.New(problem.Unavailable, "no stream has answered (%v); publish again with the same id", err), true}
	}
	var answer pubAck
	if err := json.Unmarshal(reply.Data, &answer); err != nil || (answer.Refusal == nil && answer.Stream == "") {
		return nil, &failure{problem.New(problem.InternalFault, "somebody who is no stream answers on %s", m.Subject), true}
	}
	return &answer.PubAck, refused(answer.Refusal)
}

// refused is what a stream's error means to a publisher; nil for none. After one of 500 and above nobody can tell: the
// disk may be full at one of three servers only.
func refused(e *nats.APIError) *failure {
	switch {
	case e == nil:
		return nil
	case e.ErrorCode == messageTooLarge:
		return &failure{Problem: tooLarge()}
	case e.Code >= http.StatusInternalServerError: // a full stream or disk, a cluster without a leader
		return &failure{problem.New(problem.Unavailable, "the stream can't take the message right now (%s); publish again with the same id", e.Description), true}
	case e.Code == http.StatusTooManyRequests: // what the stream has not stored yet fills its queue; the message is not in it
		return &failure{Problem: problem.New(problem.Unavailable, "the stream has too much to do right now (%s); publish again", e.Description)}
	default:
		return &failure{Problem: problem.New(problem.BadRequest, "the stream refused the message: %s", e.Description)}
	}
}

// Request hands a message to the request door and returns once the archive holds it. It tries once: Unavailable
// comes at once when the partition has no owner at the moment. Whatever may be tried again counts as ErrUnknown, and
// the Receipt has the message's id also then: try again with it.
func (p *Publisher) Request(ctx context.Context, to subject.Address, payload []byte, options ...Option) (Receipt, error) {
	m, err := outgoing(subject.Publish, to, payload, options)
	if err != nil {
		return Receipt{}, err
	}
	receipt := Receipt{ID: idOf(m), To: to.String()}
	ctx, cancel := patience(ctx)
	defer cancel()
	reply, err := rpc.Send(ctx, p.nc, m)
	if refusal := problem.From(err); err != nil && (refusal.Retry || refusal.Code == problem.InternalFault) {
		return receipt, fmt.Errorf("%w: %w", ErrUnknown, err)
	} else if err != nil {
		return receipt, err
	}
	if err := json.Unmarshal(reply.Data, &receipt); err != nil {
		return receipt, fmt.Errorf("%w: the receipt of %s: %w", ErrUnknown, m.Subject, err)
	}
	return receipt, nil
}

// outgoing makes the NATS message for one of the doors, with an id, and checks it as collect will.
func outgoing(door func(subject.Address) string, to subject.Address, payload []byte, options []Option) (*nats.Msg, error) {
	if err := to.Check(); err != nil {
		return nil, err
	}
	h := nats.Header{message.HeaderID: {ulid.MustNew(ulid.Now(), rand.Reader).String()}}
	for _, set := range options {
		set(h)
	}
	for name, remedy := range map[string]string{message.HeaderID: "to have one made", message.HeaderCollapse: "to have every message shown"} {
		if values, given := h[name]; given && values[0] == "" {
			return nil, problem.New(problem.BadHeader, "%s is empty; choose one, or leave it out %s", name, remedy).In(name)
		}
	}
	// Only the server knows its limit on payloads.
	if _, err := message.Read(to, h, payload, time.Now(), message.Limits{Payload: math.MaxInt}); err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: door(to), Header: h, Data: payload}, nil
}

func idOf(m *nats.Msg) string { return m.Header[message.HeaderID][0] }

func patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, publishPatience)
}

func tooLarge() *problem.Problem {
	return problem.New(problem.TooLarge, "the message is larger than the server takes; publish a link to what is large")
}
