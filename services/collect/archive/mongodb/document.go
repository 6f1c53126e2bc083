package mongodb

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// document is a message as it is stored. Times are ms since 1970.
type document struct {
	Key         string      `bson:"_id"`
	Address     string      `bson:"address"` // its tokens
	Seq         int64       `bson:"seq"`
	ID          string      `bson:"id"`
	Partition   int64       `bson:"partition"`
	Archived    int64       `bson:"archived"`
	At          int64       `bson:"at"`
	Expires     int64       `bson:"expires"`
	Again       bool        `bson:"again,omitempty"`
	Receipt     bool        `bson:"receipt,omitempty"`
	Asked       bool        `bson:"asked,omitempty"` // its publisher asked for receipts, and they are not closed
	Type        string      `bson:"type,omitempty"`
	ContentType string      `bson:"content_type,omitempty"`
	Trace       string      `bson:"trace,omitempty"`
	Hash        []byte      `bson:"hash"`
	Why         message.Why `bson:"why"`  // why the payload is gone
	Size        int64       `bson:"size"` // bytes of the payload; 0 in what was stored before there was a ledger
	Payload     []byte      `bson:"payload"`
}

// key is the _id of a position. All sequences have the same length, so keys sort as their numbers do.
func key(tokens string, seq int64) string { return fmt.Sprintf("%s/%020d", tokens, seq) }

// keys is the condition on _id that holds for a mailbox's positions above one and up to another.
func keys(tokens string, after, upTo int64) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: key(tokens, after)}, {Key: "$lte", Value: key(tokens, upTo)}}}}
}

func newDocument(m *message.Message, partition int, archived, seq int64) *document {
	hash := m.Hash()
	tokens := m.To.Tokens()
	return &document{
		Key: key(tokens, seq), Address: tokens, Seq: seq, ID: m.ID, Partition: int64(partition), Archived: archived,
		At: m.At, Expires: m.Expires, Again: m.Again, Type: m.Type, ContentType: m.ContentType, Trace: m.Trace,
		Receipt: m.Receipt, Asked: m.Receipt, Hash: hash[:], Size: int64(len(m.Payload)), Payload: m.Payload,
	}
}

func (d *document) row() (mailbox.Row, error) {
	to, err := subject.ParseTokens(d.Address)
	if err != nil {
		return mailbox.Row{}, fmt.Errorf("document %q: %w", d.Key, err)
	}
	r := mailbox.Row{Why: d.Why, Message: &message.Message{
		To: to, Seq: mailbox.Sequence(d.Seq), ID: d.ID, Type: d.Type, ContentType: d.ContentType, Trace: d.Trace,
		At: d.At, Expires: d.Expires, Archived: d.Archived, Again: d.Again, Receipt: d.Receipt, Payload: d.Payload,
	}}
	copy(r.Hash[:sha256.Size], d.Hash)
	return r, nil
}

// inquiryRow is the row of a document that was read without its payload.
func (d *document) inquiryRow() (archive.Row, error) {
	r, err := d.row()
	if err != nil {
		return archive.Row{}, err
	}
	row := archive.Row{Message: r.Message, Why: r.Why}
	if r.Why == "" {
		row.Size = int(d.Size)
	}
	return row, nil
}

// clock gives the time of archiving. It is never below a time that this process has given or seen in the archive: an
// owner sees an address's head before it writes above it, so the times of an address never decrease, whatever the
// clocks of two machines say, and Since can go by them.
type clock struct{ last atomic.Int64 }

func (c *clock) now() int64 { return c.seen(time.Now().UnixMilli()) }

func (c *clock) seen(t int64) int64 {
	for {
		last := c.last.Load()
		if last >= t {
			return last
		}
		if c.last.CompareAndSwap(last, t) {
			return t
		}
	}
}
