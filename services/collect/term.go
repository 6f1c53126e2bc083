package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// batchMost and batchBytes bound a batch: enough to share one commit among many, small enough that its messages
	// are on their way within milliseconds.
	batchMost  = 512
	batchBytes = 1 << 20
	// doorQueue is how many requests may wait for the owner's loop.
	doorQueue = 4096
	// publishTimeout is how long the log may take to take a batch.
	publishTimeout = 5 * time.Second
	// lookBack is how far before the log's last message the archive is published again at the start of a term: what
	// was archived and not yet published when the owner before this one died.
	lookBack = 2 * time.Minute
)

// term is the time in which this process owns one partition. Everything in it belongs to one goroutine.
type term struct {
	*Service
	partition int
	heads     archive.Heads
	stream    chan jetstream.Msg // from the partition's stream
	door      chan *nats.Msg     // from the request door
}

// own is one term. It returns when ctx ends: somebody else owns the partition then, or the process stops.
func (s *Service) own(ctx context.Context, p int) error {
	t := &term{
		Service: s, partition: p, heads: make(archive.Heads),
		stream: make(chan jetstream.Msg), door: make(chan *nats.Msg, doorQueue),
	}
	sub, err := s.nc.ChanSubscribe(subject.Collect(p), t.door)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject.Collect(p), err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return partition.Read(ctx, s.js, fabric.InStream(p), fabric.CollectConsumer, t.stream)
	})
	group.Go(func() error { return t.run(ctx) })
	group.Go(func() error { return t.purge(ctx) })
	return errors.Join(group.Wait(), sub.Unsubscribe())
}

// run is the term's loop: publish again what the last owner may have left, then a batch after the other.
func (t *term) run(ctx context.Context) error {
	reconnected := t.nc.StatusChanged(nats.CONNECTED)
	defer t.nc.RemoveStatusListener(reconnected)
	if err := t.insist(ctx, "publish again what the archive holds", t.republish); err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-reconnected:
			if err := t.insist(ctx, "publish again what the archive holds", t.republish); err != nil {
				return nil //nolint:nilerr // ctx has ended
			}
		case msg := <-t.stream:
			t.work(ctx, t.gather(t.fromStream(msg)))
		case msg := <-t.door:
			t.work(ctx, t.gather(fromDoor(msg)))
		}
	}
}

// gather adds to a first intake what is there already. It waits for nothing: under load the batches grow by
// themselves, and a single message is never held up.
func (t *term) gather(first intake) []intake {
	batch := []intake{first}
	for size := first.size(); len(batch) < batchMost && size < batchBytes; size += batch[len(batch)-1].size() {
		select {
		case msg := <-t.stream:
			batch = append(batch, t.fromStream(msg))
		case msg := <-t.door:
			batch = append(batch, fromDoor(msg))
		default:
			return batch
		}
	}
	return batch
}

// work does a batch: archive, heads, log, and only then acknowledge. It insists until it is done; when ctx ends before
// that nothing is acknowledged, and the next owner does it again.
func (t *term) work(ctx context.Context, batch []intake) {
	var good []*message.Message
	var from []int // good[i] came in as batch[from[i]]
	for i, in := range batch {
		if in.refusal == nil {
			good, from = append(good, in.message), append(from, i)
		}
	}
	var outcomes []archive.Outcome
	err := t.insist(ctx, "archive", func(ctx context.Context) (err error) {
		if len(good) > 0 {
			outcomes, err = t.archive.Append(ctx, t.partition, good, t.heads)
		}
		if err != nil {
			t.heads = make(archive.Heads)
			refuseRequests(batch)
		}
		return err
	})
	if err != nil {
		return
	}
	archived := make([]*message.Message, 0, len(outcomes))
	for i, o := range outcomes {
		in := &batch[from[i]]
		if o.Fate == archive.Conflict {
			in.refusal = problem.New(problem.Conflict, "the id %q of %s belongs to a message with another body; use a new id", o.Message.ID, o.Message.To).In(message.HeaderID)
			continue
		}
		in.message = o.Message
		if len(o.Message.Payload) > 0 {
			archived = append(archived, o.Message)
		}
	}
	t.raiseHeads(ctx, archived)
	err = t.insist(ctx, "publish to the log", func(ctx context.Context) error { return t.publish(ctx, archived) })
	if err == nil {
		err = t.insist(ctx, "quarantine", func(ctx context.Context) error { return t.quarantine(ctx, batch) })
	}
	if err == nil {
		t.finish(batch)
	}
}

