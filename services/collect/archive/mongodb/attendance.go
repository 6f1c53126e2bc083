package mongodb

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/subject"
)

// forgetMost is how many users one call of Forget removes; the next one goes on.
const forgetMost = 10_000

// Due returns users about whom there may be something to say. The attendance is read before what nodes said, so that its
// revision tells whether that is old.
func (a *Archive) Due(ctx context.Context, partition int, now time.Time, limit int) ([]archive.Attendance, error) {
	var due []archive.Attendance
	place := map[string]int{}
	cursor, err := a.attendances().Find(ctx, bson.D{
		{Key: "partition", Value: int64(partition)}, {Key: "due", Value: bson.D{{Key: "$lte", Value: now.UnixMilli()}}},
	}, options.Find().SetSort(bson.D{{Key: "due", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, fmt.Errorf("mongodb: due users: %w", err)
	}
	err = each(ctx, cursor, func(u *attendance) (bool, error) {
		to, err := subject.ParseTokens(u.Key)
		place[u.Key] = len(due)
		due = append(due, archive.Attendance{
			User: to, Told: u.Told, Turn: mailbox.Sequence(u.Turn), At: u.At, Open: u.Open, Due: u.Due, Revision: mailbox.Sequence(u.Revision),
		})
		return true, err
	})
	if err != nil || len(due) == 0 {
		return due, err
	}
	users := make(bson.A, 0, len(place))
	for user := range place {
		users = append(users, user)
	}
	err = a.eachPresent(ctx, bson.D{{Key: "user", Value: bson.D{{Key: "$in", Value: users}}}}, func(p *present) { p.count(&due[place[p.User]]) })
	if err != nil {
		return nil, fmt.Errorf("mongodb: due users: %w", err)
	}
	return due, nil
}

// count adds what one node said of a user.
func (p *present) count(u *archive.Attendance) {
	switch {
	case p.Held && !u.On:
		u.On, u.Since = true, p.At
	case p.Held:
		u.Since = min(u.Since, p.At)
	case !u.On:
		u.Since = max(u.Since, p.At)
	}
	u.Noted = max(u.Noted, p.Noted)
}

// Attend stores what was decided, where nothing new is known. The server only counts what it found, so each call signs
// what it writes, and reads which signatures are its own.
func (a *Archive) Attend(ctx context.Context, some []archive.Attendance) ([]bool, error) {
	if len(some) == 0 {
		return nil, nil
	}
	by := rand.Text()
	updates := make([]mongo.WriteModel, len(some))
	keys := make(bson.A, len(some))
	for i, u := range some {
		keys[i] = u.User.Tokens()
		updates[i] = mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: keys[i]}, {Key: "revision", Value: mailbox.Number(u.Revision)}}).
			SetUpdate(bson.D{{Key: "$set", Value: bson.D{
				{Key: "told", Value: u.Told},
				{Key: "turn", Value: mailbox.Number(u.Turn)},
				{Key: "at", Value: u.At},
				{Key: "open", Value: u.Open},
				{Key: "due", Value: u.Due},
				{Key: "revision", Value: mailbox.Number(u.Revision + 1)},
				{Key: "by", Value: by},
			}}})
	}
	result, err := a.attendances().BulkWrite(ctx, updates, options.BulkWrite().SetOrdered(false))
	if err != nil {
		return nil, fmt.Errorf("mongodb: attend: %w", err)
	}
	held := make([]bool, len(some))
	if result.MatchedCount == 0 {
		return held, nil
	}
	mine := map[string]bool{}
	cursor, err := a.attendances().Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: keys}}}, {Key: "by", Value: by}})
	if err == nil {
		err = each(ctx, cursor, func(u *attendance) (bool, error) {
			mine[u.Key] = true
			return true, nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("mongodb: attend: %w", err)
	}
	for i, u := range some {
		held[i] = mine[u.User.Tokens()]
	}
	return held, nil
}

// Said stores that events are published.
func (a *Archive) Said(ctx context.Context, some []archive.Attendance) error {
	if len(some) == 0 {
		return nil
	}
	updates := make([]mongo.WriteModel, len(some))
	for i, u := range some {
		updates[i] = mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: u.User.Tokens()}, {Key: "turn", Value: mailbox.Number(u.Turn)}}).
			SetUpdate(bson.D{{Key: "$set", Value: bson.D{{Key: "open", Value: false}}}})
	}
	if _, err := a.attendances().BulkWrite(ctx, updates, options.BulkWrite().SetOrdered(false)); err != nil {
		return fmt.Errorf("mongodb: said: %w", err)
	}
	return nil
}

