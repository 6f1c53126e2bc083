package collect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
)

const (
	// appendTimeout is how long the archive may take for a batch at first. After an outage of the network nobody waits
	// longer for an answer that was lost in it. A batch of 512 takes some 20 ms.
	appendTimeout = 1500 * time.Millisecond
	// appendLongest is how far it grows, doubling, while the archive answers and is only slow.
	appendLongest = 12 * time.Second
	// pingTimeout is how long the archive may take to show that it takes writes.
	pingTimeout = time.Second
	// patiently is how often a batch is tried before it is divided to find the message that fails, and quickly the
	// pause between. A division makes some 20 appends of 512 messages.
	patiently = 2
	quickly   = 50 * time.Millisecond
	// convictAfter is how often a message has to fail alone, the archive taking writes each time, until it is set
	// aside; examineEvery is the pause between. Its neighbours go on meanwhile.
	convictAfter = 5
	examineEvery = 100 * time.Millisecond
	// convictMost is how many messages may be set aside with none stored between them: an archive that refuses
	// everything but a ping is down in its own way, and no message is to blame.
	convictMost = 3
	// heldMost is how many messages may be suspects or stand behind one; then the stream waits.
	heldMost = 1024
	// keepEvery is how often the server is told that they are held. It would deliver them again after 30 s.
	keepEvery = 10 * time.Second
)

// suspect is a message that failed alone while the archive took writes. What comes for its address waits behind it, so
// that the order holds.
type suspect struct {
	batch  []intake // the one message; a batch, as that is what the term works on
	behind []intake
	tries  int // how often it has failed alone
	by     time.Time
}

// store archives a batch and returns what has its fate now: archived, or refused. A batch that fails while the archive
// takes writes is divided until the message is alone that makes it fail; it becomes a suspect. While the archive is
// down nothing is blamed: store insists until ctx ends, and then returns nothing.
func (t *term) store(ctx context.Context, batch []intake, tries int) []intake {
	good := archivable(batch)
	for blamed := 0; len(good) > 0; {
		err := t.append(ctx, batch, good)
		switch {
		case err == nil:
			return batch
		case ctx.Err() != nil:
			t.letGo(batch)
			return nil
		case !t.works(ctx, batch, err):
			blamed = 0
			t.down("archive", err, batch)
			t.rest(ctx, retryAfter)
			continue
		}
		t.faults.Note("archive", err)
		if blamed++; blamed >= tries {
			return t.divide(ctx, batch, good)
		}
		t.rest(ctx, quickly)
	}
	return batch
}

// archivable are the places of the messages in a batch that can be archived.
func archivable(batch []intake) []int {
	good := make([]int, 0, len(batch))
	for i := range batch {
		if batch[i].refusal == nil {
			good = append(good, i)
		}
	}
	return good
}

// divide stores the halves of a batch that failed, or suspects its only message.
func (t *term) divide(ctx context.Context, batch []intake, good []int) []intake {
	if len(good) == 1 {
		i := good[0]
		t.suspect(batch[i])
		return append(append([]intake{}, batch[:i]...), batch[i+1:]...)
	}
	middle := good[len(good)/2]
	first := t.store(ctx, batch[:middle:middle], 1)
	return append(first, t.store(ctx, t.behind(batch[middle:]), 1)...)
}

// append is one attempt to archive what is good in a batch. One that took too long may have been stored all the same; the
// next one finds it.
func (t *term) append(ctx context.Context, batch []intake, good []int) error {
	messages := make([]*message.Message, len(good))
	for i, from := range good {
		messages[i] = batch[from].message
	}
	var outcomes []archive.Outcome
	err := t.attempt(ctx, "archive", batch, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, t.patience)
		defer cancel()
		outcomes, err = t.archive.Append(ctx, t.partition, messages, t.heads)
		return err
	})
	if err != nil || len(t.heads) > headsMost {
		t.heads = make(archive.Heads)
	}
	if err == nil {
		t.patience, t.convicted = appendTimeout, 0
		settle(batch, good, outcomes)
	}
	return err
}

// settle takes in what the archive said of each message, outcomes[i] being that of batch[from[i]].
func settle(batch []intake, from []int, outcomes []archive.Outcome) {
	for i, o := range outcomes {
		in := &batch[from[i]]
		if o.Fate == archive.Conflict {
			in.refusal = problem.New(problem.Conflict, "the id %q of %s belongs to a message with another body; use a new id", o.Message.ID, o.Message.To).In(message.HeaderID)
			continue
		}
		in.message = o.Message
	}
}

