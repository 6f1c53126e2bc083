package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// publishTimeout is how long the log may take to take a batch.
	publishTimeout = 3 * time.Second
	// lookBack is how far before the log's last message the archive is published again at the start of a term: what
	// was archived and not yet published when the owner before this one died, and what a server that syncs every two
	// minutes has lost.
	lookBack = 2 * time.Minute
	// sinceTimeout is how long the archive may take for the next chunk of what is published again.
	sinceTimeout = 5 * time.Second
	// refusedMost is how often the log may refuse a message for good until it goes on without it, and refusedKnown how
	// many such messages a term remembers before it begins anew.
	refusedMost  = 3
	refusedKnown = 1000
	// hintTimeout is how long Redis may take to raise the heads of a batch, and hintRest how long it is left alone
	// after it did not: a Redis that hangs must not slow every batch down.
	hintTimeout = 500 * time.Millisecond
	hintRest    = time.Second
)

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

// publish puts messages into the log and waits until it has them all; it returns those that it has not, with the error
// of one of them. Doing it twice is harmless: the log drops what it saw within its window, and nodes drop what they sent.
// A message that the log refuses for what it is, again and again, is left out: it is archived and the heads are raised,
// so the nodes' sweeps find it.
func (t *term) publish(ctx context.Context, messages []*message.Message) (left []*message.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	acks := make([]jetstream.PubAckFuture, len(messages))
	failed := make([]error, len(messages))
	for i, m := range messages {
		acks[i], failed[i] = t.js.PublishMsgAsync(&nats.Msg{
			Subject: subject.Msg(t.partition, m.To),
			Header:  nats.Header{jetstream.MsgIDHeader: {logID(m)}},
			Data:    message.AppendEntry(nil, m.To, message.Entry{From: m.Seq, To: m.Seq, Message: m}),
		}, jetstream.WithStallWait(publishTimeout))
		if failed[i] != nil && !forGood(failed[i]) {
			messages, left = messages[:i], append(left, messages[i:]...) // the connection can't take any now
			err = failed[i]
			break
		}
	}
	again := make([]*message.Message, 0, len(left))
	for i, m := range messages {
		if failed[i] == nil {
			failed[i] = t.written(ctx, acks[i])
		}
		if failed[i] != nil && !t.leaveOut(m, failed[i]) {
			again, err = append(again, m), failed[i]
		}
	}
	return append(again, left...), err
}

// logID is the id under which the log knows a message.
func logID(m *message.Message) string { return fmt.Sprintf("%s/%d", m.To.Tokens(), m.Seq) }

// written waits for the log's answer.
func (t *term) written(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case written := <-ack.Ok():
		t.follow(written)
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forGood says whether an error of the log is about this message and will stay: it is too large.
func forGood(err error) bool {
	const streamMessageExceedsMaximum = 10054 // nats-server's JSStreamMessageExceedsMaximumErr
	said, ok := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, nats.ErrMaxPayload) || ok && said.ErrorCode == streamMessageExceedsMaximum
}

// leaveOut counts how often the log has refused a message for good, and says whether it goes on without it.
func (t *term) leaveOut(m *message.Message, err error) bool {
	if !forGood(err) {
		return false
	}
	if len(t.refused) >= refusedKnown {
		clear(t.refused)
	}
	id := logID(m)
	if t.refused[id]++; t.refused[id] == refusedMost {
		t.log.Error("the log refuses a message for good; it is archived and goes on without it", "partition", t.partition, "to", m.To, "seq", m.Seq, "id", m.ID, "err", err)
	}
	return t.refused[id] >= refusedMost
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
	t.answerBy = time.Now().Add(answerWithin)
	_ = t.insist(ctx, "publish again what the archive holds", nil, func(ctx context.Context) (err error) {
		if since < 0 {
			if since, err = t.logEnd(ctx); err != nil {
				since = -1
				return err
			}
		}
		return t.since(ctx, since)
	}) // it fails only when ctx has ended: the next owner does it again
	t.torn = 0
}

// since publishes what the archive holds from a time on.
func (t *term) since(ctx context.Context, archived int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(sinceTimeout, cancel) // of the next chunk: all of it may take long
	defer late.Stop()
	return t.archive.Since(ctx, t.partition, archived, func(messages []*message.Message) error {
		late.Stop()
		defer late.Reset(sinceTimeout)
		_, err := t.publish(ctx, messages)
		return err
	})
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
