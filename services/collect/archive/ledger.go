package archive

import (
	"context"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// A device is known from when Open or Advance first stored a place for it; the first device of a user from the beginning.
// What its place was then, it was there before the device, and is not owed to it.

// Ledger is what became of messages. It is written after the fact, in bulk: nothing of the way of a message waits for it.
type Ledger interface {
	// Asked returns what cursors acknowledge for the first time, of the messages that asked for receipts: above the
	// device's stored cursor and up to Seq, archived when the device was known, and not closed. Call it before Advance,
	// which makes them old. The acknowledgement of a message that had expired at Cursor.At settles it as expired.
	Asked(ctx context.Context, cursors []history.Cursor) ([]Settled, error)

	// Settle stores terminal states. The first for a message and a device wins, whoever else settles it at the same
	// time; those that hold are returned, in the order given.
	Settle(ctx context.Context, states []Settled) ([]Settled, error)

	// Lapsed returns up to limit messages of a partition that asked for receipts, are not closed, and whose time is over:
	// they expired at or before expired, or were archived before deleted (ms since 1970). States has the terminal state of
	// each device that was known when it was archived and has not acknowledged it; where no device is known by now, one
	// state without a device.
	Lapsed(ctx context.Context, partition int, expired, deleted int64, limit int) ([]Lapsed, error)

	// CloseAsked notes that all states of lapsed messages are settled and published. Doing it twice changes nothing.
	CloseAsked(ctx context.Context, lapsed []Lapsed) error

	// Route notes when messages were first routed, and to which nodes. Reports of the past, and twice, change nothing.
	Route(ctx context.Context, reports []ledger.Routed) error
}

// Settled is a terminal state of one message at one device.
type Settled struct {
	Message *message.Message // without payload
	Device  string           // empty: the message's own
	State   message.State
	At      int64 // ms since 1970
}

// Lapsed is a message whose receipts have to be closed.
type Lapsed struct {
	Message *message.Message // without payload
	States  []Settled
}

// Inquiry is what operators ask. Messages come without their payloads.
type Inquiry interface {
	// Pending returns messages above the cursor of every device of their user (of the filter's Device: above its own; of a
	// topic: above the lowest cursor) that have not expired, in the order of address tokens and sequence, behind a place,
	// at most limit. Without devices all of a user's mailbox is pending, and nothing of a topic's, or of a Device that has
	// no place. The filter's Reason is not looked at; nor is User with Topic, or Device without User.
	Pending(ctx context.Context, filter admin.Filter, after admin.Place, now int64, limit int) ([]Row, error)

	// Standing returns the heads of addresses and the cursors that Pending goes by; device as in the filter.
	Standing(ctx context.Context, addresses []subject.Address, device string) (map[subject.Address]Standing, error)

	// Devices returns every place of every device of a user.
	Devices(ctx context.Context, tenant, user string) ([]Device, error)

	// Find returns the messages of a tenant with an id, at most limit, and those whose id begins with it and `~`.
	Find(ctx context.Context, tenant, id string, limit int) (found, copies []Row, err error)

	// Steps returns what the ledger knows of one message: when it was first routed, the first acknowledgement of each
	// device that covers it, and its receipts.
	Steps(ctx context.Context, to subject.Address, seq uint64) (Steps, error)

	// Rows returns up to limit rows of a mailbox with from <= sequence, in order. Positions that are not there are left
	// out.
	Rows(ctx context.Context, to subject.Address, from uint64, limit int) ([]Row, error)

	// Scan returns rows of a partition archived at or after since and before until, in the order of archiving, which keeps
	// each address's own, behind a mark (empty: from the first), at most limit, and the mark to go on with; empty when
	// there is no more.
	Scan(ctx context.Context, partition int, since, until int64, mark string, limit int) (rows []Row, next string, err error)

	// SettledOf returns the terminal states of the messages of a mailbox with from <= sequence <= upTo.
	SettledOf(ctx context.Context, to subject.Address, from, upTo uint64) ([]Settled, error)

	// Health says how the archive is and what could be better; Problem is left empty (Ping tells).
	Health(ctx context.Context) (admin.Health, error)
}

// Row is a message as it is stored, without its payload.
type Row struct {
	Message *message.Message
	Why     message.Why // why the payload is gone
	Size    int         // bytes of the payload
	Devices int         // Pending, of topics and all: how many devices have not acknowledged it
}

// Standing is how far a mailbox is and how far it was handled.
type Standing struct {
	Head    uint64
	Handled uint64 // the highest cursor of the user's devices; of topics and all the lowest cursor. There, and of one device, the head if there is none
	Devices int    // that have a place
}

// Device is one place of a device.
type Device struct {
	Device string
	To     subject.Address
	Cursor uint64
	Start  uint64 // where it began
	Known  int64  // since when, ms since 1970; 0: from the beginning
	At     int64  // when the cursor last rose
}

// Steps is what the ledger knows of one message.
type Steps struct {
	Routed *ledger.Routed // nil: not reported
	Acked  []Acked
	States []Settled
}

// Acked is the first acknowledgement of a device that covers a message.
type Acked struct {
	Device, Node string
	At           int64
}

// Records are the changes that operators made. They are never purged.
type Records interface {
	// Record stores a record, or replaces the one with its ID.
	Record(ctx context.Context, r admin.Record) error
	// Records returns some, the newest first.
	Records(ctx context.Context, q admin.RecordsRequest) ([]admin.Record, error)
}
