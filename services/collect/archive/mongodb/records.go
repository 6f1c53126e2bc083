package mongodb

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/shared/admin"
)

const usualRecords = 50 // of a request without a limit

// record is an admin.Record as it is stored.
type record struct {
	ID     string `bson:"_id"`
	At     int64  `bson:"at"`
	Who    string `bson:"who"`
	Note   string `bson:"note,omitempty"`
	Action string `bson:"action"`
	Filter string `bson:"filter,omitempty"` // JSON
	Count  int64  `bson:"count"`
	Detail string `bson:"detail,omitempty"`
}

// Record replaces the whole document.
func (a *Archive) Record(ctx context.Context, r admin.Record) error {
	stored := record{
		ID: r.ID, At: r.At, Who: r.By.Who, Note: r.By.Note, Action: r.Action, Filter: string(r.Filter), Count: int64(r.Count), Detail: r.Detail,
	}
	replace := mongo.NewReplaceOneModel().SetUpsert(true).SetFilter(bson.D{{Key: "_id", Value: r.ID}}).SetReplacement(stored)
	if err := upsert(ctx, a.records, []mongo.WriteModel{replace}); err != nil {
		return fmt.Errorf("mongodb: record %s: %w", r.ID, err)
	}
	return nil
}

// Records of one time come in the order of their ids, the highest first.
func (a *Archive) Records(ctx context.Context, q admin.RecordsRequest) ([]admin.Record, error) {
	filter := bson.D{}
	if q.Before != 0 {
		filter = append(filter, bson.E{Key: "at", Value: bson.D{{Key: "$lt", Value: q.Before}}})
	}
	if q.Action != "" {
		filter = append(filter, bson.E{Key: "action", Value: q.Action})
	}
	if q.Limit == 0 {
		q.Limit = usualRecords
	}
	cursor, err := a.records.Find(ctx, filter, options.Find().SetLimit(int64(q.Limit)).
		SetSort(bson.D{{Key: "at", Value: -1}, {Key: "_id", Value: -1}}))
	if err != nil {
		return nil, fmt.Errorf("mongodb: records: %w", err)
	}
	var records []admin.Record
	err = each(ctx, cursor, func(r *record) (bool, error) {
		found := admin.Record{
			ID: r.ID, At: r.At, By: admin.By{Who: r.Who, Note: r.Note}, Action: r.Action, Count: int(r.Count), Detail: r.Detail,
		}
		if r.Filter != "" {
			found.Filter = []byte(r.Filter)
		}
		records = append(records, found)
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("mongodb: records: %w", err)
	}
	return records, nil
}

// least is the first version of MongoDB that this package is written for.
const least = 6

// Health measures a ping and asks the server what it is.
func (a *Archive) Health(ctx context.Context) (admin.Health, error) {
	h := admin.Health{Kind: "mongodb"}
	var build struct {
		Version string  `bson:"version"`
		Parts   []int32 `bson:"versionArray"`
	}
	db := a.about.Database()
	if err := db.RunCommand(ctx, bson.D{{Key: "buildInfo", Value: 1}}).Decode(&build); err != nil {
		return h, fmt.Errorf("mongodb: version: %w", err)
	}
	h.Version = build.Version
	var hello struct {
		Set   string    `bson:"setName"`
		Msg   string    `bson:"msg"`
		Hosts []string  `bson:"hosts"`
		Never []string  `bson:"passives"` // hold data and never become primary
		Now   time.Time `bson:"localTime"`
	}
	if err := db.RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return h, fmt.Errorf("mongodb: hello: %w", err)
	}
	h.Clock = hello.Now.UnixMilli()
	start := time.Now()
	if err := a.Ping(ctx); err != nil {
		return h, err
	}
	h.Millis = float64(time.Since(start).Microseconds()) / 1000
	const router = "isdbgrid" // what mongos says
	if hello.Msg != router {
		h.Warnings = replication(hello.Set, len(hello.Hosts)+len(hello.Never))
	}
	if len(build.Parts) > 0 && build.Parts[0] < least {
		h.Warnings = append(h.Warnings, admin.Warn{
			What: "MongoDB " + build.Version + " is older than what this archive is written for", Remedy: fmt.Sprintf("upgrade it to %d.0 or later", least),
		})
	}
	select {
	case <-a.upgraded:
	default:
		h.Warnings = append(h.Warnings, a.upgradeWarning())
	}
	return h, nil
}

// replication says what a majority is worth.
func replication(set string, hosts int) []admin.Warn {
	if set == "" {
		return []admin.Warn{{
			What:   "MongoDB is a single server without a replica set: what is archived is lost with its disk",
			Remedy: "run a replica set of three members and name it in the URI (replicaSet=…)",
		}}
	}
	const safe = 3 // members: two still are a majority when one is lost
	if hosts < safe {
		return []admin.Warn{{
			What:   fmt.Sprintf("the replica set %s has %d data-bearing members: it takes no writes, or has one copy, when one is lost", set, hosts),
			Remedy: "add members until there are three",
		}}
	}
	return nil
}

func (a *Archive) upgradeWarning() admin.Warn {
	w := admin.Warn{
		What:   "the mailboxes of this database, which is of before the ledger, are being listed: what is undelivered is not known yet",
		Remedy: "wait some minutes",
	}
	if err := a.notes.upgradeError(); err != nil {
		w.What += "; the last try failed: " + err.Error()
		w.Remedy = "mend what the error names; it is tried again every " + upgradePause.String()
	}
	return w
}
