package collect

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// settleMost is how many terminal states go into one write.
	settleMost = 1000
	// tellMost is how many receipts one teller has under way at once.
	tellMost = 256
)

// settleAndTell stores terminal states, and publishes the receipts of those that hold: the first one of a message at a
// device, whoever stored it. It returns when both are durable. After an error it is done again, with the same receipts.
func (s *Service) settleAndTell(ctx context.Context, states []archive.Settled) error {
	for part := range slices.Chunk(states, settleMost) {
		var hold []archive.Settled
		err := s.withArchive(ctx, func(ctx context.Context) (err error) {
			hold, err = s.archive.Settle(ctx, part)
			return err
		})
		if err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		for some := range slices.Chunk(hold, tellMost) {
			if err := s.tell(ctx, some); err != nil {
				return fmt.Errorf("publish receipts: %w", err)
			}
		}
	}
	return nil
}

// tell publishes receipts and waits until the stream has them all.
func (s *Service) tell(ctx context.Context, states []archive.Settled) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	acks := make([]jetstream.PubAckFuture, 0, len(states))
	for _, state := range states {
		m, err := s.receipt(state)
		if err != nil {
			return err
		}
		ack, err := s.receipts.PublishMsgAsync(m, jetstream.WithStallWait(publishTimeout))
		if err != nil {
			return err
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// receipt is a terminal state as it is published.
func (s *Service) receipt(state archive.Settled) (*nats.Msg, error) {
	m := state.Message
	id := receiptID(s.archive.Facts().Epoch, m, state.Device)
	body, err := json.Marshal(message.Receipt{
		Receipt: id, ID: m.ID, To: m.To.String(), Seq: m.Seq, Device: state.Device, State: state.State, At: state.At,
	})
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: subject.Receipt(m.To.Tokens()), Data: body, Header: nats.Header{jetstream.MsgIDHeader: {id}}}, nil
}

// receiptID names what became of a message at a device: it is the same however often, and by whomever, it is told. Another
// archive numbers anew, so its epoch is in it.
func receiptID(epoch string, m *message.Message, device string) string {
	h := sha256.New()
	for _, part := range []string{epoch, m.To.Tokens(), device} {
		h.Write(binary.AppendUvarint(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	h.Write(binary.AppendUvarint(nil, m.Seq))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
