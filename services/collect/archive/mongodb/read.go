package mongodb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	headsAtOnce = 16 // look-ups under way in one call of Heads
	sinceChunk  = 500
	sinceBytes  = 8 << 20 // of payload, in a chunk of more than one message
	// cursorTimeout is how long the end of a cursor may take: nobody waits for it longer when the server is silent.
	cursorTimeout = 500 * time.Millisecond
)

// Read returns a part of a mailbox. The head is read before the rows: what is purged in between is a gap either way.
func (a *Archive) Read(ctx context.Context, to subject.Address, after, upTo uint64, maxBytes int, now time.Time) (*history.Page, error) {
	tokens := to.Tokens()
	head, err := a.head(ctx, tokens)
	if err != nil {
		return nil, fmt.Errorf("mongodb: read: %w", err)
	}
	page := mailbox.NewPage(a.facts.Epoch, head, after, upTo, maxBytes, now)
	first, last, ok := page.Range()
	if !ok {
		return page.End(), nil
	}
	cursor, err := a.messages.Find(ctx, keys(tokens, first, last),
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(mailbox.PageRows))
	if err != nil {
		return nil, fmt.Errorf("mongodb: read %s: %w", to, err)
	}
	err = each(ctx, cursor, func(d *document) (bool, error) {
		row, err := d.row()
		return err == nil && page.Add(row), err
	})
	if err != nil {
		return nil, fmt.Errorf("mongodb: read %s: %w", to, err)
	}
	return page.End(), nil
}

// Heads returns the highest sequence of each address. Each is one look-up at the end of an index range, some of them
// at once: one query for all of them would walk whole mailboxes.
func (a *Archive) Heads(ctx context.Context, addresses []subject.Address) (map[subject.Address]uint64, error) {
	heads := make(map[subject.Address]uint64, len(addresses))
	var mu sync.Mutex // protects heads
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(headsAtOnce)
	for _, to := range addresses {
		group.Go(func() error {
			head, err := a.head(ctx, to.Tokens())
			if err != nil {
				return fmt.Errorf("mongodb: heads: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			heads[to] = head
			return nil
		})
	}
	return heads, group.Wait()
}

func (a *Archive) head(ctx context.Context, tokens string) (uint64, error) {
	var newest document
	err := a.messages.FindOne(ctx, keys(tokens, 0, math.MaxInt64), options.FindOne().
		SetSort(bson.D{{Key: "_id", Value: -1}}).
		SetProjection(bson.D{{Key: "seq", Value: 1}, {Key: "archived", Value: 1}})).Decode(&newest)
	if err != nil && !errors.Is(err, mongo.ErrNoDocuments) {
		return 0, fmt.Errorf("head of %s: %w", tokens, err)
	}
	a.clock.seen(newest.Archived)
	return mailbox.Sequence(newest.Seq), nil
}

// place is a position in the order of archiving inside a partition.
type place struct {
	archived int64
	key      string
}

// before limits a query to what a partition archived after a place and before a time. The first condition on
// archived bounds the index scan; the alternative only breaks ties.
func (p place) before(partition int, end int64) bson.D {
	return bson.D{
		{Key: "partition", Value: int64(partition)},
		{Key: "archived", Value: bson.D{{Key: "$gte", Value: p.archived}, {Key: "$lt", Value: end}}},
		{Key: "$or", Value: bson.A{
			bson.D{{Key: "archived", Value: bson.D{{Key: "$gt", Value: p.archived}}}},
			bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: p.key}}}},
		}},
	}
}

var byArchived = bson.D{{Key: "archived", Value: 1}, {Key: "_id", Value: 1}} //nolint:gochecknoglobals // never changed

// Since gives fn a partition's messages from a time on, ordered by time and, inside one millisecond, by key: an
// address's times never decrease (see clock), and its keys sort as its sequences. No cursor is open while fn runs.
func (a *Archive) Since(ctx context.Context, partition int, archived int64, fn func([]*message.Message) error) error {
	after := place{archived: archived}
	for {
		chunk, last, err := a.sinceChunk(ctx, partition, after)
		if err != nil {
			return fmt.Errorf("mongodb: partition %d since %d: %w", partition, archived, err)
		}
		if last == after {
			return nil
		}
		if after = last; len(chunk) == 0 {
			continue // all of it had expired
		}
		if err := fn(chunk); err != nil {
			return err
		}
	}
}

func (a *Archive) sinceChunk(ctx context.Context, partition int, after place) (chunk []*message.Message, last place, err error) {
	last = after
	cursor, err := a.messages.Find(ctx, after.before(partition, math.MaxInt64), options.Find().SetSort(byArchived).SetLimit(sinceChunk))
	if err != nil {
		return nil, last, err
	}
	now, bytes := time.Now(), 0
	err = each(ctx, cursor, func(d *document) (bool, error) {
		row, err := d.row()
		if err != nil {
			return false, err
		}
		last = place{archived: d.Archived, key: d.Key}
		a.notes.stored(row.Message.To, row.Message.Seq)
		if row.Why == "" && !row.Message.Expired(now) {
			chunk = append(chunk, row.Message)
			bytes += len(row.Message.Payload)
		}
		return bytes < sinceBytes, nil
	})
	return chunk, last, err
}

// each gives the documents of a cursor to fn until there are no more or fn has had enough, and closes the cursor, also after
// ctx has ended. A server that does not hear of that ends the cursor by itself.
func each[T any](ctx context.Context, cursor *mongo.Cursor, fn func(*T) (more bool, err error)) error {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cursorTimeout)
		defer cancel()
		_ = cursor.Close(ctx)
	}()
	for cursor.Next(ctx) {
		d := new(T)
		if err := cursor.Decode(d); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		if more, err := fn(d); err != nil || !more {
			return err
		}
	}
	return cursor.Err()
}
