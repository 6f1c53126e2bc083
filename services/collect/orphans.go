package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
)

// adoptEvery is how often WEFT_ACK is looked at for orphans. Receipts and events wait for them as for all reports.
const adoptEvery = 10 * time.Second

// adopt takes in what a restart of the NATS server has orphaned in WEFT_ACK: its consumer holds it for acknowledged, although
// nobody has been given it, so nobody ever will (nats-server 2.15.2; partition.Read meets the same on the other work
// queues, and resets its consumer, which has one reader; this one has many). One of all collects does it.
func (s *Service) adopt(ctx context.Context) error {
	look := time.NewTicker(adoptEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		for _, k := range s.kinds() {
			if err := s.takeOrphans(ctx, k); err != nil && ctx.Err() == nil {
				s.faults.Note("take in what the server left behind", err)
			}
		}
	}
}

// orphan is a report that was read from the stream itself.
type orphan struct{ *jetstream.RawStreamMsg }

func (o orphan) Subject() string      { return o.RawStreamMsg.Subject }
func (o orphan) Headers() nats.Header { return o.Header }
func (o orphan) Data() []byte         { return o.RawStreamMsg.Data }

// takeOrphans takes in what is left of a kind at or below its consumer's floor, and removes each report once it has had its
// effect. Where there is nothing it costs three questions.
func (s *Service) takeOrphans(ctx context.Context, k kind) error {
	ctx, cancel := context.WithTimeout(ctx, adoptEvery)
	defer cancel()
	reader, err := s.js.Consumer(ctx, fabric.AckStream, k.consumer)
	if err != nil {
		return err
	}
	floor := reader.CachedInfo().AckFloor.Stream // before the stream is looked at: what is acknowledged meanwhile is gone from there
	stream, err := s.js.Stream(ctx, fabric.AckStream)
	if err != nil {
		return err
	}
	for next := stream.CachedInfo().State.FirstSeq; next <= floor; {
		raw, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(k.subjects))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && raw.Sequence > floor {
			return nil
		}
		if err != nil {
			return err
		}
		if err := k.take(ctx, []report{orphan{raw}}); err != nil {
			return fmt.Errorf("%s: %w", k.step, err)
		}
		if err := stream.DeleteMsg(ctx, raw.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("remove it: %w", err)
		}
		next = raw.Sequence + 1
	}
	return nil
}
