package mongodb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

// standing is the place of a device in a mailbox, as it is stored. The fields repeat the key for people who look. What was
// stored before there was a ledger lacks start, past and known: it is known from the beginning.
type standing struct {
	Key     string `bson:"_id"`
	Tenant  string `bson:"tenant"`
	User    string `bson:"user"`
	Address string `bson:"address"`
	Device  string `bson:"device"`
	Seq     int64  `bson:"seq"`
	Start   int64  `bson:"start"` // where it began
	Past    int64  `bson:"past"`  // what was archived when it became known: up to here no receipt is owed to it
	Known   int64  `bson:"known"` // since when, ms since 1970; 0: from the beginning
	At      int64  `bson:"at"`    // when seq last rose, ms since 1970
	Node    string `bson:"node,omitempty"`
}

// own says whether the mailbox is that of the device's own user.
func (s *standing) own() bool { return subject.UserAddress(s.Tenant, s.User).Tokens() == s.Address }

// devices is the common beginning of the keys of a user's devices in a mailbox. Encoded ids hold no slash.
func devices(tenant, user, tokens string) string {
	return subject.Encode(tenant) + "/" + subject.Encode(user) + "/" + tokens + "/"
}

func standingKey(tenant, user, tokens, device string) string {
	return devices(tenant, user, tokens) + subject.Encode(device)
}

// Open returns the position of a device in each address; only the first time in a mailbox it writes.
func (a *Archive) Open(ctx context.Context, request history.OpenRequest) (*history.OpenAnswer, error) {
	cursors, err := a.known(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("mongodb: open: %w", err)
	}
	// The cursors are read before the heads, so that none is above its head.
	addresses := make([]subject.Address, len(request.Addresses))
	for i, tokens := range request.Addresses {
		if addresses[i], err = subject.ParseTokens(tokens); err != nil {
			return nil, fmt.Errorf("mongodb: open %q: %w", tokens, err)
		}
	}
	heads, err := a.Heads(ctx, addresses)
	if err != nil {
		return nil, fmt.Errorf("mongodb: open: %w", err)
	}
	if err := a.start(ctx, request, addresses, cursors, heads); err != nil {
		return nil, fmt.Errorf("mongodb: open: %w", err)
	}
	answer := &history.OpenAnswer{Epoch: a.facts.Epoch, Positions: map[string]history.Position{}}
	for i, tokens := range request.Addresses {
		answer.Positions[tokens] = history.Position{Head: heads[addresses[i]], Cursor: cursors[tokens]}
	}
	return answer, nil
}

// known are the cursors that the device has, by address tokens.
func (a *Archive) known(ctx context.Context, r history.OpenRequest) (map[string]uint64, error) {
	wanted := make(bson.A, len(r.Addresses))
	for i, tokens := range r.Addresses {
		wanted[i] = standingKey(r.Tenant, r.User, tokens, r.Device)
	}
	cursors := map[string]uint64{}
	cursor, err := a.cursors.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: wanted}}}})
	if err != nil {
		return nil, fmt.Errorf("cursors: %w", err)
	}
	return cursors, each(ctx, cursor, func(s *standing) (bool, error) {
		cursors[s.Address] = mailbox.Sequence(s.Seq)
		return true, nil
	})
}

// start gives the device a place in each mailbox where it has none, and adds it to cursors. Where another call gave
// it one in the meantime, that one holds.
func (a *Archive) start(ctx context.Context, r history.OpenRequest, addresses []subject.Address, cursors map[string]uint64, heads map[subject.Address]uint64) error {
	var fresh []*standing
	for i, tokens := range r.Addresses {
		if _, ok := cursors[tokens]; ok {
			continue
		}
		s := &standing{
			Key: standingKey(r.Tenant, r.User, tokens, r.Device), Tenant: r.Tenant, User: r.User, Address: tokens,
			Device: r.Device, Start: mailbox.Number(heads[addresses[i]]), At: time.Now().UnixMilli(),
		}
		others, err := a.others(ctx, r.Tenant, r.User, tokens)
		if err != nil {
			return err
		}
		if addresses[i].Kind == subject.User {
			s.Start = max(others.highest, mailbox.Number(r.Floors[tokens]))
		}
		a.know(s, others, mailbox.Number(heads[addresses[i]]))
		cursors[tokens] = mailbox.Sequence(s.Start)
		fresh = append(fresh, s)
	}
	if len(fresh) == 0 {
		return nil
	}
	added, err := a.insertCursors(ctx, fresh)
	if err == nil && !added {
		var there map[string]uint64
		there, err = a.known(ctx, r)
		maps.Copy(cursors, there)
	}
	return err
}

// know says since when a device that begins is known: a user's first in the user's mailbox from the beginning, another from
// now. Two that begin at once can both be the first. The head is one that was read before, so what comes after it was archived when the
// device was all but stored; unlike the clocks of two machines, sequences don't differ.
func (a *Archive) know(s *standing, others others, head int64) {
	s.Seq, s.Past = s.Start, s.Start
	if others.any || !s.own() {
		s.Past = max(s.Start, head)
		s.Known = a.clock.now()
	}
}

// insertCursors says whether it added all of them; otherwise some were there already.
func (a *Archive) insertCursors(ctx context.Context, fresh []*standing) (bool, error) {
	_, err := a.cursors.InsertMany(ctx, fresh, options.InsertMany().SetOrdered(false))
	if err != nil && !onlyDuplicates(err) {
		return false, fmt.Errorf("store the start: %w", err)
	}
	for _, s := range fresh {
		if to, err := subject.ParseTokens(s.Address); err == nil {
			a.notes.advanced(to)
		}
	}
	return err == nil, nil
}

// others are the devices of a user that have a place in a mailbox.
type others struct {
	any     bool
	highest int64
}

func (a *Archive) others(ctx context.Context, tenant, user, tokens string) (o others, err error) {
	cursor, err := a.cursors.Find(ctx, within("_id", devices(tenant, user, tokens)))
	if err != nil {
		return o, fmt.Errorf("highest cursor: %w", err)
	}
	err = each(ctx, cursor, func(s *standing) (bool, error) {
		o.any, o.highest = true, max(o.highest, s.Seq)
		return true, nil
	})
	return o, err
}

// within is the condition that a string begins so and goes on with what Encode makes.
func within(field, beginning string) bson.D {
	const above = "~" // sorts after everything that Encode makes
	return bson.D{{Key: field, Value: bson.D{{Key: "$gt", Value: beginning}, {Key: "$lt", Value: beginning + above}}}}
}

// onlyDuplicates says whether an unordered insert failed on nothing but what was there already.
func onlyDuplicates(err error) bool {
	var failed mongo.BulkWriteException
	if !errors.As(err, &failed) || failed.WriteConcernError != nil {
		return false
	}
	for _, w := range failed.WriteErrors {
		if w.Code != codeDuplicate {
			return false
		}
	}
	return len(failed.WriteErrors) > 0
}
