package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// settleChunk is the most messages or states of one request.
const settleChunk = 500

// receipt is a terminal state as it is stored.
type receipt struct {
	Key    string        `bson:"_id"`
	ID     string        `bson:"id"` // of the message
	Seq    int64         `bson:"seq"`
	Device string        `bson:"device"`
	State  message.State `bson:"state"`
	At     int64         `bson:"at"`
}

func receiptKey(tokens string, seq int64, device string) string {
	encoded := ""
	if device != "" {
		encoded = subject.Encode(device)
	}
	return key(tokens, seq) + "/" + encoded
}

// span is what one acknowledgement covers for the first time: after < sequence <= upTo.
type span struct {
	place       *standing
	after, upTo int64
	at          int64
}

// Asked asks first whether these mailboxes have any message whose receipts are open, of an index that holds nothing else:
// mostly they have none. Then it reads the places of the devices, and the messages above them.
func (a *Archive) Asked(ctx context.Context, cursors []history.Cursor) ([]archive.Settled, error) {
	var own []history.Cursor
	for _, c := range cursors {
		if _, ok := ownMailbox(c); ok {
			own = append(own, c)
		}
	}
	open, err := a.anyAsked(ctx, own)
	if err != nil {
		return nil, fmt.Errorf("mongodb: asked: %w", err)
	}
	if !open {
		return nil, nil
	}
	places, err := a.places(ctx, own)
	if err != nil {
		return nil, fmt.Errorf("mongodb: asked: %w", err)
	}
	var settled []archive.Settled
	for chunk := range slices.Chunk(spans(own, places), settleChunk) {
		some, err := a.askedIn(ctx, chunk)
		if err != nil {
			return nil, fmt.Errorf("mongodb: asked: %w", err)
		}
		settled = append(settled, some...)
	}
	return settled, nil
}

// anyAsked says whether a mailbox of cursors has a message whose receipts are open.
func (a *Archive) anyAsked(ctx context.Context, cursors []history.Cursor) (bool, error) {
	if len(cursors) == 0 {
		return false, ctx.Err()
	}
	addresses := make([]string, len(cursors))
	for i, c := range cursors {
		addresses[i] = c.Address
	}
	err := a.messages.FindOne(ctx, bson.D{{Key: "address", Value: bson.D{{Key: "$in", Value: addresses}}}, {Key: "asked", Value: true}},
		options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return false, nil
	}
	return err == nil, err
}

// spans are what cursors cover above the stored places, in their order; a device's spans don't overlap. A device without a
// place was not known when anything was archived.
func spans(cursors []history.Cursor, places map[string]*standing) []span {
	var spans []span
	now, reached := time.Now().UnixMilli(), map[string]int64{}
	for _, c := range cursors {
		key := cursorKey(c)
		place, ok := places[key]
		if !ok {
			continue
		}
		after, upTo := max(reached[key], place.Seq, place.Past), mailbox.Number(c.Seq)
		if upTo <= after {
			continue
		}
		reached[key] = upTo
		spans = append(spans, span{place: place, after: after, upTo: upTo, at: heardAt(c, now)})
	}
	return spans
}

func (a *Archive) askedIn(ctx context.Context, spans []span) ([]archive.Settled, error) {
	if len(spans) == 0 {
		return nil, nil
	}
	either := make(bson.A, len(spans))
	for i, s := range spans {
		either[i] = bson.D{
			{Key: "address", Value: s.place.Address},
			{Key: "asked", Value: true},
			{Key: "seq", Value: bson.D{{Key: "$gt", Value: s.after}, {Key: "$lte", Value: s.upTo}}},
		}
	}
	found, err := a.rows(ctx, bson.D{{Key: "$or", Value: either}}, nil, 0)
	if err != nil {
		return nil, err
	}
	of := map[string][]archive.Row{}
	for _, r := range found {
		tokens := r.Message.To.Tokens()
		of[tokens] = append(of[tokens], r)
	}
	var settled []archive.Settled
	for _, s := range spans {
		covered := slices.DeleteFunc(slices.Clone(of[s.place.Address]), func(r archive.Row) bool {
			seq := mailbox.Number(r.Message.Seq)
			return seq <= s.after || seq > s.upTo
		})
		slices.SortFunc(covered, func(a, b archive.Row) int { return cmp.Compare(a.Message.Seq, b.Message.Seq) })
		for _, r := range covered {
			settled = append(settled, acknowledged(r.Message, s.place.Device, s.at))
		}
	}
	return settled, nil
}

// acknowledged is the state of a message that a device acknowledged at a time.
func acknowledged(m *message.Message, device string, at int64) archive.Settled {
	if m.Expired(time.UnixMilli(at)) {
		return archive.Settled{Message: m, Device: device, State: message.StateExpired, At: m.Expires}
	}
	return archive.Settled{Message: m, Device: device, State: message.StateDelivered, At: at}
}

