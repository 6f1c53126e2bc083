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
	// doorClose is how long the request door of a term that has ended waits for what is on its way.
	doorClose = time.Second
	// publishTimeout is how long the log may take to take a batch.
	publishTimeout = 5 * time.Second
	// lookBack is how far before the log's last message the archive is published again at the start of a term: what
	// was archived and not yet published when the owner before this one died, and what a server that syncs every two
	// minutes has lost.
	lookBack = 2 * time.Minute
	// firstPurge is how long after its begin a term purges first, at the latest.
	firstPurge = time.Minute
	// headsMost is how many heads a term remembers before it begins anew.
	headsMost = 100_000
	// hintTimeout is how long Redis may take to raise the heads of a batch, and hintRest how long it is left alone
	// after it did not: a Redis that hangs must not slow every batch down.
	hintTimeout = 500 * time.Millisecond
	hintRest    = time.Second
)

// term is the time in which this process owns one partition. Everything in it belongs to one goroutine.
type term struct {
	*Service
	partition int
	heads     archive.Heads
	stream    chan jetstream.Msg // from the partition's stream
	door      chan *nats.Msg     // from the request door
	hinted    time.Time          // when Redis last failed to raise heads
	logged    uint64             // the log's sequence that was written last
	torn      uint64             // the log has gone back to this sequence, and what it lost is not in it again; 0: no
}

// own is one term. It returns when ctx ends: somebody else owns the partition then, or the process stops.
func (s *Service) own(ctx context.Context, p int) error {
	t := &term{
		Service: s, partition: p, heads: make(archive.Heads),
		// A buffer, so that what comes while a batch is worked on makes up the next one.
		stream: make(chan jetstream.Msg, batchMost), door: make(chan *nats.Msg, doorQueue),
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
	err = group.Wait()
	t.closeDoor(sub)
	return err
}

// closeDoor ends the term's subscription. Requests that are on their way to it are refused, not left to a time-out.
func (t *term) closeDoor(sub *nats.Subscription) {
	closed := sub.StatusChanged(nats.SubscriptionClosed)
	if err := sub.Drain(); err != nil {
		return // the connection is closed: nobody can be answered
	}
	select {
	case <-closed: // the server has sent what there was
	case <-time.After(doorClose):
		_ = sub.Unsubscribe() // NATS is away; the requests are lost with it
	}
	t.refuseWaiting()
}

// run is the term's loop: publish again what the last owner may have left, then a batch after the other.
func (t *term) run(ctx context.Context) error {
	reconnected := t.nc.StatusChanged(nats.CONNECTED)
	defer t.nc.RemoveStatusListener(reconnected)
	t.republish(ctx)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-reconnected:
			t.republish(ctx)
		case msg := <-t.stream:
			t.work(ctx, t.gather(t.fromStream(msg)))
		case msg := <-t.door:
			t.work(ctx, t.gather(t.fromDoor(msg)))
		}
		if t.torn > 0 {
			t.republish(ctx)
		}
	}
	return nil
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
			batch = append(batch, t.fromDoor(msg))
		default:
			return batch
		}
	}
	return batch
}

// work does a batch: archive, heads, log, quarantine, and only then acknowledge. It insists until it is done; when ctx
// ends before that nothing is acknowledged, and the next owner does it again.
func (t *term) work(ctx context.Context, batch []intake) {
	var good []*message.Message
	var from []int // good[i] came in as batch[from[i]]
	for i, in := range batch {
		if in.refusal == nil {
			good, from = append(good, in.message), append(from, i)
		}
	}
	var outcomes []archive.Outcome
	err := t.insist(ctx, "archive", batch, func(ctx context.Context) (err error) {
		if len(good) == 0 {
			return nil
		}
		if outcomes, err = t.archive.Append(ctx, t.partition, good, t.heads); err != nil || len(t.heads) > headsMost {
			t.heads = make(archive.Heads)
		}
		return err
	})
	if err != nil {
		return
	}
	archived := settle(batch, from, outcomes)
	t.raiseHeads(ctx, archived)
	err = t.insist(ctx, "publish to the log", batch, func(ctx context.Context) error { return t.publish(ctx, archived) })
	if err == nil {
		err = t.insist(ctx, "quarantine", batch, func(ctx context.Context) error { return t.quarantine(ctx, batch) })
	}
	if err == nil {
		t.finish(batch)
	}
}

// settle takes in what the archive said of each message, outcomes[i] being that of batch[from[i]], and returns what
// goes into the log: new messages, and those that were there already, under their own sequence.
func settle(batch []intake, from []int, outcomes []archive.Outcome) []*message.Message {
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
	return archived
}

