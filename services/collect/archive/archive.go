// Package archive is the mailbox of every address: the unique truth about which message has which sequence. It is a
// small seam with two implementations, archive/mongodb for fabrics of several machines and archive/sqlite for a
// laptop and for several processes on one machine; archive/archivetest is the suite that both must pass.
//
// All methods may be called concurrently, by several processes at once. An error leaves what was stored stored: the
// caller runs the call again, which finds it.
package archive

import (
	"context"
	"errors"
	"time"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// ErrPartitions is the error of opening an archive that was created with another number of partitions.
var ErrPartitions = errors.New("archive: created with another number of partitions")

// ErrAddress is the error of an address that names no archive; trying again is of no use.
var ErrAddress = errors.New("archive: the address must be mongodb://host/database or sqlite:path")

// ErrAway is in the chain of an error that is the archive's own, whatever was asked of it: it is locked, or its disk is
// full. No message is to blame for one.
var ErrAway = errors.New("archive: away")

// Facts are chosen when the archive is created and never change: another epoch is another archive.
type Facts struct {
	Epoch      string // new when the archive is created, or restored from a backup
	Partitions int
}

// Heads is the owner's memory of heads, a hint that saves the archive a look-up: Append reads it and keeps it
// current. A head that is missing or too low costs time and never order: the unique keys are the truth. None is ever
// too high, because only Append, which knows, raises one. It belongs to one goroutine and one term of ownership.
type Heads map[subject.Address]uint64

// Fate is what became of a message in Append.
type Fate int

// The fates.
const (
	Stored    Fate = iota + 1 // it is new and has its sequence now
	Duplicate                 // the id is there with the same body
	Conflict                  // the id is there with another body
)

// Outcome is Append's answer for one message.
type Outcome struct {
	Fate Fate
	// Message is the archived message: the one given, now with Seq and Archived (Stored), or the one that was there
	// (Duplicate, Conflict). A duplicate whose payload is gone (expired and purged) has an empty Payload.
	Message *message.Message
}

// Mailboxes are the messages.
type Mailboxes interface {
	// Append gives each message the next sequence of its address and stores it, durably (majority and journaled, or
	// synced to disk), in the order given. Per address a prefix of the batch is stored and never a later message
	// without the earlier one, whatever fails, and with any number of appenders at once; sequences are dense. All
	// messages belong to the partition and have an ID. On an error the outcomes are worthless; append again.
	Append(ctx context.Context, partition int, batch []*message.Message, heads Heads) ([]Outcome, error)

	// Read returns the entries after < sequence <= upTo (0: to the head) of a mailbox as of now, without silent jumps:
	// what expired, was purged or deleted is a gap with its reason, neighbours with one reason joined. It stops
	// before the payloads exceed maxBytes, or after some thousand rows, but never before one entry. A mailbox that
	// nobody wrote to has head 0.
	Read(ctx context.Context, to subject.Address, after, upTo uint64, maxBytes int, now time.Time) (*history.Page, error)

	// Heads returns the highest sequence of each address; 0 for an address that nobody wrote to.
	Heads(ctx context.Context, addresses []subject.Address) (map[subject.Address]uint64, error)

	// Since returns messages of a partition archived at or after the given time (ms since 1970) that have not expired,
	// in an order that keeps each address's own, in chunks of at most 500, until fn returns an error or all were given.
	Since(ctx context.Context, partition int, archived int64, fn func([]*message.Message) error) error
}

// Cursors are the devices' places.
type Cursors interface {
	// Open returns the position of a device in each address. Where it has no cursor it gets one, stored before Open
	// returns: in a mailbox of kind user the highest cursor of that user's devices or the request's floor, whichever
	// is higher; in another mailbox the head.
	Open(ctx context.Context, request history.OpenRequest) (*history.OpenAnswer, error)

	// Advance raises cursors and never lowers one; calls commute, so any number may run at once and twice. In users'
	// mailboxes it also notes when, and at which node, each device came so far.
	Advance(ctx context.Context, cursors []history.Cursor) error
}

// Policy says how long messages are kept.
type Policy struct {
	Retention time.Duration // a message older than this is deleted; 30 days by default
	MinAge    time.Duration // nothing is touched sooner than this after it was archived; 24 h by default
}

// Archive is the whole seam.
type Archive interface {
	Mailboxes
	Cursors
	Ledger
	Inquiry
	Records
	Presence

	// Facts are the archive's epoch and partitions.
	Facts() Facts

	// Purge applies the policy to a partition and says how many messages it emptied or deleted. What expired loses its
	// payload and keeps its place with the reason; what is older than the retention is deleted, except the last
	// message of an address, which keeps its sequence, id and hash, so that the head never goes back.
	Purge(ctx context.Context, partition int, policy Policy, now time.Time) (int, error)

	// Ping says whether the archive takes writes now, by a small write of its own. A message that it refuses between
	// two pings that succeed is refused for what it is.
	Ping(ctx context.Context) error

	// Close ends the archive's connections and goroutines.
	Close() error
}
