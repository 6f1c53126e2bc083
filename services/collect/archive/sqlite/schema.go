package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/weftpush/weft/shared/subject"
)

// ErrNewer is the error of opening a file that a newer version of Weft has changed.
var ErrNewer = errors.New("sqlite: the archive was written by a newer version of Weft; start that version")

// errUpgrade is in the chain of an error of opening a file that has to be upgraded, or is being upgraded by another.
var errUpgrade = errors.New("sqlite: the file is of a version before")

// version is what this code makes of a file, kept in its user_version. Files of before the ledger have 0; 1 had the ledger
// by mailbox and sequence.
const version = 2

// first is how every file begins, so that what is new and what is upgraded are the same. A mailbox keeps its head
// apart from its messages, so the head outlives them; expiring is partial, because few messages have a TTL and each is
// looked for once.
const first = `
CREATE TABLE IF NOT EXISTS facts (
	only INTEGER PRIMARY KEY CHECK (only = 1), epoch TEXT NOT NULL, partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS mailboxes (
	key INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, head INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
	key INTEGER PRIMARY KEY, mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL,
	partition INTEGER NOT NULL, archived INTEGER NOT NULL, at INTEGER NOT NULL, expires INTEGER NOT NULL,
	again INTEGER NOT NULL, type TEXT NOT NULL, content_type TEXT NOT NULL, trace TEXT NOT NULL,
	hash BLOB NOT NULL, why TEXT NOT NULL, payload BLOB NOT NULL,
	UNIQUE (mailbox, seq), UNIQUE (mailbox, id));
CREATE INDEX IF NOT EXISTS archived ON messages (partition, archived);
CREATE INDEX IF NOT EXISTS expiring ON messages (partition, expires) WHERE expires > 0 AND why = '';
CREATE TABLE IF NOT EXISTS cursors (
	tenant TEXT NOT NULL, user TEXT NOT NULL, address TEXT NOT NULL, device TEXT NOT NULL,
	seq INTEGER NOT NULL, at INTEGER NOT NULL,
	PRIMARY KEY (tenant, user, address, device)) WITHOUT ROWID;`

// The ledger's columns. Where a cursor of before began is not known: it is taken to begin where it is, so that
// nothing of before is owed to its device.
const ledgerColumns = `
ALTER TABLE mailboxes ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN receipt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursors ADD COLUMN start INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursors ADD COLUMN known INTEGER NOT NULL DEFAULT 0;
UPDATE cursors SET start = seq;`

// The ledger's tables and indexes, as version 1 had them, but for the indexes of messages. Behind are the users' mailboxes
// that hold what no device has acknowledged: few of many, and all that Pending looks at; it is unique so that SQLite knows
// that a walk over it needs no sorting.
const ledgerTables = `
CREATE UNIQUE INDEX behind ON mailboxes (address) WHERE ` + isBehind + `;
CREATE INDEX subscribed ON cursors (address, seq) WHERE ` + isShared + `;
CREATE TABLE steps (
	mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL, node TEXT NOT NULL, at INTEGER NOT NULL,
	PRIMARY KEY (mailbox, seq, device)) WITHOUT ROWID;
CREATE TABLE routed (
	mailbox INTEGER NOT NULL, upto INTEGER NOT NULL, since INTEGER NOT NULL, at INTEGER NOT NULL, nodes TEXT NOT NULL,
	PRIMARY KEY (mailbox, upto)) WITHOUT ROWID;
CREATE TABLE receipts (
	mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL, state TEXT NOT NULL, at INTEGER NOT NULL,
	PRIMARY KEY (mailbox, seq, device)) WITHOUT ROWID;
CREATE TABLE records (
	id TEXT PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, note TEXT NOT NULL, action TEXT NOT NULL,
	filter BLOB NOT NULL, count INTEGER NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX recorded ON records (at);`