// refuseRequests tells those who wait at the request door that they must ask again. Their messages stay in the batch:
// a part of it may be in the archive, and what is there must come into the log.
func refuseRequests(batch []intake) {
	for i := range batch {
		if in := &batch[i]; in.request != nil {
			in.answer(nil, problem.New(problem.Unavailable, "the archive or the log does not answer; try again in a moment"))
			in.request = nil
		}
	}
}

// refuseWaiting refuses the requests that nobody works on yet.
func (t *term) refuseWaiting() {
	for {
		select {
		case msg := <-t.door:
			refuseRequests([]intake{{request: msg}})
		default:
			return
		}
	}
}

// insist does a step for a batch until it succeeds or ctx ends; only then it returns an error. Once it has failed
// requests are refused, those of the batch and those that come: a publisher at the request door is never left waiting
// for something that is known to be down.
func (t *term) insist(ctx context.Context, step string, batch []intake, do func(context.Context) error) error {
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		refuseRequests(batch)
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
				refuseRequests([]intake{{request: msg}})
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
	if len(heads) == 0 || time.Since(t.hinted) < hintRest {
		return
	}
	hint, cancel := context.WithTimeout(ctx, hintTimeout)
	defer cancel()
	if err := t.table.RaiseHeads(hint, heads); err != nil && ctx.Err() == nil {
		t.hinted = time.Now()
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
		case written := <-ack.Ok():
			t.follow(written)
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// follow notices when the log has gone back: what is written now has the place of something that is lost. A message
// that the log knew already tells its old place.
func (t *term) follow(written *jetstream.PubAck) {
	if written.Duplicate {
		return
	}
	if written.Sequence <= t.logged && t.torn == 0 {
		t.torn = written.Sequence
	}
	t.logged = written.Sequence
}

// republish puts into the log again what the archive holds of the partition from lookBack before the log's last
// message: the log may have lost its tail, or the last owner died between archive and log. It insists until it is done
// or ctx ends; where to begin is found out once, because what is published again ends the log next time.
func (t *term) republish(ctx context.Context) {
	since := int64(-1)
	_ = t.insist(ctx, "publish again what the archive holds", nil, func(ctx context.Context) (err error) {
		if since < 0 {
			if since, err = t.logEnd(ctx); err != nil {
				since = -1
				return err
			}
		}
		return t.archive.Since(ctx, t.partition, since, func(messages []*message.Message) error {
			return t.publish(ctx, messages)
		})
	}) // it fails only when ctx has ended: the next owner does it again
	t.torn = 0
}

// logEnd is the time of archiving (ms since 1970) from which on the log may lack messages. It goes by when the log's
// last message was archived, not by when the log took it: that may be a moment ago, by an owner who died as he
// published again. An empty log may lack everything that has not outlived its age.
func (t *term) logEnd(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stream, err := t.js.Stream(ctx, fabric.MsgStream(t.partition))
	if err != nil {
		return 0, err
	}
	last, err := t.lastLogged(ctx, stream)
	if age := stream.CachedInfo().Config.MaxAge; errors.Is(err, jetstream.ErrMsgNotFound) && age > 0 {
		return time.Now().Add(-age).UnixMilli(), nil
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	end := last.Time.UnixMilli()
	if entries, err := message.DecodeEntries(last.Data); err == nil && len(entries) == 1 && entries[0].Message != nil {
		end = entries[0].Message.Archived
	}
	return max(0, end-lookBack.Milliseconds()), nil
}

// lastLogged is the last message of the log, or the last that is left from before it was torn.
func (t *term) lastLogged(ctx context.Context, stream jetstream.Stream) (*jetstream.RawStreamMsg, error) {
	switch t.torn {
	case 0:
		return stream.GetLastMsgForSubject(ctx, subject.MsgFilter(t.partition))
	case 1:
		return nil, jetstream.ErrMsgNotFound
	default:
		return stream.GetMsg(ctx, t.torn-1)
	}
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

// purge applies the retention to the partition: soon after the term has begun, so that a laptop that is never on for
// long purges, too, and now and then.
func (t *term) purge(ctx context.Context) error {
	next := time.NewTimer(min(t.cfg.PurgeEvery, firstPurge))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-next.C:
			n, err := t.archive.Purge(ctx, t.partition, t.cfg.Policy, now)
			if err != nil && ctx.Err() == nil {
				t.faults.Note("purge", err)
			}
			if n > 0 {
				t.log.Info("purged", "partition", t.partition, "messages", n)
			}
			next.Reset(t.cfg.PurgeEvery)
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
