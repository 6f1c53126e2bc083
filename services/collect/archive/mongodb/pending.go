package mongodb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// fewKeys is up to how many messages of one mailbox are asked for by name, together with those of others. More of one
	// mailbox are read as a range.
	fewKeys = 64
	// groupKeys is how many are asked for by name at once.
	groupKeys = 1000
)

// stretch is what may be pending in one mailbox: after < sequence <= upTo.
type stretch struct {
	to          subject.Address
	tokens      string
	after, upTo int64
}

// pending is one call of Pending.
type pending struct {
	*Archive
	wanted bson.D // what the filter and the time leave of the messages
	limit  int
	rows   []archive.Row
	named  []stretch // small ones that wait to be asked for together
	keys   bson.A    // of named
}

// Pending walks the users' mailboxes that are open, or looks at those that the filter names. It sees what any process has
// stored: the first page looks for what was not written to the mailboxes yet. A topic's User and a Device without its User
// are not looked at.
func (a *Archive) Pending(ctx context.Context, f admin.Filter, after admin.Place, now int64, limit int) ([]archive.Row, error) {
	p := &pending{Archive: a, wanted: wanted(f, now), limit: limit}
	walk := p.walkOpen
	if f.User != "" || f.Topic != "" {
		walk = p.walkNamed
	}
	err := a.whenUpgraded(ctx)
	if err == nil && after.Address == "" {
		err = a.catchUp(ctx)
	}
	if err == nil {
		err = a.flush(ctx)
	}
	if err == nil {
		err = walk(ctx, f, after)
	}
	if err == nil {
		err = p.readNamed(ctx)
	}
	if err == nil && f.Topic != "" {
		err = a.countDevices(ctx, p.rows)
	}
	if err != nil {
		return nil, fmt.Errorf("mongodb: pending: %w", err)
	}
	return p.rows, nil
}

// wanted is what a filter and the time leave of the messages of a mailbox.
func wanted(f admin.Filter, now int64) bson.D {
	w := bson.D{
		{Key: "why", Value: ""},
		{Key: "$or", Value: bson.A{
			bson.D{{Key: "expires", Value: int64(0)}},
			bson.D{{Key: "expires", Value: bson.D{{Key: "$gt", Value: now}}}},
		}},
	}
	if f.Type != "" {
		w = append(w, bson.E{Key: "type", Value: f.Type})
	}
	archived := bson.D{}
	if f.Since != 0 {
		archived = append(archived, bson.E{Key: "$gte", Value: f.Since})
	}
	if f.Until != 0 {
		archived = append(archived, bson.E{Key: "$lt", Value: f.Until})
	}
	if len(archived) > 0 {
		w = append(w, bson.E{Key: "archived", Value: archived})
	}
	return w
}

// walkOpen goes through the open mailboxes. Their cursors say what is pending; those that are handled it closes.
func (p *pending) walkOpen(ctx context.Context, f admin.Filter, after admin.Place) error {
	above, before := "$gte", "\x7f" // the first may be handled but for what is behind the place
	from := after.Address
	if f.Tenant != "" {
		from, before = max(from, subject.Encode(f.Tenant)+"."), subject.Encode(f.Tenant)+"/" // / comes after the dot
	}
	for {
		boxes, err := p.boxes(ctx, bson.D{
			{Key: "open", Value: true}, {Key: "_id", Value: bson.D{{Key: above, Value: from}, {Key: "$lt", Value: before}}},
		}, mailboxChunk)
		if err != nil {
			return err
		}
		handled, err := p.handled(ctx, boxes)
		if err != nil {
			return err
		}
		if err := p.closeBoxes(ctx, boxes, handled); err != nil {
			return err
		}
		for _, b := range boxes {
			if full, err := p.add(ctx, b, max(handled[b.Key], behind(b.Key, after))); full || err != nil {
				return err
			}
		}
		if len(boxes) < mailboxChunk {
			return nil
		}
		from, above = boxes[len(boxes)-1].Key, "$gt"
	}
}

// behind is where a mailbox goes on behind a place.
func behind(tokens string, after admin.Place) int64 {
	if tokens == after.Address {
		return mailbox.Number(after.Seq)
	}
	return 0
}

