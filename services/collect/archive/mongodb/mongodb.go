// Package mongodb is the archive for fabrics of several machines.
//
// Writes are acknowledged by the majority and journaled; everything is read from the primary with the majority's
// concern, so what was read once can't be rolled back. Nothing needs a transaction or an atomic read-and-write: the
// unique keys of messages and $max on cursors decide between processes.
//
//	messages  _id "<address tokens>/<sequence, 20 digits>": range and head of a mailbox are one index
//	          unique (address, id): what was published twice; (id, address): Find
//	          (partition, archived, _id): Since, Scan, and Purge by age
//	          (partition, why, expires): Purge of what expired
//	          three that hold only messages whose receipts are open: see ledgerIndexes
//	cursors   _id "<tenant>/<user>/<address tokens>/<device>", each encoded: one range holds the devices of a user
//	          (address, seq): all devices of a mailbox, the lowest first
//	mailboxes _id "<address tokens>": a hint where to look for what is pending; see mailboxes.go
//	steps     _id "<key of a cursor>/<sequence, 20 digits>": when and at which node a device came so far
//	routed    _id "<address tokens>/<to, 20 digits>/<from, 20 digits>": when a range was routed, and to which nodes
//	receipts  _id "<key of a message>/<device>": the terminal state; the first insert wins
//	records   _id, the record's own: what operators changed; (at, _id)
//	presence  _id "<user tokens>/<node>": what a node said of a user; attendances: what was told of each; nodes; marks
//	facts     one document
package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
)

const (
	closeTimeout = 10 * time.Second // for the driver's own work at Close
	// connectTimeout is how long a new connection may take, unless the URI says otherwise: after an outage of the
	// network nobody waits longer for one that was begun during it.
	connectTimeout = time.Second
	factsKey       = "facts"

	defaultDatabase = "weft"
)

// Archive is an archive.Archive in one MongoDB database.
type Archive struct {
	facts     archive.Facts
	client    *mongo.Client
	messages  *mongo.Collection
	cursors   *mongo.Collection
	mailboxes *mongo.Collection
	steps     *mongo.Collection
	routed    *mongo.Collection
	receipts  *mongo.Collection
	records   *mongo.Collection
	about     *mongo.Collection // the facts; Ping writes there
	clock     clock
	notes     *notes
	upgraded  chan struct{} // closed once mailboxes and the ledger's indexes are there
	stop      context.CancelFunc
	running   sync.WaitGroup // the keeper of notes, and an upgrade
}

var _ archive.Archive = (*Archive)(nil)

// Open opens the archive in a database (empty: the one that the URI names, or weft) and creates it if it is not there. The
// epoch in facts is not looked at: a new archive gets its own, and so does one whose facts were removed because a backup was
// restored. Several processes may do it at once. The error is archive.ErrPartitions if it was created
// with another number. A server that can't be reached is an error when ctx ends, at the latest after the driver's
// selection timeout (30 s unless the URI says otherwise).
func Open(ctx context.Context, uri, database string, facts archive.Facts) (*Archive, error) {
	if err := mailbox.Check(facts); err != nil {
		return nil, err
	}
	named, err := connstring.ParseAndValidate(uri)
	if _, unknown := errors.AsType[*net.DNSError](err); unknown { // of mongodb+srv://
		return nil, fmt.Errorf("mongodb: look the servers up: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", archive.ErrAddress, err)
	}
	database = cmp.Or(database, named.Database, defaultDatabase)
	journal := true
	client, err := mongo.Connect(options.Client().SetConnectTimeout(connectTimeout).ApplyURI(uri).SetAppName("weft-archive").
		SetWriteConcern(&writeconcern.WriteConcern{W: writeconcern.WCMajority, Journal: &journal}).
		SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary()))
	if err != nil {
		return nil, fmt.Errorf("mongodb: connect: %w", err)
	}
	db := client.Database(database)
	a := &Archive{
		client: client, messages: db.Collection("messages"), cursors: db.Collection("cursors"),
		mailboxes: db.Collection("mailboxes"), steps: db.Collection("steps"), routed: db.Collection("routed"),
		receipts: db.Collection("receipts"), records: db.Collection("records"), about: db.Collection("facts"),
		notes: newNotes(), upgraded: make(chan struct{}),
	}
	left, err := a.create(ctx, facts)
	if err != nil {
		return nil, errors.Join(err, a.disconnect(ctx))
	}
	a.run(ctx, left)
	return a, nil
}