// refuseRequests tells those who wait at the request door at once that the archive does not answer. They leave the
// batch; what came through the stream stays in it until the archive is back.
func refuseRequests(batch []intake) {
	for i := range batch {
		if in := &batch[i]; in.request != nil {
			in.answer(nil, problem.New(problem.Unavailable, "the archive does not answer; try again in a moment"))
			in.request = nil
		}
	}
}

// insist does a step until it succeeds or ctx ends; only then it returns an error. Meanwhile requests are refused at
// once: a publisher at the request door is never left waiting for something that is known to be down.
func (t *term) insist(ctx context.Context, step string, do func(context.Context) error) error {
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t.faults.Note(step, err)
		retry := time.After(retryAfter)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case msg := <-t.door:
				refuseRequests([]intake{fromDoor(msg)})
			case <-retry:
				waiting = false
			}
		}
	}
}

// raiseHeads tells Redis before the log: whoever compares heads later sees the message, even if its frame is lost.
func (t *term) raiseHeads(ctx context.Context, archived []*message.Message) {
	heads := make(map[subject.Address]uint64, len(archived))
	for _, m := range archived {
		heads[m.To] = max(heads[m.To], m.Seq)
	}
	if len(heads) == 0 {
		return
	}
	if err := t.table.RaiseHeads(ctx, heads); err != nil && ctx.Err() == nil {
		t.faults.Note("raise heads in Redis", err) // a cache: dispatch raises them again
	}
}

// publish puts messages into the log and waits until it has them all. Doing it twice is harmless: the log drops what
// it saw within its window, and nodes drop what they sent.
func (t *term) publish(ctx context.Context, messages []*message.Message) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	acks := make([]jetstream.PubAckFuture, 0, len(messages))
	for _, m := range messages {
		ack, err := t.js.PublishMsgAsync(&nats.Msg{
			Subject: subject.Msg(t.partition, m.To),
			Header:  nats.Header{jetstream.MsgIDHeader: {fmt.Sprintf("%s/%d", m.To.Tokens(), m.Seq)}},
			Data:    message.AppendEntry(nil, m.To, message.Entry{From: m.Seq, To: m.Seq, Message: m}),
		}, jetstream.WithStallWait(publishTimeout))
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

// republish puts into the log again what the archive holds of the partition from lookBack before the log's last
// message: the log may have lost its tail, or the last owner died between archive and log.
func (t *term) republish(ctx context.Context) error {
	stream, err := t.js.Stream(ctx, fabric.MsgStream(t.partition))
	if err != nil {
		return err
	}
	since := int64(0)
	last, err := stream.GetLastMsgForSubject(ctx, subject.MsgFilter(t.partition))
	switch {
	case err == nil:
		since = last.Time.Add(-lookBack).UnixMilli()
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return err
	}
	return t.archive.Since(ctx, t.partition, since, func(messages []*message.Message) error {
		return t.publish(ctx, messages)
	})
}

// finish answers and acknowledges. What gets lost here comes again and is found in the archive.
func (t *term) finish(batch []intake) {
	for i := range batch {
		in := &batch[i]
		if in.request != nil {
			in.answer(in.message, in.refusal)
		}
		if in.delivery == nil {
			continue
		}
		if err := in.delivery.Ack(); err != nil {
			t.faults.Note("acknowledge", err)
		}
	}
}

// purge applies the retention to the partition, now and then.
func (t *term) purge(ctx context.Context) error {
	ticker := time.NewTicker(t.cfg.PurgeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			n, err := t.archive.Purge(ctx, t.partition, t.cfg.Policy, now)
			if err != nil && ctx.Err() == nil {
				t.faults.Note("purge", err)
			}
			if n > 0 {
				t.log.Info("purged", "partition", t.partition, "messages", n)
			}
		}
	}
}

// size is what an intake counts in a batch, in bytes.
func (in *intake) size() int {
	if in.message == nil {
		return 0
	}
	return len(in.message.Payload)
}

// answer tells the request door what became of its message. It only fails on a closed connection: the publisher asks
// again.
func (in *intake) answer(m *message.Message, refusal *problem.Problem) {
	if refusal != nil {
		_ = in.request.RespondMsg(rpc.Refusal(refusal))
		return
	}
	body, err := json.Marshal(message.Receipt{ID: m.ID, To: m.To.String(), Seq: m.Seq, State: message.StateArchived, At: m.Archived})
	if err == nil {
		_ = in.request.Respond(body)
	}
}
