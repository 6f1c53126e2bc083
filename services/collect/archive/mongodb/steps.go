package mongodb

import (
	"context"
	"errors"
	"fmt"
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

// overlaps is how many reports or steps that cover one message are compared for the first of them. Where an owner takes
// over, what was reported in the last seconds is reported again, in other pieces.
const overlaps = 256

// step says when a device came so far; the key begins with that of its cursor.
type step struct {
	Key  string `bson:"_id"`
	To   int64  `bson:"to"`
	At   int64  `bson:"at"`
	Node string `bson:"node,omitempty"`
}

// routedRange is a report of dispatch.
type routedRange struct {
	Key   string   `bson:"_id"`
	From  int64    `bson:"from"`
	To    int64    `bson:"to"`
	At    int64    `bson:"at"`
	Nodes []string `bson:"nodes,omitempty"`
}

// writeSteps notes the acknowledgements in users' own mailboxes; the first of two for one sequence holds.
func (a *Archive) writeSteps(ctx context.Context, cursors []history.Cursor, now int64) error {
	var steps []*step
	for _, c := range cursors {
		if _, ok := ownMailbox(c); !ok || c.Seq == 0 {
			continue
		}
		to := mailbox.Number(c.Seq)
		steps = append(steps, &step{Key: key(cursorKey(c), to), To: to, At: heardAt(c, now), Node: c.Node})
	}
	if _, err := insertNew(ctx, a.steps, steps); err != nil {
		return fmt.Errorf("steps: %w", err)
	}
	return nil
}

// Route inserts the reports as they are: which of several that cover a message was the first is seen when somebody asks.
func (a *Archive) Route(ctx context.Context, reports []ledger.Routed) error {
	var ranges []*routedRange
	for _, r := range reports {
		if r.To < r.From {
			continue
		}
		from, to := mailbox.Number(r.From), mailbox.Number(r.To)
		ranges = append(ranges, &routedRange{
			Key: fmt.Sprintf("%s/%020d", key(r.Address, to), from), From: from, To: to, At: r.At, Nodes: r.Nodes,
		})
	}
	if _, err := insertNew(ctx, a.routed, ranges); err != nil {
		return fmt.Errorf("mongodb: store %d reports: %w", len(reports), err)
	}
	return nil
}

// Steps looks once for each device that has come so far.
func (a *Archive) Steps(ctx context.Context, to subject.Address, seq uint64) (steps archive.Steps, err error) {
	if steps.Routed, err = a.routedFirst(ctx, to, mailbox.Number(seq)); err != nil {
		return steps, fmt.Errorf("mongodb: routing of %s: %w", to, err)
	}
	if steps.Acked, err = a.acked(ctx, to, mailbox.Number(seq)); err != nil {
		return steps, fmt.Errorf("mongodb: acknowledgements of %s: %w", to, err)
	}
	steps.States, err = a.SettledOf(ctx, to, seq, seq)
	return steps, err
}

// routedFirst is the earliest of the reports that cover a message.
func (a *Archive) routedFirst(ctx context.Context, to subject.Address, seq int64) (*ledger.Routed, error) {
	tokens := to.Tokens()
	cursor, err := a.routed.Find(ctx, upToKey(tokens, seq, math.MaxInt64),
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(overlaps))
	if err != nil {
		return nil, err
	}
	var first *routedRange
	err = each(ctx, cursor, func(r *routedRange) (bool, error) {
		if r.From <= seq && (first == nil || r.At < first.At) {
			first = r
		}
		return true, nil
	})
	if first == nil {
		return nil, err
	}
	return &ledger.Routed{
		Address: tokens, From: mailbox.Sequence(first.From), To: mailbox.Sequence(first.To), At: first.At, Nodes: first.Nodes,
	}, err
}

// acked has the devices of a user's mailbox that acknowledged a message, in the order of their encoded ids.
func (a *Archive) acked(ctx context.Context, to subject.Address, seq int64) ([]archive.Acked, error) {
	if to.Kind != subject.User {
		return nil, nil
	}
	filter := append(within("_id", devices(to.Tenant, to.ID, to.Tokens())), bson.E{Key: "seq", Value: bson.D{{Key: "$gte", Value: seq}}})
	cursor, err := a.cursors.Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, err
	}
	var places []*standing
	err = each(ctx, cursor, func(s *standing) (bool, error) {
		places = append(places, s)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	var all []archive.Acked
	for _, s := range places {
		covers, err := a.covers(ctx, s, seq)
		if errors.Is(err, mongo.ErrNoDocuments) {
			continue // it came so far before there was a ledger, or without acknowledging
		}
		if err != nil {
			return nil, err
		}
		// One that began above the message never had it, unless it began by acknowledging it.
		if s.Start < seq || s.Start == covers.To {
			all = append(all, archive.Acked{Device: s.Device, Node: covers.Node, At: covers.At})
		}
	}
	return all, nil
}

// covers is the first step of a device to a sequence or above it. Acknowledgements may have come in another order than
// that of their sequences: the next few are compared.
func (a *Archive) covers(ctx context.Context, s *standing, seq int64) (first step, err error) {
	cursor, err := a.steps.Find(ctx, keys(s.Key, seq-1, math.MaxInt64),
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(overlaps))
	if err != nil {
		return first, err
	}
	err = each(ctx, cursor, func(next *step) (bool, error) {
		if first.Key == "" || next.At < first.At {
			first = *next
		}
		return true, nil
	})
	if err == nil && first.Key == "" {
		err = mongo.ErrNoDocuments
	}
	return first, err
}