// run begins the goroutines that Close ends; the end of ctx does not.
func (a *Archive) run(ctx context.Context, left func(context.Context) error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.stop = stop
	a.running.Go(func() { a.keep(ctx) })
	if left == nil {
		close(a.upgraded)
		return
	}
	a.running.Go(func() { a.upgrade(ctx, left) })
}

// create makes what is missing in the database and reads what was decided when it was made. What is left to do in a
// database that was made before there was a ledger can take minutes; nil: nothing.
func (a *Archive) create(ctx context.Context, wanted archive.Facts) (left func(context.Context) error, err error) {
	for _, index := range []mongo.IndexModel{
		{Keys: bson.D{{Key: "address", Value: 1}, {Key: "id", Value: 1}}, Options: options.Index().SetUnique(true)},
		{Keys: bson.D{{Key: "partition", Value: 1}, {Key: "archived", Value: 1}, {Key: "_id", Value: 1}}},
		{Keys: bson.D{{Key: "partition", Value: 1}, {Key: "why", Value: 1}, {Key: "expires", Value: 1}}},
	} {
		if err := createIndex(ctx, a.messages, index); err != nil {
			return nil, err
		}
	}
	if err := a.createFacts(ctx, wanted); err != nil {
		return nil, fmt.Errorf("mongodb: create facts: %w", err)
	}
	var stored struct {
		Epoch      string `bson:"epoch"`
		Partitions int    `bson:"partitions"`
		Ledger     int64  `bson:"ledger"`
		Upgraded   int64  `bson:"upgraded"` // when, ms since 1970; 0: it was made with a ledger
	}
	if err := a.about.FindOne(ctx, bson.D{{Key: "_id", Value: factsKey}}).Decode(&stored); err != nil {
		return nil, fmt.Errorf("mongodb: read facts: %w", err)
	}
	a.facts = archive.Facts{Epoch: stored.Epoch, Partitions: stored.Partitions}
	if err := mailbox.Agree(a.facts, wanted); err != nil {
		return nil, err
	}
	if err := a.createPresenceIndexes(ctx); err != nil {
		return nil, err
	}
	if stored.Ledger < ledgerVersion {
		return a.makeLedger, nil
	}
	if time.Since(time.UnixMilli(stored.Upgraded)) < rolling {
		left = func(ctx context.Context) error { return a.noteSince(ctx, stored.Upgraded-recent.Milliseconds(), 0) }
	}
	return left, a.createLedgerIndexes(ctx)
}

// createFacts decides what nobody has decided yet. Where there are messages already, a backup was restored and its facts were
// removed: mailboxes saved before the messages would hide some, so they are listed anew.
func (a *Archive) createFacts(ctx context.Context, wanted archive.Facts) error {
	ledger := int64(ledgerVersion)
	err := a.messages.FindOne(ctx, bson.D{}, options.FindOne().SetSort(bson.D{{Key: "_id", Value: 1}}).
		SetProjection(bson.D{{Key: "_id", Value: 1}})).Err()
	if err == nil {
		ledger = 0
	} else if !errors.Is(err, mongo.ErrNoDocuments) {
		return err
	}
	_, err = a.about.InsertOne(ctx, bson.D{
		{Key: "_id", Value: factsKey},
		{Key: "epoch", Value: mailbox.NewEpoch()},
		{Key: "partitions", Value: wanted.Partitions},
		{Key: "ledger", Value: ledger},
	})
	if mongo.IsDuplicateKeyError(err) {
		return nil
	}
	return err
}

// Facts are the archive's epoch and partitions.
func (a *Archive) Facts() archive.Facts { return a.facts }

// Ping says whether the primary takes writes that the majority confirms.
func (a *Archive) Ping(ctx context.Context) error {
	touch := bson.D{{Key: "$set", Value: bson.D{{Key: "pinged", Value: time.Now().UnixMilli()}}}}
	if _, err := a.about.UpdateOne(ctx, bson.D{{Key: "_id", Value: factsKey}}, touch); err != nil {
		return fmt.Errorf("mongodb: ping: %w", err)
	}
	return nil
}

// Close writes down what was noted, and ends the archive's goroutines and the driver's connections.
func (a *Archive) Close() error {
	a.stop()
	a.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := a.flush(ctx)
	if err != nil {
		err = fmt.Errorf("mongodb: close: mailboxes that hold something new stay unknown until somebody reads it: %w", err)
	}
	return errors.Join(err, a.disconnect(ctx))
}

// disconnect has its own time, also after ctx has ended.
func (a *Archive) disconnect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := a.client.Disconnect(ctx); err != nil {
		return fmt.Errorf("mongodb: close: %w", err)
	}
	return nil
}