// works says whether the archive takes writes although it refused some with err. If that took too long, more time is
// given next.
func (t *term) works(ctx context.Context, batch []intake, err error) bool {
	if errors.Is(err, archive.ErrAway) {
		return false
	}
	away, why := t.away, t.why
	if t.attempt(ctx, "archive", batch, t.ping) != nil {
		return false
	}
	t.away, t.why = away, why // one small write does not bring it back
	if errors.Is(err, context.DeadlineExceeded) {
		t.patience = min(2*t.patience, appendLongest)
	}
	return true
}

func (t *term) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return t.archive.Ping(ctx)
}

// suspect remembers a message that failed alone.
func (t *term) suspect(in intake) {
	if len(t.suspects) == 0 {
		t.kept = time.Now()
	}
	t.suspects[in.message.To] = &suspect{batch: []intake{in}, tries: 1, by: t.answerBy}
	t.held++
	t.log.Warn("the archive works and refuses a message; it is tried again, alone", "partition", t.partition, "to", in.message.To, "id", in.message.ID)
}

// behind puts what comes for the address of a suspect behind it and returns the rest. A request is refused: nobody is
// left waiting.
func (t *term) behind(batch []intake) []intake {
	if len(t.suspects) == 0 {
		return batch
	}
	rest := make([]intake, 0, len(batch))
	for _, in := range batch {
		var s *suspect
		if in.refusal == nil {
			s = t.suspects[in.message.To]
		}
		switch {
		case s == nil:
			rest = append(rest, in)
		case in.request != nil:
			in.answer(nil, problem.New(problem.Unavailable, "an earlier message to %s is in trouble; try again in a moment", in.message.To))
		case in.delivery != nil: // else a request that was refused: the publisher sends it again
			s.behind = append(s.behind, in)
			t.held++
		}
	}
	return rest
}

// examine tries each suspect again. One that is stored or convicted frees those behind it.
func (t *term) examine(ctx context.Context) {
	for _, s := range t.suspects {
		if t.away || time.Now().After(s.by) {
			t.refuse(s.batch)
		}
	}
	for to, s := range t.suspects {
		t.answerBy = s.by
		switch err := t.append(ctx, s.batch, []int{0}); {
		case err == nil:
		case ctx.Err() != nil:
			return
		case !t.works(ctx, s.batch, err):
			t.down("archive", err, s.batch)
			return
		default:
			if s.tries++; s.tries < convictAfter {
				continue
			}
			if t.convicted >= convictMost {
				t.down("archive", fmt.Errorf("it refuses everything: %w", err), s.batch)
				return
			}
			t.convict(&s.batch[0], err)
		}
		t.handOn(ctx, s.batch)
		delete(t.suspects, to)
		t.held -= 1 + len(s.behind)
		if len(s.behind) > 0 {
			t.work(ctx, s.behind)
		}
	}
	if now := time.Now(); len(t.suspects) > 0 && now.Sub(t.kept) > keepEvery {
		t.kept = now
		t.keep()
	}
}

// convict refuses a message for good.
func (t *term) convict(in *intake, err error) {
	t.log.Error("a message is set aside: the archive works and refuses it again and again", "partition", t.partition, "to", in.message.To, "id", in.message.ID, "err", err)
	t.convicted++
	in.refusal = problem.New(problem.Poison, "the message made the archive fail %d times while it took others; ask the operator what is wrong with it", convictAfter)
}

// deadly is a message that has killed so many owners that nobody looks into it any more, but for the id that its
// publisher knows it by.
func (t *term) deadly(msg jetstream.Msg, deaths int) intake {
	in := intake{delivery: msg, refusal: problem.New(problem.Poison, "%d processes died at the message; ask the operator what is wrong with it", deaths)}
	if meta, err := msg.Metadata(); err == nil {
		in.place = streamID(meta.Stream, meta.Sequence.Stream, meta.Timestamp)
	}
	for name, values := range msg.Headers() {
		if strings.EqualFold(name, message.HeaderID) && len(values) > 0 {
			in.message = &message.Message{ID: cut(values[0], detailMost)}
		}
	}
	t.log.Error("a message is set aside unread: owners died at it", "partition", t.partition, "subject", msg.Subject(), "place", in.place, "deaths", deaths)
	return in
}

// keep tells the server that everything held is still worked on.
func (t *term) keep() {
	for _, s := range t.suspects {
		for _, in := range append([]intake{s.batch[0]}, s.behind...) {
			if in.delivery == nil {
				continue
			}
			if err := in.delivery.InProgress(); err != nil {
				t.faults.Note("keep a message", err)
			}
		}
	}
}
