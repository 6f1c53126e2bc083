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

// place of a device in a mailbox, as it is stored. The fields repeat the key for people who look.
type standing struct {
	Key     string `bson:"_id"`
	Tenant  string `bson:"tenant"`
	User    string `bson:"user"`
	Address string `bson:"address"`
	Device  string `bson:"device"`
	Seq     int64  `bson:"seq"`
	At      int64  `bson:"at"` // ms since 1970, of the last write
}

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
	now := time.Now().UnixMilli()
	for i, tokens := range r.Addresses {
		if _, ok := cursors[tokens]; ok {
			continue
		}
		from := heads[addresses[i]]
		if addresses[i].Kind == subject.User {
			highest, err := a.highest(ctx, r, tokens)
			if err != nil {
				return err
			}
			from = max(highest, r.Floors[tokens])
		}
		cursors[tokens] = from
		fresh = append(fresh, &standing{
			Key: standingKey(r.Tenant, r.User, tokens, r.Device), Tenant: r.Tenant, User: r.User, Address: tokens,
			Device: r.Device, Seq: mailbox.Number(from), At: now,
		})
	}
	if len(fresh) == 0 {
		return nil
	}
	_, err := a.cursors.InsertMany(ctx, fresh, options.InsertMany().SetOrdered(false))
	if err == nil {
		return nil
	}
	if !onlyDuplicates(err) {
		return fmt.Errorf("store the start: %w", err)
	}
	there, err := a.known(ctx, r)
	maps.Copy(cursors, there)
	return err
}

// highest is the highest cursor of a user's devices in a mailbox, 0 if there is none. They are few.
func (a *Archive) highest(ctx context.Context, r history.OpenRequest, tokens string) (seq uint64, err error) {
	const above = "~" // sorts after everything that Encode makes
	first := devices(r.Tenant, r.User, tokens)
	cursor, err := a.cursors.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: first}, {Key: "$lt", Value: first + above}}}})
	if err != nil {
		return 0, fmt.Errorf("highest cursor: %w", err)
	}
	return seq, each(ctx, cursor, func(s *standing) (bool, error) {
		seq = max(seq, mailbox.Sequence(s.Seq))
		return true, nil
	})
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

// Advance raises cursors with $max, in no order: it is done as well twice, and beside others who do the same.
func (a *Archive) Advance(ctx context.Context, cursors []history.Cursor) error {
	if len(cursors) == 0 {
		return nil
	}
	now := time.Now().UnixMilli()
	raise := make([]mongo.WriteModel, len(cursors))
	for i, c := range cursors {
		raise[i] = mongo.NewUpdateOneModel().SetUpsert(true).
			SetFilter(bson.D{{Key: "_id", Value: standingKey(c.Tenant, c.User, c.Address, c.Device)}}).
			SetUpdate(bson.D{
				{Key: "$max", Value: bson.D{{Key: "seq", Value: mailbox.Number(c.Seq)}, {Key: "at", Value: now}}},
				{Key: "$setOnInsert", Value: bson.D{
					{Key: "tenant", Value: c.Tenant},
					{Key: "user", Value: c.User},
					{Key: "address", Value: c.Address},
					{Key: "device", Value: c.Device},
				}},
			})
	}
	for range attempts {
		_, err := a.cursors.BulkWrite(ctx, raise, options.BulkWrite().SetOrdered(false))
		if err == nil {
			return nil
		}
		// Two upserts of one new cursor can both miss it; the one that loses finds it the next time.
		if !onlyDuplicates(err) {
			return fmt.Errorf("mongodb: advance %d cursors: %w", len(cursors), err)
		}
	}
	return fmt.Errorf("mongodb: advance %d cursors: others created them %d times", len(cursors), attempts)
}
