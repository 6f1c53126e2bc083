package mongodb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// purgeChunk is the most documents of one write. It is short work for the server. FerretDB v1, a test peer, has 100
// connections to its own database, and each update of a command holds one until the command ends: it hangs when all
// commands at once have more updates than that. No MongoDB does.
const purgeChunk = 100

// Purge applies the retention, also to the ledger, then empties what expired, in writes of a few documents each, so a purge
// that was interrupted has done a part of its work. Several may run at once.
func (a *Archive) Purge(ctx context.Context, partition int, policy archive.Policy, now time.Time) (int, error) {
	settled := now.Add(-policy.MinAge).UnixMilli() // archived at this time or before: old enough to be touched
	old := min(now.Add(-policy.Retention).UnixMilli(), settled+1)
	purged, after := 0, place{}
	for {
		n, last, err := a.purgeOld(ctx, partition, after, old)
		if purged += n; err != nil {
			return purged, fmt.Errorf("mongodb: purge partition %d by retention: %w", partition, err)
		}
		if last == after {
			break
		}
		after = last
	}
	for {
		n, err := a.purgeExpired(ctx, partition, now.UnixMilli(), settled)
		if purged += n; err != nil {
			return purged, fmt.Errorf("mongodb: purge partition %d of what expired: %w", partition, err)
		}
		if n == 0 {
			return purged, nil
		}
	}
}

// purgeOld deletes, or empties where it is an address's last, the next documents archived before the given time. It
// returns the place of the last one that it looked at; the same place again when there was none. What is below a head
// stays below it, so nothing is wrong if the head has risen in the meantime.
func (a *Archive) purgeOld(ctx context.Context, partition int, after place, before int64) (int, place, error) {
	chunk, err := a.find(ctx, after.before(partition, before), options.Find().SetSort(byArchived).
		SetProjection(bson.D{{Key: "address", Value: 1}, {Key: "seq", Value: 1}, {Key: "archived", Value: 1}, {Key: "why", Value: 1}}))
	if err != nil || len(chunk) == 0 {
		return 0, after, err
	}
	heads, err := a.headsOf(ctx, chunk)
	if err != nil {
		return 0, after, err
	}
	var gone, empty bson.A
	upTo := map[string]int64{} // of each address: what goes
	for _, d := range chunk {
		if mailbox.Sequence(d.Seq) < heads[d.Address] {
			gone = append(gone, d.Key)
			upTo[d.Address] = max(upTo[d.Address], d.Seq)
		} else if d.Why == "" {
			empty = append(empty, d.Key)
		}
	}
	purged := 0
	if len(gone) > 0 {
		// The ledger first: who is interrupted here finds the messages again.
		if err := a.purgeLedger(ctx, upTo); err != nil {
			return 0, after, fmt.Errorf("ledger: %w", err)
		}
		result, err := a.messages.DeleteMany(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: gone}}}})
		if err != nil {
			return 0, after, fmt.Errorf("delete: %w", err)
		}
		purged = int(result.DeletedCount)
	}
	n, err := a.empty(ctx, empty, message.WhyRetention)
	newest := chunk[len(chunk)-1]
	return purged + n, place{archived: newest.Archived, key: newest.Key}, err
}

// purgeLedger deletes what the ledger knows of addresses up to a sequence: an address is purged in the order of its
// sequences, so what is below goes with it, or went before.
func (a *Archive) purgeLedger(ctx context.Context, upTo map[string]int64) error {
	var ranges, steps bson.A
	for tokens, seq := range upTo {
		ranges = append(ranges, upToKey(tokens, 0, seq))
	}
	err := a.eachDevice(ctx, slices.Collect(maps.Keys(upTo)), func(s *standing) {
		steps = append(steps, keys(s.Key, 0, upTo[s.Address]))
	})
	if err != nil {
		return err
	}
	for _, in := range []*mongo.Collection{a.receipts, a.routed} {
		if err := deleteAny(ctx, in, ranges); err != nil {
			return err
		}
	}
	return deleteAny(ctx, a.steps, steps)
}

// deleteAny deletes what one of some conditions holds for.
func deleteAny(ctx context.Context, in *mongo.Collection, conditions bson.A) error {
	for chunk := range slices.Chunk(conditions, purgeChunk) {
		if _, err := in.DeleteMany(ctx, bson.D{{Key: "$or", Value: chunk}}); err != nil {
			return fmt.Errorf("%s: %w", in.Name(), err)
		}
	}
	return nil
}

func (a *Archive) headsOf(ctx context.Context, chunk []*document) (map[string]uint64, error) {
	var addresses []subject.Address
	heads := map[string]uint64{}
	for _, d := range chunk {
		if _, listed := heads[d.Address]; listed {
			continue
		}
		heads[d.Address] = 0
		to, err := subject.ParseTokens(d.Address)
		if err != nil {
			return nil, fmt.Errorf("document %q: %w", d.Key, err)
		}
		addresses = append(addresses, to)
	}
	found, err := a.Heads(ctx, addresses)
	for to, head := range found {
		heads[to.Tokens()] = head
	}
	return heads, err
}

// purgeExpired empties some of what has expired; 0 when nothing is left.
func (a *Archive) purgeExpired(ctx context.Context, partition int, now, settled int64) (int, error) {
	chunk, err := a.find(ctx, bson.D{
		{Key: "partition", Value: int64(partition)},
		{Key: "why", Value: ""},
		{Key: "expires", Value: bson.D{{Key: "$gt", Value: int64(0)}, {Key: "$lte", Value: now}}},
		{Key: "archived", Value: bson.D{{Key: "$lte", Value: settled}}},
	}, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return 0, err
	}
	var expired bson.A
	for _, d := range chunk {
		expired = append(expired, d.Key)
	}
	return a.empty(ctx, expired, message.WhyExpired)
}

// empty takes the payloads of documents and leaves the reason; it passes over those that have one already.
func (a *Archive) empty(ctx context.Context, keys bson.A, why message.Why) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	result, err := a.messages.UpdateMany(ctx,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: keys}}}, {Key: "why", Value: ""}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "why", Value: why}, {Key: "payload", Value: []byte{}}}}})
	if err != nil {
		return 0, fmt.Errorf("empty: %w", err)
	}
	return int(result.ModifiedCount), nil
}

// find returns at most purgeChunk documents.
func (a *Archive) find(ctx context.Context, filter bson.D, how *options.FindOptionsBuilder) ([]*document, error) {
	cursor, err := a.messages.Find(ctx, filter, how.SetLimit(purgeChunk))
	if err != nil {
		return nil, fmt.Errorf("find: %w", err)
	}
	var chunk []*document
	err = each(ctx, cursor, func(d *document) (bool, error) {
		chunk = append(chunk, d)
		return true, nil
	})
	return chunk, err
}
