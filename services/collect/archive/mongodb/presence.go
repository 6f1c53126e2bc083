package mongodb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

// present is what a node said last of a user; _id is "<user tokens>/<node>".
type present struct {
	Key    string `bson:"_id"`
	User   string `bson:"user"`
	Node   string `bson:"node"`
	Number int64  `bson:"number"`
	Held   bool   `bson:"held"`
	At     int64  `bson:"at"`
	Noted  int64  `bson:"noted"`
}

// attendance is what was told of a user; _id are the tokens.
type attendance struct {
	Key       string `bson:"_id"`
	Partition int64  `bson:"partition"`
	Told      bool   `bson:"told"`
	Turn      int64  `bson:"turn"`
	At        int64  `bson:"at"`
	Open      bool   `bson:"open"`
	Due       int64  `bson:"due"`
	Revision  int64  `bson:"revision"`
}

// pusher is a node.
type pusher struct {
	Key    string `bson:"_id"`
	Rest   int64  `bson:"rest"`
	Silent bool   `bson:"silent"`
	Gone   bool   `bson:"gone"`
}

func (a *Archive) presence() *mongo.Collection { return a.about.Database().Collection("presence") }
func (a *Archive) attendances() *mongo.Collection {
	return a.about.Database().Collection("attendances")
}
func (a *Archive) nodes() *mongo.Collection { return a.about.Database().Collection("nodes") }

// createPresenceIndexes makes what the queries of presence need. The collections are as large as there are users.
func (a *Archive) createPresenceIndexes(ctx context.Context) error {
	for _, i := range []struct {
		in   *mongo.Collection
		keys []string
	}{
		{a.presence(), []string{"user"}},
		{a.presence(), []string{"node", "held", "number"}},
		{a.presence(), []string{"held", "noted"}},
		{a.attendances(), []string{"partition", "due"}},
		{a.attendances(), []string{"told", "at"}},
	} {
		index := mongo.IndexModel{}
		var keys bson.D
		for _, key := range i.keys {
			keys = append(keys, bson.E{Key: key, Value: 1})
		}
		index.Keys = keys
		if err := createIndex(ctx, i.in, index); err != nil {
			return err
		}
	}
	return nil
}

// Report stores reports: first what nodes said of users, then that somebody has to look at them. A report that is stored
// again after a crash between the two makes its users due again, also where a later one was stored meanwhile.
func (a *Archive) Report(ctx context.Context, reports []archive.Report, now time.Time, grace time.Duration) error {
	for _, r := range reports {
		if err := a.report(ctx, r, now.UnixMilli(), grace.Milliseconds()); err != nil {
			return fmt.Errorf("mongodb: presence at %s: %w", r.Node, err)
		}
	}
	return nil
}

func (a *Archive) report(ctx context.Context, r archive.Report, now, grace int64) error {
	rest, err := a.hear(ctx, r, now)
	if err != nil {
		return err
	}
	for begin := 0; begin < len(r.Users); begin += purgeChunk {
		some := r.Users[begin:min(begin+purgeChunk, len(r.Users))]
		if err := a.see(ctx, r.Node, mailbox.Number(r.Number), rest, some, now, grace); err != nil {
			return err
		}
	}
	// Another process may have stored a rest while this one stored users of before it.
	if rest, err = a.rest(ctx, r.Node); err != nil {
		return err
	}
	if r.Rest > 0 || rest > mailbox.Number(r.Number) {
		return a.clear(ctx, r.Node, rest, r.At, now, grace)
	}
	return nil
}

// hear notes the node of a report.
func (a *Archive) hear(ctx context.Context, r archive.Report, now int64) (rest int64, err error) {
	set := bson.D{{Key: "silent", Value: false}, {Key: "noted", Value: now}}
	insert := bson.D{{Key: "gone", Value: false}}
	if r.Leaving {
		set, insert = append(set, bson.E{Key: "gone", Value: true}), nil
	}
	update := bson.D{{Key: "$set", Value: set}, {Key: "$max", Value: bson.D{{Key: "rest", Value: mailbox.Number(r.Rest)}}}}
	if insert != nil {
		update = append(update, bson.E{Key: "$setOnInsert", Value: insert})
	}
	model := mongo.NewUpdateOneModel().SetUpsert(true).SetFilter(bson.D{{Key: "_id", Value: r.Node}}).SetUpdate(update)
	if err := upsert(ctx, a.nodes(), []mongo.WriteModel{model}); err != nil {
		return 0, err
	}
	return a.rest(ctx, r.Node)
}

func (a *Archive) rest(ctx context.Context, node string) (int64, error) {
	var p pusher
	err := a.nodes().FindOne(ctx, bson.D{{Key: "_id", Value: node}}).Decode(&p)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return 0, nil // forgotten just now
	}
	return p.Rest, err
}

// see stores what a node said of some users, and makes those due about whom that is news, or may have been when it was
// stored first.
func (a *Archive) see(ctx context.Context, node string, number, rest int64, some []ledger.Seen, now, grace int64) error {
	keys := make(bson.A, len(some))
	for i, seen := range some {
		keys[i] = seen.User + "/" + node
	}
	for range attempts {
		known := map[string]*present{}
		err := a.eachPresent(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: keys}}}}, func(p *present) { known[p.User] = p })
		if err != nil {
			return err
		}
		var fresh []*present
		var raise []mongo.WriteModel
		due := map[string]int64{}
		for _, seen := range some {
			on := seen.On && number >= rest
			was := known[seen.User]
			if was == nil || was.Held != on || was.Number >= number {
				due[seen.User] = now
				if !on {
					due[seen.User] += grace
				}
			}
			next := &present{Key: seen.User + "/" + node, User: seen.User, Node: node, Number: number, Held: on, At: seen.At, Noted: now}
			switch {
			case was == nil:
				fresh = append(fresh, next)
			case was.Number < number:
				raise = append(raise, next.over(was))
			}
		}
		all, err := insertNew(ctx, a.presence(), fresh)
		if err == nil && len(raise) > 0 {
			var done *mongo.BulkWriteResult
			if done, err = a.presence().BulkWrite(ctx, raise, options.BulkWrite().SetOrdered(false)); err == nil {
				all = all && done.MatchedCount == int64(len(raise)) // else another report came between
			}
		}
		if err != nil {
			return err
		}
		if all {
			return a.touch(ctx, due)
		}
	}
	return fmt.Errorf("others stored them %d times", attempts)
}

