package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/problem"
)

const (
	// readerSilence is how long its consumer may say nothing before it is made anew. The server signs every half of it.
	readerSilence = 4 * time.Second
	// readerPull is how long one request lasts at the server.
	readerPull = 10 * time.Second
	// readerIdle is after how long the server removes a consumer whose program has died.
	readerIdle = time.Minute
	// readerPause is the longest pause between two tries to read on.
	readerPause = 5 * time.Second
	// readerPatience bounds one request to JetStream.
	readerPatience = 5 * time.Second
)

// reader reads one stream in order, once: a loop over receipts, or over events.
type reader struct {
	js     jetstream.JetStream
	stream string
	what   string // is read, for people
	filter string // subject
	tenant string
	since  time.Time
	after  uint64 // position of what was given last, or found gone

	// Both say whether the loop goes on.
	take func(position uint64, data []byte) bool
	gone func(after uint64) bool
}

// connect makes a reader ready.
func (p *Publisher) connect(r *reader) (err error) {
	if r.js, err = jetstream.New(p.nc); err != nil {
		return fmt.Errorf("client: JetStream: %w", err)
	}
	return nil
}

// readAll makes consumers, one after the other, for as long as the connection to NATS may come back.
func (r *reader) readAll(ctx context.Context) error {
	pause := backoff{most: readerPause}
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
			return r.unread(err)
		case wait(ctx, pause.next()) != nil:
			return ctx.Err()
		}
	}
}

// unread is the error of a stream that can't be read at all.
func (r *reader) unread(err error) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", problem.New(problem.Unavailable, "the %s can't be read; are NATS and collect running? Try again", r.what), err)
}

// consumer begins behind what is known. It is not a durable one, nor nats.go's ordered consumer, which holds up the end
// of ctx for up to 20 s while NATS is away.
func (r *reader) consumer(ctx context.Context) (jetstream.Consumer, error) {
	looking, cancel := context.WithTimeout(ctx, readerPatience)
	defer cancel()
	stream, err := r.js.Stream(looking, r.stream)
	if err != nil {
		return nil, err
	}
	if lost, after := r.lost(stream.CachedInfo().State); lost {
		r.after = after
		if !r.gone(after) {
			return nil, errLeft
		}
	}
	config := jetstream.ConsumerConfig{
		FilterSubject: r.filter, AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: readerIdle, MemoryStorage: true, Replicas: 1,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	switch {
	case r.after > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.after+1
	case !r.since.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.since
	}
	making, cancel := context.WithTimeout(ctx, readerPatience) // the loop may have taken its time
	defer cancel()
	return stream.CreateConsumer(making, config)
}

// lost says whether facts behind the position may be gone, and where what is left begins: the stream has let go of them,
// or is another one.
func (r *reader) lost(state jetstream.StreamState) (lost bool, after uint64) {
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
func (r *reader) read(ctx context.Context, consumer jetstream.Consumer) error {
	defer r.discard(ctx, consumer)
	messages, err := consumer.Messages(jetstream.PullExpiry(readerPull), jetstream.PullHeartbeat(readerSilence/2),
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
		r.after = place.Sequence.Stream
		if !r.take(r.after, m.Data()) {
			return errLeft
		}
	}
}

// discard removes a consumer; where that fails the server does it after a minute.
func (r *reader) discard(ctx context.Context, consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = r.js.DeleteConsumer(ctx, r.stream, consumer.CachedInfo().Name)
}
