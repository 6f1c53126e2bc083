package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// receiptStream keeps the receipts; shared/fabric makes it.
	receiptStream = "WEFT_RECEIPT"
	// receiptSilence is how long its consumer may say nothing before it is made anew. The server signs every half of it.
	receiptSilence = 4 * time.Second
	// receiptPull is how long one request for receipts lasts at the server.
	receiptPull = 10 * time.Second
	// receiptIdle is after how long the server removes a consumer whose program has died.
	receiptIdle = time.Minute
	// receiptPause is the longest pause between two tries to read on.
	receiptPause = 5 * time.Second
	// receiptPatience bounds one request to JetStream.
	receiptPatience = 5 * time.Second
)

// ReceiptFilter says which receipts are read. The zero ReceiptFilter is all that the default tenant still has.
type ReceiptFilter struct {
	Tenant string          // DefaultTenant when empty
	To     subject.Address // of messages to this address only, whose tenant counts then; the zero Address for all
	After  uint64          // go on behind this Position; 0 for the oldest that is kept
	Since  time.Time       // those stored from this moment on; only where After is 0
}

// Fact is a receipt as the fabric published it.
type Fact struct {
	Receipt

	Tenant   string
	Position uint64 // for ReceiptFilter.After: of the stream, so not dense
}

// Receipts reads the facts about messages that the fabric publishes, in order, and goes on as they come, until ctx ends or
// the loop is left: what was quarantined, and why; and of messages that were published WithReceipt, what became of them at
// each device. (The answer to a Request is the receipt `archived`; that of a PubAck, `accepted`, is in no stream.) A receipt
// that comes twice, as after a crash, has the same Receipt.Receipt. They are kept for 24 h. A program that keeps the Position of the last Fact it has dealt with
// goes on behind it after a restart, and misses nothing within that time.
//
// Losing the connection to NATS, or the server its memory, costs time and no fact, and gives none twice: reading goes on
// behind the last one. An error ends the loop: the stream can't be read to begin with (problem.Unavailable, when NATS or
// collect is not there), the filter is no good, or the connection was closed. Only ErrReceiptsGone does not: it comes with
// an otherwise empty Fact before the next one when facts may be gone, because After is older than what is kept, or of a
// stream that was made anew.
func (p *Publisher) Receipts(ctx context.Context, filter ReceiptFilter) iter.Seq2[Fact, error] {
	return func(yield func(Fact, error) bool) {
		r, err := p.newReceipts(filter)
		if err == nil {
			err = r.readAll(ctx, yield)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errLeft) {
			yield(Fact{}, err)
		}
	}
}

// receipts is one loop.
type receipts struct {
	js     jetstream.JetStream
	filter string // subject
	tenant string
	since  time.Time
	after  uint64 // position of the last fact that was yielded, or found gone
	yield  func(Fact, error) bool
}

func (p *Publisher) newReceipts(f ReceiptFilter) (*receipts, error) {
	r := &receipts{tenant: f.Tenant, since: f.Since, after: f.After}
	if r.tenant == "" {
		r.tenant = subject.DefaultTenant
	}
	if f.To != (subject.Address{}) {
		if err := f.To.Check(); err != nil {
			return nil, err
		}
		r.tenant, r.filter = f.To.Tenant, subject.Receipt(f.To.Tokens())
	} else {
		if err := subject.CheckID(r.tenant); err != nil {
			return nil, err
		}
		r.filter = subject.Receipt(subject.Encode(r.tenant)) + ".>"
	}
	var err error
	if r.js, err = jetstream.New(p.nc); err != nil {
		return nil, fmt.Errorf("client: JetStream: %w", err)
	}
	return r, nil
}

// readAll makes consumers, one after the other, for as long as the connection to NATS may come back.
func (r *receipts) readAll(ctx context.Context, yield func(Fact, error) bool) error {
	r.yield = yield
	pause := backoff{most: receiptPause}
	for begun := false; ; {
		consumer, err := r.consumer(ctx)
		if err == nil {
			begun = true
			pause.reset()
			err = r.read(ctx, consumer)
		}
		switch {
		case errors.Is(err, errLeft) || ctx.Err() != nil:
			return err
		case !begun || r.js.Conn().IsClosed():
			return unread(err)
		case wait(ctx, pause.next()) != nil:
			return ctx.Err()
		}
	}
}

// unread is the error of receipts that can't be read at all.
func unread(err error) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", problem.New(problem.Unavailable, "the receipts can't be read; are NATS and collect running? Try again"), err)
}

// consumer begins behind what is known. It is not a durable one, nor nats.go's ordered consumer, which holds up the end
// of ctx for up to 20 s while NATS is away.
func (r *receipts) consumer(ctx context.Context) (jetstream.Consumer, error) {
	looking, cancel := context.WithTimeout(ctx, receiptPatience)
	defer cancel()
	stream, err := r.js.Stream(looking, receiptStream)
	if err != nil {
		return nil, err
	}
	if gone, after := r.gone(stream.CachedInfo().State); gone {
		r.after = after
		if !r.yield(Fact{Tenant: r.tenant, Position: after}, ErrReceiptsGone) {
			return nil, errLeft
		}
	}
	config := jetstream.ConsumerConfig{
		FilterSubject: r.filter, AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: receiptIdle, MemoryStorage: true, Replicas: 1,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	switch {
	case r.after > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.after+1
	case !r.since.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.since
	}
	making, cancel := context.WithTimeout(ctx, receiptPatience) // the loop may have taken its time
	defer cancel()
	return stream.CreateConsumer(making, config)
}

// gone says whether facts behind the position may be gone, and where what is left begins: the stream has let go of them,
// or is another one.
func (r *receipts) gone(state jetstream.StreamState) (gone bool, after uint64) {
	switch {
	case r.after > state.LastSeq:
		return true, 0
	case r.after > 0 && r.after+1 < state.FirstSeq:
		return true, state.FirstSeq - 1
	default:
		return false, 0
	}
}

// read yields what a consumer delivers, until it misses something or falls silent.
func (r *receipts) read(ctx context.Context, consumer jetstream.Consumer) error {
	defer r.discard(ctx, consumer)
	messages, err := consumer.Messages(jetstream.PullExpiry(receiptPull), jetstream.PullHeartbeat(receiptSilence/2),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for delivered := uint64(1); ; delivered++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		place, err := m.Metadata()
		if err != nil {
			return err
		}
		if place.Sequence.Consumer != delivered {
			return errMissed
		}
		fact := Fact{Tenant: r.tenant, Position: place.Sequence.Stream}
		r.after = fact.Position
		if json.Unmarshal(m.Data(), &fact.Receipt) != nil {
			continue // of a later version, or somebody else's
		}
		if !r.yield(fact, nil) {
			return errLeft
		}
	}
}

// discard removes a consumer; where that fails the server does it after a minute.
func (r *receipts) discard(ctx context.Context, consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = r.js.DeleteConsumer(ctx, receiptStream, consumer.CachedInfo().Name)
}
