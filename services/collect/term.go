package collect

import (
	"context"
	"encoding/json"
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
	// firstPurge is how long after its begin a term purges first, at the latest.
	firstPurge = time.Minute
	// headsMost is how many heads a term remembers before it begins anew.
	headsMost = 100_000
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
	refused   map[string]int     // by message: how often the log refused it for good

	answerBy time.Time     // when requests of the batch at work are refused
	away     bool          // something is known not to answer
	why      string        // what
	patience time.Duration // how long the archive may take for a batch

	begun     bool // the first message of the stream has come
	singly    int  // so many messages more are worked on alone
	trial     *partition.Trial
	suspects  map[subject.Address]*suspect
	held      int       // they and the messages behind them
	kept      time.Time // when the server was last told that they are held
	convicted int       // messages set aside since one was stored
}

// own is one term. It returns when ctx ends: somebody else owns the partition then, or the process stops.
func (s *Service) own(ctx context.Context, p int) error {
	t := &term{
		Service: s, partition: p, heads: make(archive.Heads),
		// A buffer, so that what comes while a batch is worked on makes up the next one.
		stream: make(chan jetstream.Msg, batchMost), door: make(chan *nats.Msg, doorQueue),
		why: "archive: no answer yet", refused: make(map[string]int), patience: appendTimeout, suspects: make(map[subject.Address]*suspect),
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
	group.Go(func() error { return t.settle(ctx) })
	group.Go(func() error { return s.announce(ctx, p) })
	group.Go(func() error { return s.lookForWaiting(ctx, p) })
	if p == 0 {
		group.Go(func() error { return s.probeNodes(ctx) })
		group.Go(func() error { return s.adopt(ctx) })
	}
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
	again := time.NewTicker(examineEvery)
	defer again.Stop()
	for ctx.Err() == nil {
		stream := t.stream
		if t.held >= heldMost {
			stream = nil
		}
		select { // before what comes next: a log that has gone back must have the old before the new
		case <-reconnected:
			t.republish(ctx)
		default:
		}
		select {
		case <-ctx.Done():
		case <-reconnected:
			t.republish(ctx)
		case msg := <-stream:
			t.take(ctx, msg)
		case msg := <-t.door:
			t.work(ctx, t.gather(t.fromDoor(msg)))
		case <-again.C:
			t.examine(ctx)
		}
		if t.torn > 0 {
			t.republish(ctx)
		}
	}
	for _, s := range t.suspects {
		t.letGo(s.batch)
	}
	return nil
}

// take works on a message of the stream and what came with it. The term's first message is on trial: if it kills this
// process, the next owner knows. Where it has killed some already, messages are worked on alone for as long as a batch may
// be, each on trial, until the one that kills is found; that one is set aside without being looked into.
func (t *term) take(ctx context.Context, msg jetstream.Msg) {
	if t.begun && t.singly == 0 {
		t.work(ctx, t.gather(t.fromStream(msg)))
		return
	}
	deaths := t.tryOut(ctx, msg)
	defer func() { t.trial.Survived() }()
	if ctx.Err() != nil {
		return
	}
	t.begun, t.singly = true, max(0, t.singly-1)
	if deaths >= partition.Suspicious {
		t.log.Warn("owners died at a message; it and those behind it are worked on alone", "partition", t.partition, "deaths", deaths)
		t.singly = batchMost
	}
	if deaths >= partition.Deadly {
		t.work(ctx, []intake{t.deadly(msg, deaths)})
		return
	}
	if t.singly > 0 {
		t.work(ctx, []intake{t.fromStream(msg)})
		return
	}
	t.work(ctx, t.gather(t.fromStream(msg)))
}

// tryOut puts a message on trial and says how many owners died at it. The bucket is no reason to stop: without it the
// message counts as new.
func (t *term) tryOut(ctx context.Context, msg jetstream.Msg) int {
	var trial *partition.Trial
	t.answerBy = time.Now().Add(answerWithin)
	err := t.attempt(ctx, "record the first message", nil, func(ctx context.Context) (err error) {
		trial, err = t.trials.Begin(ctx, t.partition, msg, t.archiveAnswers)
		return err
	})
	if t.trial = trial; err == nil {
		return trial.Deaths
	}
	if ctx.Err() == nil {
		t.faults.Note("record the first message", err)
	}
	return 0
}

// archiveAnswers waits until it does.
func (t *term) archiveAnswers(ctx context.Context) error {
	for {
		if err := t.ping(ctx); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		pause(ctx)
	}
}

// gather adds to a first intake what is there already. It waits for nothing: under load the batches grow by
// themselves, and a single message is never held up. Messages of the stream that have to go on trial are left there.
func (t *term) gather(first intake) []intake {
	batch, stream := []intake{first}, t.stream
	if !t.begun || t.singly > 0 || t.held >= heldMost {
		stream = nil
	}
	for size := first.size(); len(batch) < batchMost && size < batchBytes; size += batch[len(batch)-1].size() {
		select {
		case msg := <-stream:
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
// ends before that nothing is acknowledged, and the next owner does it again. What fails alone while the archive works
// becomes a suspect, and is not waited for.
func (t *term) work(ctx context.Context, batch []intake) {
	t.answerBy = time.Now().Add(answerWithin)
	if done := t.store(ctx, t.behind(batch), patiently); len(done) > 0 {
		t.handOn(ctx, done)
	}
}

// handOn finishes what has its fate: in the archive, or refused.
func (t *term) handOn(ctx context.Context, batch []intake) {
	archived := make([]*message.Message, 0, len(batch))
	for i := range batch {
		if in := &batch[i]; in.refusal == nil && len(in.message.Payload) > 0 {
			archived = append(archived, in.message)
		}
	}
	t.raiseHeads(ctx, archived)
	err := t.insist(ctx, "publish to the log", batch, func(ctx context.Context) (err error) {
		archived, err = t.publish(ctx, archived)
		return err
	})
	if err == nil {
		err = t.insist(ctx, "quarantine", batch, func(ctx context.Context) error { return t.quarantine(ctx, batch) })
	}
	if err == nil {
		t.finish(batch)
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
// long purges, too, and now and then. Receipts that are owed for what it deletes are settled before.
func (t *term) purge(ctx context.Context) error {
	next := time.NewTimer(min(t.cfg.PurgeEvery, firstPurge))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-next.C:
			if err := t.settleDeleted(ctx, now); err != nil {
				if ctx.Err() == nil {
					t.faults.Note("settle the receipts of what is to be purged", err)
				}
				next.Reset(min(t.cfg.PurgeEvery, firstPurge))
				continue
			}
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
