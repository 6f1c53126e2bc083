package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
)

const (
	// ackFetch is how many messages of WEFT_ACK, of up to 500 cursors each, go into one write.
	ackFetch = 32
	// ackWait is how long a fetch waits for the first of them.
	ackWait = time.Second
	// ackTimeout is how long the archive may take for them.
	ackTimeout = 5 * time.Second
)

// readAcks raises cursors by what push nodes hand over, until ctx ends. Raising commutes and can be done twice, so
// all collects read the same consumer and nobody owns it.
func (s *Service) readAcks(ctx context.Context) error {
	var consumer jetstream.Consumer
	for ctx.Err() == nil {
		var err error
		if consumer == nil {
			consumer, err = s.js.Consumer(ctx, fabric.AckStream, fabric.CollectConsumer)
		}
		if err == nil {
			err = s.raiseCursors(ctx, consumer)
		}
		if err != nil && ctx.Err() == nil {
			s.faults.Note("raise cursors", err)
			pause(ctx)
		}
	}
	return nil
}

// raiseCursors does one batch: what was fetched is acknowledged after the archive has it.
func (s *Service) raiseCursors(ctx context.Context, consumer jetstream.Consumer) error {
	waiting, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	fetched, err := consumer.Fetch(ackFetch, jetstream.FetchContext(waiting))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	var batch []jetstream.Msg
	var cursors []history.Cursor
	epoch := s.archive.Facts().Epoch
	for msg := range fetched.Messages() {
		batch = append(batch, msg)
		if said := msg.Headers().Get(history.HeaderEpoch); said != "" && said != epoch {
			continue // the numbers of an archive that was before this one: they would hide new messages
		}
		var some []history.Cursor
		if err := json.Unmarshal(msg.Data(), &some); err != nil {
			s.faults.Note("read acknowledgements", err) // only our own nodes write here: nothing to save
			continue
		}
		cursors = append(cursors, some...)
	}
	if err := fetched.Error(); err != nil && waiting.Err() == nil && len(batch) == 0 {
		return fmt.Errorf("fetch: %w", err)
	}
	if len(cursors) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
		defer cancel()
		if err := s.archive.Advance(ctx, cursors); err != nil {
			return fmt.Errorf("advance: %w", err)
		}
	}
	for _, msg := range batch {
		if err := msg.Ack(); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	return nil
}