// Forget removes what is of no use any more.
func (a *Archive) Forget(ctx context.Context, reports, users time.Time) error {
	before := bson.E{Key: "noted", Value: bson.D{{Key: "$lt", Value: reports.UnixMilli()}}}
	_, err := a.presence().DeleteMany(ctx, bson.D{{Key: "held", Value: false}, before})
	for _, field := range []string{"gone", "silent"} {
		if err == nil {
			_, err = a.nodes().DeleteMany(ctx, bson.D{{Key: field, Value: true}, before})
		}
	}
	if err == nil {
		err = a.forgetUsers(ctx, users.UnixMilli())
	}
	if err != nil {
		return fmt.Errorf("mongodb: forget presence: %w", err)
	}
	return nil
}

// forgetUsers removes those of whom no node said anything lately; one who comes meanwhile has another revision.
func (a *Archive) forgetUsers(ctx context.Context, before int64) error {
	cursor, err := a.attendances().Find(ctx, bson.D{
		{Key: "told", Value: false},
		{Key: "at", Value: bson.D{{Key: "$lt", Value: before}}},
		{Key: "open", Value: false},
		{Key: "due", Value: int64(archive.NotDue)},
	}, options.Find().SetLimit(forgetMost))
	if err != nil {
		return err
	}
	var over []*attendance
	err = each(ctx, cursor, func(u *attendance) (bool, error) {
		over = append(over, u)
		return true, nil
	})
	for _, u := range over {
		if err != nil {
			return err
		}
		var n int64
		if n, err = a.presence().CountDocuments(ctx, bson.D{{Key: "user", Value: u.Key}}); err == nil && n == 0 {
			_, err = a.attendances().DeleteOne(ctx, bson.D{{Key: "_id", Value: u.Key}, {Key: "revision", Value: u.Revision}})
		}
	}
	return err
}

// mark is a partition's mark; _id is "mark/<partition>".
type mark struct {
	Since int64  `bson:"since"`
	After string `bson:"after"`
}

func markKey(partition int) bson.E {
	return bson.E{Key: "_id", Value: "mark/" + strconv.Itoa(partition)}
}

func (a *Archive) marks() *mongo.Collection { return a.about.Database().Collection("marks") }

// Mark returns a partition's mark.
func (a *Archive) Mark(ctx context.Context, partition int, first archive.Mark) (archive.Mark, error) {
	_, err := a.marks().InsertOne(ctx, bson.D{markKey(partition), {Key: "since", Value: first.Since}, {Key: "after", Value: first.After}})
	if err != nil && !mongo.IsDuplicateKeyError(err) {
		return archive.Mark{}, fmt.Errorf("mongodb: mark of partition %d: %w", partition, err)
	}
	var m mark
	if err := a.marks().FindOne(ctx, bson.D{markKey(partition)}).Decode(&m); err != nil {
		return archive.Mark{}, fmt.Errorf("mongodb: mark of partition %d: %w", partition, err)
	}
	return archive.Mark(m), nil
}

// MoveMark replaces a partition's mark.
func (a *Archive) MoveMark(ctx context.Context, partition int, from, to archive.Mark) (bool, error) {
	result, err := a.marks().UpdateOne(ctx,
		bson.D{markKey(partition), {Key: "since", Value: from.Since}, {Key: "after", Value: from.After}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "since", Value: to.Since}, {Key: "after", Value: to.After}}}})
	if err != nil {
		return false, fmt.Errorf("mongodb: mark of partition %d: %w", partition, err)
	}
	return result.MatchedCount == 1, nil
}
