package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/subject"
)

// Standing reads the truth: heads from messages, what was handled from cursors.
func (a *Archive) Standing(ctx context.Context, addresses []subject.Address, device string) (map[subject.Address]archive.Standing, error) {
	// The cursors are read before the heads, so that none is above its head.
	all, err := a.standings(ctx, addresses, device)
	if err != nil {
		return nil, fmt.Errorf("mongodb: standing: %w", err)
	}
	heads, err := a.Heads(ctx, addresses)
	if err != nil {
		return nil, fmt.Errorf("mongodb: standing: %w", err)
	}
	for to, s := range all {
		s.Head = heads[to]
		if s.Devices == 0 && (to.Kind != subject.User || device != "") {
			s.Handled = s.Head // nobody is there to acknowledge
		}
		all[to] = s
	}
	return all, nil
}

// standings are what Standing tells but for the heads.
func (a *Archive) standings(ctx context.Context, addresses []subject.Address, device string) (map[subject.Address]archive.Standing, error) {
	all := make(map[subject.Address]archive.Standing, len(addresses))
	users := map[string]subject.Address{}
	var mu sync.Mutex // protects all
	group, some := errgroup.WithContext(ctx)
	group.SetLimit(headsAtOnce)
	for _, to := range addresses {
		if to.Kind == subject.User {
			users[to.Tokens()] = to
			continue
		}
		group.Go(func() error {
			s, err := a.shared(some, to.Tokens())
			mu.Lock()
			defer mu.Unlock()
			all[to] = s
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	tokens := make([]string, 0, len(users))
	for t, to := range users {
		tokens = append(tokens, t)
		all[to] = archive.Standing{}
	}
	return all, a.eachDevice(ctx, tokens, func(d *standing) {
		if device != "" && device != d.Device {
			return
		}
		s := all[users[d.Address]]
		s.Devices++
		s.Handled = max(s.Handled, mailbox.Sequence(d.Seq))
		all[users[d.Address]] = s
	})
}

// shared is how far the devices of a topic, or of all, are: the lowest of them is one look at an index.
func (a *Archive) shared(ctx context.Context, tokens string) (s archive.Standing, err error) {
	var lowest standing
	of := bson.D{{Key: "address", Value: tokens}}
	err = a.cursors.FindOne(ctx, of, options.FindOne().SetSort(bson.D{{Key: "seq", Value: 1}})).Decode(&lowest)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("lowest cursor of %s: %w", tokens, err)
	}
	n, err := a.cursors.CountDocuments(ctx, of)
	if err != nil {
		return s, fmt.Errorf("cursors of %s: %w", tokens, err)
	}
	return archive.Standing{Handled: mailbox.Sequence(lowest.Seq), Devices: int(n)}, nil
}

// Devices are in the order of address and device.
func (a *Archive) Devices(ctx context.Context, tenant, user string) ([]archive.Device, error) {
	cursor, err := a.cursors.Find(ctx, within("_id", subject.Encode(tenant)+"/"+subject.Encode(user)+"/"))
	if err != nil {
		return nil, fmt.Errorf("mongodb: devices of %s: %w", user, err)
	}
	var all []archive.Device
	err = each(ctx, cursor, func(s *standing) (bool, error) {
		to, err := subject.ParseTokens(s.Address)
		all = append(all, archive.Device{
			Device: s.Device, To: to, Cursor: mailbox.Sequence(s.Seq), Start: mailbox.Sequence(s.Start), Known: s.Known, At: s.At,
		})
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("mongodb: devices of %s: %w", user, err)
	}
	slices.SortFunc(all, func(a, b archive.Device) int {
		return cmp.Or(strings.Compare(a.To.Tokens(), b.To.Tokens()), strings.Compare(a.Device, b.Device))
	})
	return all, nil
}

// Find returns users' messages first, each kind in the order of addresses.
func (a *Archive) Find(ctx context.Context, tenant, id string, limit int) (found, copies []archive.Row, err error) {
	this, begins := bson.E{Key: "id", Value: id}, bson.E{Key: "id", Value: bson.D{{Key: "$gte", Value: id + "~"}, {Key: "$lt", Value: id + "\x7f"}}}
	// In the order of tokens: all, topics, users; / comes after the dot.
	first, users, last := subject.Encode(tenant)+".", subject.Encode(tenant)+"."+string(subject.User)+".", subject.Encode(tenant)+"/"
	found, err = a.identified(ctx, this, users, last, limit)
	if err == nil && len(found) < limit {
		var shared []archive.Row
		shared, err = a.identified(ctx, this, first, users, limit-len(found))
		found = append(found, shared...)
	}
	if err == nil {
		copies, err = a.identified(ctx, begins, first, last, limit)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("mongodb: find %q: %w", id, err)
	}
	return found, copies, nil
}

// identified goes by the index (id, address).
func (a *Archive) identified(ctx context.Context, id bson.E, from, before string, limit int) ([]archive.Row, error) {
	return a.rows(ctx, bson.D{id, {Key: "address", Value: bson.D{{Key: "$gte", Value: from}, {Key: "$lt", Value: before}}}},
		bson.D{{Key: "id", Value: 1}, {Key: "address", Value: 1}}, limit)
}

// Rows reads from one mailbox.
func (a *Archive) Rows(ctx context.Context, to subject.Address, from uint64, limit int) ([]archive.Row, error) {
	if from > math.MaxInt64 {
		return nil, nil
	}
	rows, err := a.rows(ctx, keys(to.Tokens(), mailbox.Number(from)-1, math.MaxInt64), bson.D{{Key: "_id", Value: 1}}, limit)
	if err != nil {
		return nil, fmt.Errorf("mongodb: rows of %s: %w", to, err)
	}
	return rows, nil
}

// Scan goes by marks of the time of archiving and the key of the last row.
func (a *Archive) Scan(ctx context.Context, partition int, since, until int64, mark string, limit int) ([]archive.Row, string, error) {
	after := place{archived: since}
	if mark != "" {
		archived, key, _ := strings.Cut(mark, " ")
		var err error
		if after.archived, err = strconv.ParseInt(archived, 10, 64); err != nil {
			return nil, "", fmt.Errorf("mongodb: scan behind the mark %q: %w", mark, err)
		}
		after.key = key
	}
	if after.archived >= until {
		return nil, "", nil
	}
	// One more than the limit tells that there is more.
	rows, err := a.rows(ctx, after.before(partition, until), byArchived, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("mongodb: scan partition %d: %w", partition, err)
	}
	if len(rows) <= limit {
		return rows, "", nil
	}
	last := rows[limit-1].Message
	return rows[:limit], fmt.Sprintf("%d %s", last.Archived, key(last.To.Tokens(), mailbox.Number(last.Seq))), nil
}