// walkNamed looks at the mailboxes of one id, in one tenant or in all.
func (p *pending) walkNamed(ctx context.Context, f admin.Filter, after admin.Place) error {
	kind, id, device := subject.User, f.User, f.Device
	if f.Topic != "" {
		kind, id, device = subject.Topic, f.Topic, ""
	}
	to := subject.Address{Tenant: f.Tenant, Kind: kind, ID: id}
	boxes := []*box{{Key: to.Tokens()}}
	if f.Tenant == "" {
		var err error
		if boxes, err = p.boxes(ctx, bson.D{{Key: "kind", Value: kind}, {Key: "id", Value: id}}, 0); err != nil {
			return err
		}
	}
	var addresses []subject.Address
	for _, b := range boxes {
		to, err := subject.ParseTokens(b.Key)
		if err != nil {
			return fmt.Errorf("mailbox %q: %w", b.Key, err)
		}
		addresses = append(addresses, to)
	}
	standings, err := p.Standing(ctx, addresses, device)
	if err != nil {
		return err
	}
	for i, b := range boxes {
		s := standings[addresses[i]]
		b.Head = mailbox.Number(s.Head)
		if b.Key < after.Address {
			continue
		}
		if full, err := p.add(ctx, b, max(mailbox.Number(s.Handled), behind(b.Key, after))); full || err != nil {
			return err
		}
	}
	return nil
}

// add takes a mailbox's messages above a sequence, at once or with those of others. It says whether the limit is reached.
func (p *pending) add(ctx context.Context, b *box, after int64) (full bool, err error) {
	if after >= b.Head {
		return false, nil
	}
	to, err := subject.ParseTokens(b.Key)
	if err != nil {
		return false, fmt.Errorf("mailbox %q: %w", b.Key, err)
	}
	s := stretch{to: to, tokens: b.Key, after: after, upTo: b.Head}
	if s.upTo-s.after <= fewKeys {
		p.named = append(p.named, s)
		for seq := s.after + 1; seq <= s.upTo; seq++ {
			p.keys = append(p.keys, key(s.tokens, seq))
		}
		if len(p.keys) < min(groupKeys, max(p.limit-len(p.rows), fewKeys)) {
			return false, nil
		}
		err = p.readNamed(ctx)
		return len(p.rows) >= p.limit, err
	}
	if err := p.readNamed(ctx); err != nil || len(p.rows) >= p.limit {
		return true, err
	}
	rows, err := p.Archive.rows(ctx, append(keys(s.tokens, s.after, s.upTo), p.wanted...), bson.D{{Key: "_id", Value: 1}}, p.limit-len(p.rows))
	p.rows = append(p.rows, rows...)
	return len(p.rows) >= p.limit, err
}

// readNamed reads what waits. The keys of two addresses don't sort as the addresses do, so the rows are sorted here.
func (p *pending) readNamed(ctx context.Context) error {
	if len(p.keys) == 0 || len(p.rows) >= p.limit {
		return nil
	}
	rows, err := p.Archive.rows(ctx, append(bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: p.keys}}}}, p.wanted...), nil, 0)
	if err != nil {
		return err
	}
	order := map[subject.Address]string{}
	for _, s := range p.named {
		order[s.to] = s.tokens
	}
	slices.SortFunc(rows, func(a, b archive.Row) int {
		return cmp.Or(strings.Compare(order[a.Message.To], order[b.Message.To]), cmp.Compare(a.Message.Seq, b.Message.Seq))
	})
	p.named, p.keys = nil, nil
	p.rows = append(p.rows, rows...)
	p.rows = p.rows[:min(len(p.rows), p.limit)]
	return nil
}

// countDevices says of each row of topics how many devices are below it. It asks the index (address, seq) for the number
// of devices at each sequence.
func (a *Archive) countDevices(ctx context.Context, rows []archive.Row) error {
	for len(rows) > 0 {
		to := rows[0].Message.To
		n := slices.IndexFunc(rows, func(r archive.Row) bool { return r.Message.To != to })
		if n < 0 {
			n = len(rows)
		}
		if err := a.countBelow(ctx, to.Tokens(), rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (a *Archive) countBelow(ctx context.Context, tokens string, rows []archive.Row) error {
	type count struct {
		Seq     int64 `bson:"_id"`
		Devices int64 `bson:"devices"`
	}
	last := mailbox.Number(rows[len(rows)-1].Message.Seq)
	cursor, err := a.cursors.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: bson.D{{Key: "address", Value: tokens}, {Key: "seq", Value: bson.D{{Key: "$gte", Value: int64(0)}, {Key: "$lt", Value: last}}}}}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$seq"}, {Key: "devices", Value: bson.D{{Key: "$sum", Value: int64(1)}}}}}},
	})
	if err != nil {
		return fmt.Errorf("devices of %s: %w", tokens, err)
	}
	counts := []count{{Seq: math.MaxInt64}}
	err = each(ctx, cursor, func(c *count) (bool, error) {
		counts = append(counts, *c)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("devices of %s: %w", tokens, err)
	}
	slices.SortFunc(counts, func(a, b count) int { return cmp.Compare(a.Seq, b.Seq) })
	below, next := int64(0), 0
	for i := range rows {
		for counts[next].Seq < mailbox.Number(rows[i].Message.Seq) {
			below += counts[next].Devices
			next++
		}
		rows[i].Devices = int(below)
	}
	return nil
}