// Settle inserts the states. What is there already is read; the unique key decides who was first.
func (a *Archive) Settle(ctx context.Context, states []archive.Settled) ([]archive.Settled, error) {
	hold := make([]archive.Settled, 0, len(states))
	for chunk := range slices.Chunk(states, settleChunk) {
		some, err := a.settle(ctx, chunk)
		if err != nil {
			return nil, fmt.Errorf("mongodb: settle %d states: %w", len(states), err)
		}
		hold = append(hold, some...)
	}
	return hold, nil
}

func (a *Archive) settle(ctx context.Context, states []archive.Settled) ([]archive.Settled, error) {
	documents, keys := make([]*receipt, 0, len(states)), make([]string, len(states))
	hold := map[string]*receipt{}
	for i, s := range states {
		tokens, seq := s.Message.To.Tokens(), mailbox.Number(s.Message.Seq)
		r := &receipt{Key: receiptKey(tokens, seq, s.Device), ID: s.Message.ID, Seq: seq, Device: s.Device, State: s.State, At: s.At}
		keys[i] = r.Key
		if hold[r.Key] == nil {
			hold[r.Key] = r
			documents = append(documents, r)
		}
	}
	all, err := insertNew(ctx, a.receipts, documents)
	if err == nil && !all {
		hold, err = a.holding(ctx, documents)
	}
	if err != nil {
		return nil, err
	}
	states = slices.Clone(states)
	for i := range states {
		states[i].State, states[i].At = hold[keys[i]].State, hold[keys[i]].At
	}
	return states, nil
}

// holding are the states that are there of those that were to be inserted. Another's is not read before the majority has
// it; until then it is tried again to insert ours, which waits for that.
func (a *Archive) holding(ctx context.Context, documents []*receipt) (map[string]*receipt, error) {
	wanted := make(bson.A, len(documents))
	for i, r := range documents {
		wanted[i] = r.Key
	}
	for range attempts {
		cursor, err := a.receipts.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: wanted}}}})
		if err != nil {
			return nil, err
		}
		hold := map[string]*receipt{}
		err = each(ctx, cursor, func(r *receipt) (bool, error) {
			hold[r.Key] = r
			return true, nil
		})
		if err != nil {
			return nil, err
		}
		if len(hold) == len(documents) {
			return hold, nil
		}
		if _, err := insertNew(ctx, a.receipts, documents); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("what others settled was not there %d times", attempts)
}

// Lapsed asks two indexes that hold nothing but messages whose receipts are open.
func (a *Archive) Lapsed(ctx context.Context, partition int, expired, deleted int64, limit int) ([]archive.Lapsed, error) {
	open := bson.D{{Key: "partition", Value: int64(partition)}, {Key: "asked", Value: true}}
	rows, err := a.rows(ctx, append(slices.Clone(open), bson.E{Key: "expires", Value: bson.D{{Key: "$gt", Value: int64(0)}, {Key: "$lte", Value: expired}}}),
		bson.D{{Key: "expires", Value: 1}}, limit)
	if err != nil {
		return nil, fmt.Errorf("mongodb: lapsed of partition %d: %w", partition, err)
	}
	if len(rows) < limit {
		old, err := a.rows(ctx, append(slices.Clone(open), bson.E{Key: "archived", Value: bson.D{{Key: "$lt", Value: deleted}}}),
			bson.D{{Key: "archived", Value: 1}}, limit)
		if err != nil {
			return nil, fmt.Errorf("mongodb: lapsed of partition %d: %w", partition, err)
		}
		rows = join(rows, old, limit)
	}
	lapsed, err := a.owed(ctx, rows, expired)
	if err != nil {
		return nil, fmt.Errorf("mongodb: lapsed of partition %d: %w", partition, err)
	}
	return lapsed, nil
}

// join adds rows that are not there yet, up to limit.
func join(rows, more []archive.Row, limit int) []archive.Row {
	type place struct {
		to  subject.Address
		seq uint64
	}
	there := map[place]bool{}
	for _, r := range rows {
		there[place{r.Message.To, r.Message.Seq}] = true
	}
	for _, r := range more {
		if len(rows) < limit && !there[place{r.Message.To, r.Message.Seq}] {
			rows = append(rows, r)
		}
	}
	return rows
}

// owed says what each message that lapsed is for the devices that were owed it.
func (a *Archive) owed(ctx context.Context, rows []archive.Row, expired int64) ([]archive.Lapsed, error) {
	var addresses []string
	of := map[string][]*standing{}
	for _, r := range rows {
		tokens := r.Message.To.Tokens()
		if _, listed := of[tokens]; !listed {
			of[tokens] = nil
			addresses = append(addresses, tokens)
		}
	}
	if err := a.eachDevice(ctx, addresses, func(s *standing) { of[s.Address] = append(of[s.Address], s) }); err != nil {
		return nil, err
	}
	for _, devices := range of {
		slices.SortFunc(devices, func(a, b *standing) int { return strings.Compare(a.Device, b.Device) })
	}
	now := time.Now().UnixMilli()
	lapsed := make([]archive.Lapsed, len(rows))
	for i, r := range rows {
		m := r.Message
		state := archive.Settled{Message: m, State: message.StateDeleted, At: now}
		if m.Expires > 0 && m.Expires <= expired {
			state.State, state.At = message.StateExpired, m.Expires
		}
		lapsed[i].Message = m
		known := of[m.To.Tokens()]
		if len(known) == 0 {
			lapsed[i].States = []archive.Settled{state}
		}
		for _, s := range known {
			if seq := mailbox.Number(m.Seq); seq > s.Past && seq > s.Seq {
				state.Device = s.Device
				lapsed[i].States = append(lapsed[i].States, state)
			}
		}
	}
	return lapsed, nil
}

