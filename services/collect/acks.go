package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// ackFetch is how many messages of WEFT_ACK, of up to 300 cursors each, go into one write.
	ackFetch = 32
	// ackWait is how long a fetch waits for the first of them.
	ackWait = 500 * time.Millisecond
	// ackEvery is the least time from one batch that was not full to the next: what comes meanwhile shares one write, of
	// each device's highest cursor, and a receipt is not held up for long.
	ackEvery = 250 * time.Millisecond
	// ackTimeout is how long the archive may take for each step with them.
	ackTimeout = 5 * time.Second
	// ackAgain is after how long a message comes again whose effect is not durable yet; it doubles each time, up to
	// ackLongest. The server delivers what comes again before what is new, so many that fail must not come often.
	ackAgain   = time.Second
	ackLongest = 10 * time.Second
)

// readReports takes in one kind of what push nodes and dispatches hand over on WEFT_ACK, until ctx ends. All of it commutes
// and can be done twice, so all collects read the same consumer and nobody owns it.
func (s *Service) readReports(ctx context.Context, k kind) error {
	var consumer jetstream.Consumer
	pace := time.NewTimer(0)
	defer pace.Stop()
	for ctx.Err() == nil {
		var err error
		full := false
		if consumer == nil {
			consumer, err = s.js.Consumer(ctx, fabric.AckStream, k.consumer)
		}
		pace.Reset(ackEvery)
		if err == nil {
			full, err = s.takeReports(ctx, k, consumer)
		}
		if err != nil && ctx.Err() == nil {
			s.faults.Note(k.step, err)
			if !full { // else others wait behind those that failed, and these have their own time to rest
				pause(ctx)
			}
		}
		if !full {
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// report is a message of WEFT_ACK, however it was read.
type report interface {
	Subject() string
	Headers() nats.Header
	Data() []byte
}

// kind is a kind of report, and what is done with some of it. Each has a consumer and a reader of its own: one whose step
// fails or hangs keeps no other up.
type kind struct {
	step, consumer, subjects string
	take                     func(context.Context, []report) error
}

func (s *Service) kinds() []kind {
	return []kind{
		{"raise cursors", fabric.AckConsumer, subject.AckAll, s.takeAcks},
		{"note routes", fabric.RoutedConsumer, subject.RoutedAll, s.takeRouted},
		{"note who is where", fabric.PresenceConsumer, subject.PresenceAll, s.takePresence},
	}
}

// takeReports does one batch.
func (s *Service) takeReports(ctx context.Context, k kind, consumer jetstream.Consumer) (full bool, err error) {
	batch, err := fetchReports(consumer)
	if err != nil || len(batch) == 0 {
		return false, err
	}
	reports := make([]report, len(batch))
	for i, msg := range batch {
		reports[i] = msg
	}
	return len(batch) == ackFetch, settled(batch, k.take(ctx, reports))
}

// settled acknowledges reports that have had their effect. After an error they come again soon.
func settled(batch []jetstream.Msg, failure error) error {
	for _, msg := range batch {
		end := msg.Ack
		if failure != nil {
			end = func() error { return msg.NakWithDelay(again(msg)) }
		}
		if err := end(); err != nil {
			return errors.Join(failure, fmt.Errorf("acknowledge: %w", err))
		}
	}
	return failure
}

// again is after how long a report that failed comes again.
func again(msg jetstream.Msg) time.Duration {
	delay := ackAgain
	if meta, err := msg.Metadata(); err == nil {
		for tries := meta.NumDelivered; tries > 1 && delay < ackLongest; tries-- {
			delay *= 2
		}
	}
	return min(delay, ackLongest)
}

// fetchReports waits for a message, and takes what is there with it. A fetch is not ended early, nor by a context: what the
// server has sent by then would come again only after 30 s.
func fetchReports(consumer jetstream.Consumer) (batch []jetstream.Msg, err error) {
	first, err := consumer.Fetch(1, jetstream.FetchMaxWait(ackWait))
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	for msg := range first.Messages() {
		batch = append(batch, msg)
	}
	if len(batch) == 0 {
		if err := first.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return nil, fmt.Errorf("fetch: %w", err)
		}
		return nil, nil
	}
	if more, err := consumer.FetchNoWait(ackFetch - 1); err == nil { // else the next fetch says it
		for msg := range more.Messages() {
			batch = append(batch, msg)
		}
	}
	return batch, nil
}

// takeAcks raises the cursors of a batch of acknowledgements. Receipts that are owed for them come first: their states
// are stored, then published, and only then the cursors are raised, which makes the acknowledgements old. A crash between
// any two steps repeats them, with the same receipts. While receipts can't be published, the cursors that owe none are
// raised all the same; the others wait, and Redis has them.
func (s *Service) takeAcks(ctx context.Context, msgs []report) error {
	cursors := s.cursorsOf(msgs)
	if len(cursors) == 0 {
		return nil
	}
	var owed []archive.Settled
	err := s.withArchive(ctx, func(ctx context.Context) (err error) {
		owed, err = s.archive.Asked(ctx, cursors)
		return err
	})
	if err != nil {
		return fmt.Errorf("ask for receipts: %w", err)
	}
	if len(owed) > 0 {
		if err := s.settleAndTell(ctx, owed); err != nil {
			return errors.Join(err, s.advance(ctx, without(cursors, owed)))
		}
	}
	return s.advance(ctx, cursors)
}

func (s *Service) advance(ctx context.Context, cursors []history.Cursor) error {
	if len(cursors) == 0 {
		return nil
	}
	cursors = highest(cursors)
	err := s.withArchive(ctx, func(ctx context.Context) error { return s.archive.Advance(ctx, cursors) })
	if err != nil {
		return fmt.Errorf("advance: %w", err)
	}
	return nil
}

// withArchive is a step of the archive with what was taken in: it is bounded, and finished also when ctx ends, since doing
// it again costs more.
func (s *Service) withArchive(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	return do(ctx)
}

// cursorsOf reads acknowledgements. Those of an archive that was before this one are left out: their numbers would hide
// new messages.
func (s *Service) cursorsOf(msgs []report) []history.Cursor {
	var cursors []history.Cursor
	now := time.Now().UnixMilli()
	for _, msg := range msgs {
		var some []history.Cursor
		if s.ofThisEpoch(msg) && s.readReport(msg, &some) {
			node := strings.TrimPrefix(msg.Subject(), subject.Ack(""))
			for _, c := range some {
				if _, err := subject.ParseTokens(c.Address); err != nil {
					s.faults.Note("read an acknowledgement", err) // it must not keep the others up
					continue
				}
				if c.Node = node; c.At == 0 || c.At > now { // of an older node, or one whose clock is ahead
					c.At = now
				}
				cursors = append(cursors, c)
			}
		}
	}
	return cursors
}

func (s *Service) ofThisEpoch(msg report) bool {
	said := msg.Headers().Get(history.HeaderEpoch)
	return said == "" || said == s.archive.Facts().Epoch
}

// readReport decodes a report. Only our own services write here: of one that can't be read there is nothing to save.
func (s *Service) readReport(msg report, v any) bool {
	if err := json.Unmarshal(msg.Data(), v); err != nil {
		s.faults.Note("read a report", err)
		return false
	}
	return true
}

// highest are the highest cursor of each device in each mailbox, which is all that a batch has to say.
func highest(cursors []history.Cursor) []history.Cursor {
	type place struct{ tenant, user, device, address string }
	at := make(map[place]int, len(cursors))
	merged := make([]history.Cursor, 0, len(cursors))
	for _, c := range cursors {
		of := place{c.Tenant, c.User, c.Device, c.Address}
		i, seen := at[of]
		switch {
		case !seen:
			at[of] = len(merged)
			merged = append(merged, c)
		case c.Seq > merged[i].Seq:
			merged[i] = c
		}
	}
	return merged
}

// without are the cursors of those devices and mailboxes that are owed no receipt.
func without(cursors []history.Cursor, owed []archive.Settled) []history.Cursor {
	type place struct{ tenant, user, device, address string }
	owes := make(map[place]bool, len(owed))
	for _, o := range owed {
		to := o.Message.To
		owes[place{to.Tenant, to.ID, o.Device, to.Tokens()}] = true
	}
	return slices.DeleteFunc(slices.Clone(cursors), func(c history.Cursor) bool {
		return owes[place{c.Tenant, c.User, c.Device, c.Address}]
	})
}
