package mongodb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/shared/subject"
)

const (
	// ledgerVersion is what the facts of a database say once its mailboxes are listed and the ledger's indexes are built.
	ledgerVersion = 1

	upgradeChunk = 25              // addresses listed at once; three processes that do it stay below purgeChunk
	upgradePause = 5 * time.Second // before another try
	// rolling is how long after the upgrade processes of the version before may still archive: what they do, no mailbox
	// says. Whoever opens the database in that time reads what was archived since.
	rolling = time.Hour

	codeNotImplemented = 238
)

// indexOf is an index of one collection.
type indexOf struct {
	collection *mongo.Collection
	index      mongo.IndexModel
}

// ledgerIndexes are what the ledger's questions go by. Those with a filter hold nothing but what is asked for: messages
// whose publisher asked for receipts until all of them are settled, and users' mailboxes that may hold something pending.
func (a *Archive) ledgerIndexes() []indexOf {
	up := func(fields ...string) (keys bson.D) {
		for _, f := range fields {
			keys = append(keys, bson.E{Key: f, Value: 1})
		}
		return keys
	}
	only := func(field string) *options.IndexOptionsBuilder {
		return options.Index().SetPartialFilterExpression(bson.D{{Key: field, Value: true}})
	}
	return []indexOf{
		{a.messages, mongo.IndexModel{Keys: up("id", "address")}},
		{a.messages, mongo.IndexModel{Keys: up("address", "seq"), Options: only("asked")}},
		{a.messages, mongo.IndexModel{Keys: up("partition", "expires"), Options: only("asked")}},
		{a.messages, mongo.IndexModel{Keys: up("partition", "archived"), Options: only("asked")}},
		{a.cursors, mongo.IndexModel{Keys: up("address", "seq")}},
		{a.mailboxes, mongo.IndexModel{Keys: up("open", "_id"), Options: only("open")}},
		{a.mailboxes, mongo.IndexModel{Keys: up("id", "kind")}},
		{a.records, mongo.IndexModel{Keys: up("at", "_id")}},
	}
}

func (a *Archive) createLedgerIndexes(ctx context.Context) error {
	for _, i := range a.ledgerIndexes() {
		if err := createIndex(ctx, i.collection, i.index); err != nil {
			return err
		}
	}
	return nil
}

// createIndex makes one index if it is not there. One by one: FerretDB v1 panics on a request for several that are. It
// knows no partial ones either, and is a test peer that scans whatever it is asked: it goes without.
func createIndex(ctx context.Context, in *mongo.Collection, index mongo.IndexModel) error {
	_, err := in.Indexes().CreateOne(ctx, index)
	var refused mongo.CommandError
	if err != nil && (!errors.As(err, &refused) || refused.Code != codeNotImplemented) {
		return fmt.Errorf("mongodb: create index of %s: %w", in.Name(), err)
	}
	return nil
}

// upgrade gives a database of before the ledger what it lacks, until it has succeeded or the archive is closed. Several
// processes may do it at once, and each of them again: everything is an index or a hint that may be written twice.
func (a *Archive) upgrade(ctx context.Context, left func(context.Context) error) {
	for {
		err := left(ctx)
		a.notes.upgrading(err)
		if err == nil {
			close(a.upgraded)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(upgradePause):
		}
	}
}

// makeLedger is the upgrade of a database that has no ledger.
func (a *Archive) makeLedger(ctx context.Context) error {
	if err := a.createLedgerIndexes(ctx); err != nil {
		return err
	}
	if err := a.listMailboxes(ctx); err != nil {
		return fmt.Errorf("mongodb: list the mailboxes: %w", err)
	}
	done := bson.D{{Key: "$set", Value: bson.D{{Key: "ledger", Value: int64(ledgerVersion)}, {Key: "upgraded", Value: time.Now().UnixMilli()}}}}
	if _, err := a.about.UpdateOne(ctx, bson.D{{Key: "_id", Value: factsKey}}, done); err != nil {
		return fmt.Errorf("mongodb: note the upgrade: %w", err)
	}
	return nil
}

// listMailboxes writes a document for each address of the messages there are. It goes from one address to the next along
// the index (address, id), some thousand in a second, and holds no cursor meanwhile: servers end those that are idle.
func (a *Archive) listMailboxes(ctx context.Context) error {
	var chunk []subject.Address
	for last := ""; ; {
		var next struct {
			Address string `bson:"address"`
		}
		err := a.messages.FindOne(ctx, bson.D{{Key: "address", Value: bson.D{{Key: "$gt", Value: last}}}},
			options.FindOne().SetSort(bson.D{{Key: "address", Value: 1}}).
				SetProjection(bson.D{{Key: "_id", Value: 0}, {Key: "address", Value: 1}})).Decode(&next)
		if errors.Is(err, mongo.ErrNoDocuments) {
			return a.listSome(ctx, chunk)
		}
		if err != nil {
			return err
		}
		last = next.Address
		to, err := subject.ParseTokens(last)
		if err != nil {
			return fmt.Errorf("address %q: %w", last, err)
		}
		if chunk = append(chunk, to); len(chunk) < upgradeChunk {
			continue
		}
		if err := a.listSome(ctx, chunk); err != nil {
			return err
		}
		chunk = chunk[:0]
	}
}

func (a *Archive) listSome(ctx context.Context, addresses []subject.Address) error {
	if len(addresses) == 0 {
		return nil
	}
	heads, err := a.Heads(ctx, addresses)
	if err != nil {
		return err
	}
	if err := a.raise(ctx, heads); err != nil {
		return err
	}
	return a.closeHandled(ctx, addresses)
}

// whenUpgraded waits until the mailboxes are listed.
func (a *Archive) whenUpgraded(ctx context.Context) error {
	select {
	case <-a.upgraded:
		return nil
	default:
	}
	select {
	case <-a.upgraded:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the mailboxes of this database are being listed for the first time; try again in a minute: %w",
			errors.Join(ctx.Err(), a.notes.upgradeError()))
	}
}
