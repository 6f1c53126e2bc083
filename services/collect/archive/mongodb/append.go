package mongodb

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// attempts bounds how often one Append starts anew after somebody else took a number. Each time the other has made
// progress, so two owners need a few; more means that something is wrong, and the caller may try again.
const attempts = 100

// insertBytes is the most payload of one request, but for one message; with the rest it stays below what the driver puts
// into one command (48 MB). The driver sends a second one although the first was not confirmed: after an election the
// later messages could be there and the earlier ones not.
const insertBytes = 16 << 20

const (
	codeDuplicate = 11000
	codeDiskFull  = 14031
)

// identity is what the unique index (address, id) is about.
type identity struct {
	to subject.Address
	id string
}

// appending is one Append.
type appending struct {
	*Archive
	partition int
	heads     archive.Heads
	rest      []*message.Message       // in order: not known to be stored; each identity once
	met       map[identity]mailbox.Row // what has its place in the archive, by whomever
	fresh     map[identity]bool        // what this call put there
}

// Append gives each message its sequence and stores it: one ordered insert where the heads are right, no id is
// known, and the payloads are not too large for one. At the first duplicate key, ids and heads of all that is left are looked up, what is left is renumbered, and
// it goes on. An ordered insert stops at its first failure, so a batch is always stored as a prefix.
//
// A message that is found counts as archived because the look-up reads with majority: until the majority has it, it is
// not found, and the insert fails again (with majority too, so the server waits for it before it answers).
//
// A head that is too high would leave a hole; nothing but Append, which knows, raises them. An owner that slept until
// the row above its heads was purged would fill a hole; Policy.MinAge is longer than any such sleep.
func (a *Archive) Append(ctx context.Context, partition int, batch []*message.Message, heads archive.Heads) ([]archive.Outcome, error) {
	if heads == nil {
		heads = archive.Heads{}
	}
	r := &appending{Archive: a, partition: partition, heads: heads, met: map[identity]mailbox.Row{}, fresh: map[identity]bool{}}
	seen := map[identity]bool{}
	for _, m := range batch {
		if of := (identity{m.To, m.ID}); !seen[of] {
			seen[of] = true
			r.rest = append(r.rest, m)
		}
	}
	if err := r.run(ctx); err != nil {
		return nil, fmt.Errorf("mongodb: append: %w", err)
	}
	return r.outcomes(batch), nil
}

func (r *appending) run(ctx context.Context) error {
	if err := r.lookUpHeads(ctx, false); err != nil {
		return err
	}
	for stops := 0; len(r.rest) > 0; {
		stopped, err := r.insert(ctx, r.next())
		if err != nil {
			return err
		}
		if !stopped {
			continue
		}
		if stops++; stops == attempts {
			return fmt.Errorf("others took the numbers %d times", attempts)
		}
		if err := r.lookUpIDs(ctx); err != nil {
			return err
		}
		if err := r.lookUpHeads(ctx, true); err != nil {
			return err
		}
	}
	return nil
}

// next is the beginning of the rest that goes into one request.
func (r *appending) next() []*message.Message {
	bytes := 0
	for i, m := range r.rest {
		if bytes += len(m.Payload); bytes > insertBytes && i > 0 {
			return r.rest[:i]
		}
	}
	return r.rest
}

// insert numbers and inserts the beginning of the rest. It says whether it was stopped by a duplicate key; what came before
// that is stored and no longer in the rest.
func (r *appending) insert(ctx context.Context, some []*message.Message) (stopped bool, err error) {
	archived := r.clock.now()
	next := map[subject.Address]uint64{}
	documents := make([]*document, len(some))
	for i, m := range some {
		if _, ok := next[m.To]; !ok {
			next[m.To] = r.heads[m.To]
		}
		next[m.To]++
		documents[i] = newDocument(m, r.partition, archived, mailbox.Number(next[m.To]))
	}
	_, err = r.messages.InsertMany(ctx, documents, options.InsertMany().SetOrdered(true))
	stored := len(documents)
	if err != nil {
		if stored, err = duplicateAt(err); err != nil {
			return false, err
		}
		stopped = true
	}
	for i, d := range documents[:stored] {
		m := some[i]
		m.Seq, m.Archived = mailbox.Sequence(d.Seq), archived
		r.heads[m.To] = m.Seq
		of := identity{m.To, m.ID}
		r.met[of] = mailbox.Row{Message: m, Hash: [32]byte(d.Hash)}
		r.fresh[of] = true
	}
	r.rest = r.rest[stored:]
	return stopped, nil
}

// duplicateAt is the index of the document that an ordered insert stopped at, if the reason is a duplicate key; for
// any other reason it returns the error itself. A failed write concern is such a reason: what was inserted may be
// rolled back.
func duplicateAt(err error) (int, error) {
	var failed mongo.BulkWriteException
	if errors.As(err, &failed) && failed.WriteConcernError == nil && len(failed.WriteErrors) == 1 && failed.WriteErrors[0].Code == codeDuplicate {
		return failed.WriteErrors[0].Index, nil
	}
	var said mongo.ServerError
	if failed.WriteConcernError != nil || errors.As(err, &said) && said.HasErrorCode(codeDiskFull) {
		err = fmt.Errorf("%w: %w", archive.ErrAway, err)
	}
	return 0, fmt.Errorf("insert: %w", err)
}

// lookUpIDs takes out of the rest what the archive has already.
func (r *appending) lookUpIDs(ctx context.Context) error {
	ids := map[subject.Address]bson.A{}
	for _, m := range r.rest {
		ids[m.To] = append(ids[m.To], m.ID)
	}
	var either bson.A
	for to, list := range ids {
		either = append(either, bson.D{{Key: "address", Value: to.Tokens()}, {Key: "id", Value: bson.D{{Key: "$in", Value: list}}}})
	}
	cursor, err := r.messages.Find(ctx, bson.D{{Key: "$or", Value: either}})
	if err != nil {
		return fmt.Errorf("look up ids: %w", err)
	}
	err = each(ctx, cursor, func(d *document) (bool, error) {
		row, err := d.row()
		if err == nil {
			r.met[identity{row.Message.To, row.Message.ID}] = row
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("look up ids: %w", err)
	}
	var rest []*message.Message
	for _, m := range r.rest {
		if _, ok := r.met[identity{m.To, m.ID}]; !ok {
			rest = append(rest, m)
		}
	}
	r.rest = rest
	return nil
}

// lookUpHeads learns the heads of the rest's addresses: of all of them, or of those that the owner does not know.
func (r *appending) lookUpHeads(ctx context.Context, all bool) error {
	wanted := map[subject.Address]bool{}
	for _, m := range r.rest {
		if _, known := r.heads[m.To]; all || !known {
			wanted[m.To] = true
		}
	}
	addresses := make([]subject.Address, 0, len(wanted))
	for to := range wanted {
		addresses = append(addresses, to)
	}
	heads, err := r.Heads(ctx, addresses)
	if err != nil {
		return err
	}
	maps.Copy(r.heads, heads)
	return nil
}

// outcomes answers for the batch as it was given. Of several messages with one identity the first was
// stored, if any.
func (r *appending) outcomes(batch []*message.Message) []archive.Outcome {
	outcomes := make([]archive.Outcome, len(batch))
	for i, m := range batch {
		of := identity{m.To, m.ID}
		r.notes.stored(m.To, r.met[of].Message.Seq)
		if r.fresh[of] {
			delete(r.fresh, of)
			outcomes[i] = archive.Outcome{Fate: archive.Stored, Message: m}
			continue
		}
		outcomes[i] = r.met[of].Met(m.Hash())
	}
	return outcomes
}