// over replaces what was said before under a lower number. Who is where he was has been there since then.
func (p *present) over(was *present) mongo.WriteModel {
	set := bson.D{{Key: "number", Value: p.Number}}
	if was.Held != p.Held {
		set = append(set, bson.E{Key: "held", Value: p.Held}, bson.E{Key: "at", Value: p.At}, bson.E{Key: "noted", Value: p.Noted})
	}
	return mongo.NewUpdateOneModel().SetUpdate(bson.D{{Key: "$set", Value: set}}).
		SetFilter(bson.D{{Key: "_id", Value: p.Key}, {Key: "number", Value: was.Number}, {Key: "held", Value: was.Held}})
}

// touch makes users due.
func (a *Archive) touch(ctx context.Context, due map[string]int64) error {
	updates := make([]mongo.WriteModel, 0, len(due))
	for user, at := range due {
		to, err := subject.ParseTokens(user)
		if err != nil {
			return err
		}
		updates = append(updates, mongo.NewUpdateOneModel().SetUpsert(true).SetFilter(bson.D{{Key: "_id", Value: user}}).SetUpdate(bson.D{
			{Key: "$min", Value: bson.D{{Key: "due", Value: at}}},
			{Key: "$inc", Value: bson.D{{Key: "revision", Value: int64(1)}}},
			{Key: "$setOnInsert", Value: bson.D{
				{Key: "partition", Value: int64(subject.Partition(to, a.facts.Partitions))},
				{Key: "told", Value: false},
				{Key: "turn", Value: int64(0)},
				{Key: "at", Value: int64(0)},
				{Key: "open", Value: false},
			}},
		}))
	}
	return upsert(ctx, a.attendances(), updates)
}

// Silence stores that a node can't be reached, once its users are cleared, since nobody asks for it again then; those whom
// it named meanwhile are cleared after.
func (a *Archive) Silence(ctx context.Context, node string, at int64, now time.Time, grace time.Duration) error {
	empty := func() error { return a.clear(ctx, node, archive.NotDue, at, now.UnixMilli(), grace.Milliseconds()) }
	err := empty()
	if err == nil {
		_, err = a.nodes().UpdateOne(ctx, bson.D{{Key: "_id", Value: node}, {Key: "silent", Value: false}},
			bson.D{{Key: "$set", Value: bson.D{{Key: "silent", Value: true}, {Key: "noted", Value: now.UnixMilli()}}}})
	}
	if err == nil {
		err = empty()
	}
	if err != nil {
		return fmt.Errorf("mongodb: silence of %s: %w", node, err)
	}
	return nil
}

// clear notes that the users whom a node named last under a lower number than below are not there. They are made due
// before it, because after a crash nobody would find them, and after it, because somebody may have looked too early.
func (a *Archive) clear(ctx context.Context, node string, below, at, now, grace int64) error {
	for {
		var updates []mongo.WriteModel
		due := map[string]int64{}
		err := a.eachPresent(ctx, bson.D{
			{Key: "node", Value: node}, {Key: "held", Value: true}, {Key: "number", Value: bson.D{{Key: "$lt", Value: below}}},
		}, func(p *present) {
			due[p.User] = now + grace
			updates = append(updates, mongo.NewUpdateOneModel().
				SetFilter(bson.D{{Key: "_id", Value: p.Key}, {Key: "number", Value: p.Number}}).
				SetUpdate(bson.D{{Key: "$set", Value: bson.D{
					{Key: "held", Value: false}, {Key: "at", Value: max(at, p.At)}, {Key: "noted", Value: now},
				}}}))
		}, options.Find().SetLimit(purgeChunk))
		if err != nil || len(updates) == 0 {
			return err
		}
		if err := a.touch(ctx, due); err != nil {
			return err
		}
		if _, err := a.presence().BulkWrite(ctx, updates, options.BulkWrite().SetOrdered(false)); err != nil {
			return err
		}
		if err := a.touch(ctx, due); err != nil {
			return err
		}
	}
}

func (a *Archive) eachPresent(ctx context.Context, filter bson.D, fn func(*present), how ...options.Lister[options.FindOptions]) error {
	cursor, err := a.presence().Find(ctx, filter, how...)
	if err != nil {
		return err
	}
	return each(ctx, cursor, func(p *present) (bool, error) {
		fn(p)
		return true, nil
	})
}

// Nodes returns the nodes that may have users.
func (a *Archive) Nodes(ctx context.Context) (nodes []archive.Node, err error) {
	cursor, err := a.nodes().Find(ctx, bson.D{{Key: "gone", Value: false}}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err == nil {
		err = each(ctx, cursor, func(p *pusher) (bool, error) {
			nodes = append(nodes, archive.Node{ID: p.Key, Silent: p.Silent})
			return true, nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("mongodb: nodes: %w", err)
	}
	return nodes, nil
}
