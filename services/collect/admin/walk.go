package admin

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// walk gives fn the messages of a part of a stream (see read), in order, until it returns false or an error, or there
// are no more. What got lost on its way from the stream is read again.
func (d *Desk) walk(ctx context.Context, stream string, c jetstream.ConsumerConfig, fn func(jetstream.Msg, *jetstream.MsgMetadata) (bool, error)) error {
	for {
		last, err := d.walkOn(ctx, stream, c, fn)
		if !errors.Is(err, errHole) {
			return err
		}
		if last > 0 {
			c.OptStartTime = nil
			c = from(c, last, 0)
		}
	}
}

// walkOn is one reading of a walk; last is the stream's sequence that fn was given last.
func (d *Desk) walkOn(ctx context.Context, stream string, c jetstream.ConsumerConfig, fn func(jetstream.Msg, *jetstream.MsgMetadata) (bool, error)) (last uint64, err error) {
	r, err := d.read(ctx, stream, c)
	if err != nil {
		return 0, err
	}
	defer r.close(ctx)
	for r.left > 0 {
		m, meta, err := r.next()
		if err != nil {
			return last, err
		}
		last = meta.Sequence.Stream
		if more, err := fn(m, meta); err != nil || !more {
			return last, err
		}
	}
	return last, nil
}
