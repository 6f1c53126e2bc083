package admin

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// walk gives fn the messages of a part of a stream (see read), in order, until it returns false or an error, or there
// are no more.
func (d *Desk) walk(ctx context.Context, stream string, c jetstream.ConsumerConfig, fn func(jetstream.Msg, *jetstream.MsgMetadata) (bool, error)) error {
	r, err := d.read(ctx, stream, c)
	if err != nil {
		return err
	}
	defer r.close(ctx)
	for {
		m, meta, err := r.next(ctx)
		if err != nil || m == nil {
			return err
		}
		if more, err := fn(m, meta); err != nil || !more {
			return err
		}
	}
}