// CloseAsked takes messages out of the indexes of those whose receipts are open.
func (a *Archive) CloseAsked(ctx context.Context, lapsed []archive.Lapsed) error {
	for chunk := range slices.Chunk(lapsed, purgeChunk) {
		keys := make(bson.A, len(chunk))
		for i, l := range chunk {
			keys[i] = key(l.Message.To.Tokens(), mailbox.Number(l.Message.Seq))
		}
		_, err := a.messages.UpdateMany(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: keys}}}},
			bson.D{{Key: "$unset", Value: bson.D{{Key: "asked", Value: ""}}}})
		if err != nil {
			return fmt.Errorf("mongodb: close the receipts of %d messages: %w", len(lapsed), err)
		}
	}
	return nil
}

// SettledOf returns terminal states in the order of sequence and device.
func (a *Archive) SettledOf(ctx context.Context, to subject.Address, from, upTo uint64) ([]archive.Settled, error) {
	tokens, first, last := to.Tokens(), mailbox.Number(from), mailbox.Number(upTo)
	if from > upTo {
		return nil, nil
	}
	messages := map[uint64]*message.Message{}
	rows, err := a.rows(ctx, keys(tokens, first-1, last), nil, 0)
	if err != nil {
		return nil, fmt.Errorf("mongodb: receipts of %s: %w", to, err)
	}
	for _, r := range rows {
		messages[r.Message.Seq] = r.Message
	}
	cursor, err := a.receipts.Find(ctx, upToKey(tokens, first, last), options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, fmt.Errorf("mongodb: receipts of %s: %w", to, err)
	}
	var states []archive.Settled
	err = each(ctx, cursor, func(r *receipt) (bool, error) {
		m := messages[mailbox.Sequence(r.Seq)]
		if m == nil { // gone, behind the system's back or between the two reads
			m = &message.Message{To: to, Seq: mailbox.Sequence(r.Seq), ID: r.ID, Receipt: true}
		}
		states = append(states, archive.Settled{Message: m, Device: r.Device, State: r.State, At: r.At})
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("mongodb: receipts of %s: %w", to, err)
	}
	return states, nil
}

// upToKey is the condition on _id that holds for keys which begin with those of a mailbox's positions and go on with a
// slash: the receipts of from <= sequence <= upTo, or what was routed up to such a sequence.
func upToKey(tokens string, from, upTo int64) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: key(tokens, from) + "/"}, {Key: "$lt", Value: key(tokens, upTo) + "0"}}}}
}

// eachDevice gives fn the places of the users' own devices in some of their mailboxes.
func (a *Archive) eachDevice(ctx context.Context, tokens []string, fn func(*standing)) error {
	for chunk := range slices.Chunk(tokens, mailboxChunk) {
		cursor, err := a.cursors.Find(ctx, bson.D{{Key: "address", Value: bson.D{{Key: "$in", Value: chunk}}}})
		if err != nil {
			return fmt.Errorf("cursors: %w", err)
		}
		err = each(ctx, cursor, func(s *standing) (bool, error) {
			if s.own() {
				fn(s)
			}
			return true, nil
		})
		if err != nil {
			return fmt.Errorf("cursors: %w", err)
		}
	}
	return nil
}

// withoutPayload is the projection of what is asked about messages.
func withoutPayload() bson.D {
	return bson.D{{Key: "payload", Value: 0}, {Key: "hash", Value: 0}}
}

// rows reads messages without their payloads; sort may be nil and limit 0.
func (a *Archive) rows(ctx context.Context, filter, sort bson.D, limit int) ([]archive.Row, error) {
	how := options.Find().SetProjection(withoutPayload())
	if sort != nil {
		how.SetSort(sort)
	}
	if limit > 0 {
		how.SetLimit(int64(limit))
	}
	cursor, err := a.messages.Find(ctx, filter, how)
	if err != nil {
		return nil, fmt.Errorf("messages: %w", err)
	}
	return readRows(ctx, cursor)
}

func readRows(ctx context.Context, cursor *mongo.Cursor) (rows []archive.Row, err error) {
	err = each(ctx, cursor, func(d *document) (bool, error) {
		r, err := d.inquiryRow()
		rows = append(rows, r)
		return true, err
	})
	return rows, err
}
