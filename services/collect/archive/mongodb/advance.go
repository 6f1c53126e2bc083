package mongodb

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

// Advance raises cursors, in no order: each only where it is lower, so it is done as well twice, and beside others who do
// the same. In users' mailboxes each raise leaves a step. Both are written at once, so after an error, or a crash, one may be
// there without the other: until the caller does it again, nothing may tell when a device came where it is.
func (a *Archive) Advance(ctx context.Context, cursors []history.Cursor) error {
	if len(cursors) == 0 {
		return nil
	}
	now := time.Now().UnixMilli()
	group, both := errgroup.WithContext(ctx)
	group.Go(func() error { return a.writeSteps(both, cursors, now) })
	group.Go(func() error { return a.raiseCursors(both, cursors, now) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("mongodb: advance %d cursors: %w", len(cursors), err)
	}
	for _, c := range cursors {
		if to, ok := ownMailbox(c); ok {
			a.notes.advanced(to)
		}
	}
	return nil
}

// ownMailbox is the mailbox of an acknowledgement, if it is that of the device's own user.
func ownMailbox(c history.Cursor) (to subject.Address, ok bool) {
	to = subject.UserAddress(c.Tenant, c.User)
	return to, to.Tokens() == c.Address
}

// heardAt is when a device acknowledged, ms since 1970.
func heardAt(c history.Cursor, now int64) int64 {
	if c.At == 0 {
		return now
	}
	return c.At
}

// raiseCursors first gives a place to the devices that have none; they are few, because most were opened.
func (a *Archive) raiseCursors(ctx context.Context, cursors []history.Cursor, now int64) error {
	highest := map[string]history.Cursor{}
	for _, c := range cursors {
		if h, ok := highest[cursorKey(c)]; !ok || c.Seq > h.Seq {
			highest[cursorKey(c)] = c
		}
	}
	var raise []mongo.WriteModel
	for key, c := range highest {
		seq := mailbox.Number(c.Seq)
		raise = append(raise, mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: key}, {Key: "seq", Value: bson.D{{Key: "$lt", Value: seq}}}}).
			SetUpdate(bson.D{
				{Key: "$max", Value: bson.D{{Key: "seq", Value: seq}, {Key: "at", Value: heardAt(c, now)}}},
				{Key: "$set", Value: bson.D{{Key: "node", Value: c.Node}}},
			}))
	}
	for range attempts {
		done, err := a.cursors.BulkWrite(ctx, raise, options.BulkWrite().SetOrdered(false))
		if err != nil {
			return err
		}
		if done.MatchedCount >= int64(len(raise)) {
			return nil
		}
		added, err := a.addMissing(ctx, cursors, now)
		if err != nil || !added {
			return err
		}
	}
	return fmt.Errorf("others created them %d times", attempts)
}

func cursorKey(c history.Cursor) string { return standingKey(c.Tenant, c.User, c.Address, c.Device) }

// addMissing gives the devices that have no place the one that they acknowledge; added is false if all have one. A device
// with several cursors begins at the first of them.
func (a *Archive) addMissing(ctx context.Context, cursors []history.Cursor, now int64) (added bool, err error) {
	places, err := a.places(ctx, cursors)
	if err != nil {
		return false, err
	}
	var missing []*standing
	begun := map[string]bool{} // devices(…) of those that begin
	for _, c := range cursors {
		key, of := cursorKey(c), devices(c.Tenant, c.User, c.Address)
		if _, there := places[key]; there {
			continue
		}
		s, err := a.beginAt(ctx, c, begun[of], now)
		if err != nil {
			return false, err
		}
		places[key], begun[of] = s, true
		missing = append(missing, s)
	}
	if len(missing) == 0 {
		return false, nil
	}
	_, err = a.insertCursors(ctx, missing)
	return true, err
}

// beginAt is the first place of a device; second says that another of its user begins before it.
func (a *Archive) beginAt(ctx context.Context, c history.Cursor, second bool, now int64) (*standing, error) {
	to, err := subject.ParseTokens(c.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", c.Address, err)
	}
	heads, err := a.Heads(ctx, []subject.Address{to})
	if err != nil {
		return nil, err
	}
	others, err := a.others(ctx, c.Tenant, c.User, c.Address)
	if err != nil {
		return nil, err
	}
	others.any = others.any || second
	s := &standing{
		Key: cursorKey(c), Tenant: c.Tenant, User: c.User, Address: c.Address, Device: c.Device,
		Start: mailbox.Number(c.Seq), At: heardAt(c, now), Node: c.Node,
	}
	a.know(s, others, mailbox.Number(heads[to]))
	return s, nil
}

// places are the stored places of the devices of cursors, by key.
func (a *Archive) places(ctx context.Context, cursors []history.Cursor) (map[string]*standing, error) {
	keys, wanted := map[string]bool{}, bson.A{}
	for _, c := range cursors {
		if key := cursorKey(c); !keys[key] {
			keys[key] = true
			wanted = append(wanted, key)
		}
	}
	places := map[string]*standing{}
	cursor, err := a.cursors.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: wanted}}}})
	if err != nil {
		return nil, fmt.Errorf("cursors: %w", err)
	}
	return places, each(ctx, cursor, func(s *standing) (bool, error) {
		places[s.Key] = s
		return true, nil
	})
}

// upsert writes updates that may create their documents, in no order.
func upsert(ctx context.Context, in *mongo.Collection, updates []mongo.WriteModel) error {
	if len(updates) == 0 {
		return nil
	}
	for range attempts {
		_, err := in.BulkWrite(ctx, updates, options.BulkWrite().SetOrdered(false))
		if err == nil {
			return nil
		}
		// Two upserts of one new document can both miss it; the one that loses finds it the next time.
		if !onlyDuplicates(err) {
			return err
		}
	}
	return fmt.Errorf("others created them %d times", attempts)
}

// insertNew inserts documents, in no order, and passes over those that are there.
func insertNew[T any](ctx context.Context, in *mongo.Collection, documents []T) (all bool, err error) {
	if len(documents) == 0 {
		return true, nil
	}
	_, err = in.InsertMany(ctx, documents, options.InsertMany().SetOrdered(false))
	if err != nil && !onlyDuplicates(err) {
		return false, err
	}
	return err == nil, nil
}