// What is written at one time lies together: a row in a place of its own costs a page of 4 KB, twice, in the write-ahead log
// and in the file. So messages are looked up by id first, as ids grow with time, in one index instead of two; and the
// ledger goes by the message, whose keys grow with time, not by mailbox and sequence. A row of routed belongs to the last
// message of its range, and ranges do not overlap within a mailbox; mailboxes.routed is the highest. Asked, lapsing and
// aging hold messages that asked for receipts until they are closed. The payload comes last, so that a large one need not
// be read for what stands behind it.
const byTime = `
CREATE TABLE messages2 (
	key INTEGER PRIMARY KEY, mailbox INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL,
	partition INTEGER NOT NULL, archived INTEGER NOT NULL, at INTEGER NOT NULL, expires INTEGER NOT NULL,
	again INTEGER NOT NULL, receipt INTEGER NOT NULL, closed INTEGER NOT NULL DEFAULT 0, type TEXT NOT NULL,
	content_type TEXT NOT NULL, trace TEXT NOT NULL, why TEXT NOT NULL, hash BLOB NOT NULL, payload BLOB NOT NULL);
INSERT INTO messages2 SELECT key, mailbox, seq, id, partition, archived, at, expires, again, receipt, closed, type,
	content_type, trace, why, hash, payload FROM messages ORDER BY key;
DROP TABLE messages;
ALTER TABLE messages2 RENAME TO messages;
CREATE UNIQUE INDEX placed ON messages (mailbox, seq);
CREATE UNIQUE INDEX identified ON messages (id, mailbox);
CREATE INDEX archived ON messages (partition, archived);
CREATE INDEX expiring ON messages (partition, expires) WHERE expires > 0 AND why = '';
CREATE INDEX asked ON messages (mailbox, seq) WHERE ` + isAsked + `;
CREATE INDEX lapsing ON messages (partition, expires) WHERE ` + isAsked + ` AND expires > 0;
CREATE INDEX aging ON messages (partition, archived) WHERE ` + isAsked + `;
CREATE TABLE steps2 (
	message INTEGER NOT NULL, device TEXT NOT NULL, node TEXT NOT NULL, at INTEGER NOT NULL,
	PRIMARY KEY (message, device)) WITHOUT ROWID;
INSERT INTO steps2 SELECT key, device, node, s.at FROM steps s CROSS JOIN messages m USING (mailbox, seq) ORDER BY key, device;
DROP TABLE steps;
ALTER TABLE steps2 RENAME TO steps;
CREATE TABLE routed2 (message INTEGER PRIMARY KEY, since INTEGER NOT NULL, at INTEGER NOT NULL, nodes TEXT NOT NULL);
INSERT INTO routed2 SELECT key, since, r.at, nodes FROM routed r CROSS JOIN messages m ON m.mailbox = r.mailbox AND m.seq = upto ORDER BY key;
ALTER TABLE mailboxes ADD COLUMN routed INTEGER NOT NULL DEFAULT 0;
UPDATE mailboxes SET routed = coalesce((SELECT max(upto) FROM routed r WHERE r.mailbox = mailboxes.key), 0);
DROP TABLE routed;
ALTER TABLE routed2 RENAME TO routed;`

// What a query must say, word by word, to use the partial indexes. No id in an address's tokens has a dot.
const (
	isBehind = `head > handled AND instr(address, '.user.') > 0`
	isShared = `instr(address, '.user.') = 0`
	isAsked  = `receipt = 1 AND closed = 0`
)

const (
	selectVersion = `PRAGMA user_version`
	setVersion    = `PRAGMA user_version = 2` // version
	selectCursors = `SELECT tenant, user, address, max(seq) FROM cursors
		WHERE (tenant, user, address) > (?, ?, ?) GROUP BY tenant, user, address ORDER BY tenant, user, address LIMIT ?`
	raiseHandled = `UPDATE mailboxes SET handled = ? WHERE address = ? AND handled < ?`

	upgradeChunk = 1000 // places read at once
)

// upgrade makes the file what this version wants, inside the transaction in which the file is opened: all of it or
// nothing, and whoever else opens the file waits. It takes some 10 s for each million messages, and for as
// long three times the room of the file on its disk.
func (w *writer) upgrade(ctx context.Context) error {
	var have int
	if err := w.conn.QueryRowContext(ctx, selectVersion).Scan(&have); err != nil {
		return fmt.Errorf("sqlite: read the file's version: %w", err)
	}
	if have > version {
		return fmt.Errorf("%w (it is of version %d, this one knows %d)", ErrNewer, have, version)
	}
	if have == version {
		return nil
	}
	steps := []func(context.Context) error{w.execute(byTime), w.execute(setVersion)}
	if have == 0 {
		steps = append([]func(context.Context) error{w.execute(first), w.execute(ledgerColumns), w.fillHandled, w.execute(ledgerTables)}, steps...)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return fmt.Errorf("sqlite: upgrade the file to version %d: %w", version, err)
		}
	}
	return nil
}

func (w *writer) execute(statements string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := w.conn.ExecContext(ctx, statements)
		return err
	}
}

// handled is the highest place that a user's devices have in a mailbox.
type handled struct {
	tenant, user, address string
	seq                   int64
}

// own says whether the mailbox is the user's.
func own(tenant, user, address string) bool {
	return address == subject.UserAddress(tenant, user).Tokens()
}

// fillHandled tells the mailboxes of before how far they were handled.
func (w *writer) fillHandled(ctx context.Context) error {
	var last handled
	for {
		chunk, err := w.handledAfter(ctx, last)
		if err != nil || len(chunk) == 0 {
			return err
		}
		for _, last = range chunk {
			if !own(last.tenant, last.user, last.address) {
				continue
			}
			if _, err := w.conn.ExecContext(ctx, raiseHandled, last.seq, last.address, last.seq); err != nil {
				return err
			}
		}
	}
}

func (w *writer) handledAfter(ctx context.Context, last handled) (chunk []handled, err error) {
	rows, err := w.conn.QueryContext(ctx, selectCursors, last.tenant, last.user, last.address, upgradeChunk)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var h handled
		if err := rows.Scan(&h.tenant, &h.user, &h.address, &h.seq); err != nil {
			return nil, err
		}
		chunk = append(chunk, h)
	}
	return chunk, rows.Err()
}
