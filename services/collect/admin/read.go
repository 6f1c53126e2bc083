package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// readAhead and readAheadBytes bound what a reading asks of the server at once; it may hold twice as much. A message has
	// at most 1 MiB.
	readAhead      = 512
	readAheadBytes = 2 << 20
	// readPatience is how long the next message may take.
	readPatience = time.Second
	// readExpiry is how long a pull waits at the server: longer than a reading lives. What the server says when one ends, and
	// the heartbeats of half that time, need room in the library's queue, which has just enough for the messages.
	readExpiry = 30 * time.Second
	// readForgotten is after how long the server removes the consumer of a collect that was killed.
	readForgotten = 10 * time.Second
	// readAgain is how often one message may get lost on its way.
	readAgain = 5
)

// errHole is the error of a reading that loses a message again and again; whoever reads goes on from the last one that he had.
var errHole = errors.New("a message got lost on its way from the stream")

// reading reads a part of a stream once, in order, by a consumer of its own that lives as long as it. What gets lost on
// its way, in the library's queue say, is read again by another consumer.
type reading struct {
	stream   jetstream.Stream
	config   jetstream.ConsumerConfig
	consumer string
	messages jetstream.MessagesContext
	left     uint64 // messages of the part that were not read yet
	last     uint64 // consumer's number of the one read last
	at       uint64 // its sequence in the stream; 0: none was read
}

// read begins to read a stream; c says from where and which subjects. Close it.
func (d *Desk) read(ctx context.Context, from string, c jetstream.ConsumerConfig) (*reading, error) {
	stream, err := d.JS.Stream(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	c.AckPolicy, c.InactiveThreshold, c.MemoryStorage, c.Replicas = jetstream.AckNonePolicy, readForgotten, true, 1
	r := &reading{stream: stream, config: c}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// open begins behind what was read.
func (r *reading) open(ctx context.Context) error {
	c, name := r.config, r.stream.CachedInfo().Config.Name
	if r.at > 0 {
		c.OptStartTime = nil
		c = from(c, r.at, 0)
	}
	consumer, err := r.stream.CreateConsumer(ctx, c)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	info := consumer.CachedInfo()
	r.consumer, r.left, r.last = info.Name, info.NumPending, 0
	if r.left == 0 {
		return nil
	}
	r.messages, err = consumer.Messages(jetstream.PullExpiry(readExpiry), jetstream.PullMaxMessagesWithBytesLimit(readAhead, readAheadBytes))
	if err != nil {
		r.close(ctx)
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// next is the next message; nil when nothing is left, as when somebody has deleted the rest meanwhile.
func (r *reading) next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	for lost := 0; r.left > 0; lost++ {
		if err := ctx.Err(); err != nil { // the library gives what it has all the same
			return nil, nil, fmt.Errorf("read the stream: %w", err)
		}
		m, meta, err := r.take()
		if err == nil || lost == readAgain || !errors.Is(err, errHole) && !errors.Is(err, nats.ErrTimeout) {
			return m, meta, err
		}
		r.close(ctx)
		if err := r.open(ctx); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// take is the next message that comes, which must be the one behind the last.
func (r *reading) take() (jetstream.Msg, *jetstream.MsgMetadata, error) {
	m, err := r.messages.Next(jetstream.NextMaxWait(readPatience))
	if err == nil && m == nil {
		err = nats.ErrTimeout
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the stream: %w", err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, nil, fmt.Errorf("read the place of a message: %w", err)
	}
	if meta.Sequence.Consumer != r.last+1 {
		return nil, nil, errHole
	}
	r.last, r.left, r.at = meta.Sequence.Consumer, meta.NumPending, meta.Sequence.Stream
	return m, meta, nil
}

// close ends the reading. What can't be told to the server now it finds out by itself.
func (r *reading) close(ctx context.Context) {
	if r.messages != nil {
		r.messages.Stop()
		r.messages = nil
	}
	_ = r.stream.DeleteConsumer(ctx, r.consumer)
}

// from makes a consumer begin behind a stream's sequence, or, where that is 0, at a time (ms since 1970; 0: at the
// beginning).
func from(c jetstream.ConsumerConfig, sequence uint64, at int64) jetstream.ConsumerConfig {
	switch {
	case sequence > 0:
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, sequence+1
	case at > 0:
		begin := time.UnixMilli(at)
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &begin
	default:
		c.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	return c
}
