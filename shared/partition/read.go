package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// patience bounds a request to JetStream.
	patience = 2 * time.Second
	// expiry is how long a pull waits at the server. A dead reader's pull can swallow messages for as long.
	expiry = time.Second
	// idle is after how long without a message a reader asks whether one was swallowed. It must exceed expiry.
	idle = 1500 * time.Millisecond
	// ahead is how many messages the client library holds that were not forwarded yet.
	ahead = 1000
	// again is the pause before a reset that follows one which brought nothing: two readers that do not know of each
	// other yet, or a leader that is being elected.
	again = 50 * time.Millisecond
)

// errHole is the error of a delivery that is not the one expected.
var errHole = errors.New("a delivery is missing")

// Read forwards the messages of a consumer to out: all that are not acknowledged, in the order of the stream, none left
// out, until ctx ends; then it returns nil. It blocks while out is full. Whoever receives must acknowledge each message
// itself, and may get one twice: when deliveries are disturbed (a restart, another reader, 30 s without an acknowledgement)
// everything unacknowledged is forwarded once more from the first on.
//
// It survives restarts of servers and reconnects. It returns an error when the stream or the consumer does not exist.
//
// Only one reader should be at work. When another one resets the consumer, this one notices and resets it too: the
// newer owner wins because the older one's ctx ends.
func Read(ctx context.Context, js jetstream.JetStream, stream, consumer string, out chan<- jetstream.Msg) error {
	for ctx.Err() == nil {
		forwarded, err := readOnce(ctx, js, stream, consumer, out)
		if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDoesNotExist) {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if !forwarded {
			pause(ctx, again)
		}
	}
	return nil
}

// readOnce resets the consumer and forwards until something is missing.
func readOnce(ctx context.Context, js jetstream.JetStream, stream, name string, out chan<- jetstream.Msg) (forwarded bool, err error) {
	opening, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	consumer, err := js.Consumer(opening, stream, name)
	if err != nil {
		return false, fmt.Errorf("look up the consumer: %w", err)
	}
	// The reset forgets what was delivered and numbers deliveries from 1 again, beginning with the first message that
	// is not acknowledged. Pulls of others stay; so the first delivery that is seen here must be number 1.
	if _, err := js.ResetConsumer(opening, stream, name); err != nil {
		return false, fmt.Errorf("reset the consumer: %w", err)
	}
	err = follow(ctx, consumer, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if meta.NumDelivered > 1 {
			return fmt.Errorf("%w: message %d is delivered again, behind later ones", errHole, meta.Sequence.Stream)
		}
		select {
		case out <- m:
			forwarded = true
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return forwarded, err
}

// follow calls take for each delivery of the consumer, from number 1 on and without a hole, until ctx ends, take
// fails, or something may be missing; it returns why. Deliveries that wait behind a hole are dropped.
func follow(ctx context.Context, consumer jetstream.Consumer, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	messages, err := consumer.Messages(jetstream.PullExpiry(expiry), jetstream.PullMaxMessages(ahead))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)() // it makes Next return
	last, checked := uint64(0), false
	for {
		m, err := messages.Next(jetstream.NextMaxWait(idle))
		if errors.Is(err, nats.ErrTimeout) && !checked {
			checked, err = nothingSwallowed(ctx, consumer, last)
		}
		switch {
		case errors.Is(err, nats.ErrTimeout):
			continue
		case err != nil:
			return fmt.Errorf("next message: %w", err)
		case m == nil:
			continue
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read the place of a message: %w", err)
		}
		if meta.Sequence.Consumer != last+1 {
			return fmt.Errorf("%w: %d came after %d", errHole, meta.Sequence.Consumer, last)
		}
		if err := take(m, meta); err != nil {
			return err
		}
		last, checked = meta.Sequence.Consumer, false
	}
}

// nothingSwallowed asks the server whether the consumer's last delivery is the last one seen here. Without it, messages
// that a dead reader's pull took with no later ones behind them would wait for their acknowledgement time, 30 s.
func nothingSwallowed(ctx context.Context, consumer jetstream.Consumer, last uint64) (bool, error) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := consumer.Info(asking)
	if err != nil {
		return false, fmt.Errorf("look up the consumer: %w", err)
	}
	if info.Delivered.Consumer != last {
		return false, fmt.Errorf("%w: the server has delivered %d, %d came", errHole, info.Delivered.Consumer, last)
	}
	return true, nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
