package sqlite

import (
	"database/sql"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// versionOne is what version 1 made of a file of before, as it was, with what it had stored: alice's phone acknowledged 2,
// then 3, and 2 and 3 were routed at once; her first message is deleted, and the last one asks for receipts.
const versionOne = `
ALTER TABLE mailboxes ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN receipt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursors ADD COLUMN start INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursors ADD COLUMN known INTEGER NOT NULL DEFAULT 0;
CREATE INDEX identified ON messages (id);
CREATE UNIQUE INDEX behind ON mailboxes (address) WHERE head > handled AND instr(address, '.user.') > 0;
CREATE INDEX asked ON messages (mailbox, seq) WHERE receipt = 1 AND closed = 0;
CREATE INDEX lapsing ON messages (partition, expires) WHERE receipt = 1 AND closed = 0 AND expires > 0;
CREATE INDEX aging ON messages (partition, archived) WHERE receipt = 1 AND closed = 0;
CREATE INDEX subscribed ON cursors (address, seq) WHERE instr(address, '.user.') = 0;
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
CREATE INDEX recorded ON records (at);
DELETE FROM messages WHERE key = 1;
UPDATE messages SET receipt = 1 WHERE key = 4;
UPDATE mailboxes SET handled = 3 WHERE key = 1;
INSERT INTO steps VALUES (1, 2, 'phone', 'n1', 20), (1, 3, 'phone', 'n2', 30), (1, 1, 'tablet', 'n1', 10);
INSERT INTO routed VALUES (1, 3, 2, 11, '["n1"]'), (2, 1, 1, 12, '[]');
INSERT INTO receipts VALUES (1, 2, 'phone', 'delivered', 20);
INSERT INTO records VALUES ('r', 1, 'who', 'note', 'replay', x'', 1, 'detail');
PRAGMA user_version = 1;`

// olderOne makes a file of version 1.
func olderOne(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weft.db")
	db, err := sql.Open("sqlite", source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	for _, statements := range []string{before, versionOne} {
		if _, err := db.ExecContext(t.Context(), statements); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// Nothing that the ledger of version 1 knew is lost, or said twice.
func TestUpgradeOfVersionOne(t *testing.T) {
	made := openAll(t, filepath.Join(t.TempDir(), "weft.db"), archive.Facts{Partitions: 2})[0]
	a := openAll(t, olderOne(t), archive.Facts{Partitions: 2})[0]
	if got, want := structure(t, a), structure(t, made); !reflect.DeepEqual(got, want) {
		t.Errorf("an upgraded file has\n%v\na new one\n%v", got, want)
	}
	alice := subject.UserAddress("default", "alice")
	upTo, again := mustSteps(t, a, alice), ledger.Routed{Address: alice.Tokens(), From: 1, To: 4, At: 50, Nodes: []string{"n9"}}
	routed := &ledger.Routed{Address: alice.Tokens(), From: 2, To: 3, At: 11, Nodes: []string{"n1"}}
	for seq, want := range map[uint64]archive.Steps{
		2: {Routed: routed, Acked: []archive.Acked{{Device: "phone", Node: "n1", At: 20}}},
		3: {Routed: routed, Acked: []archive.Acked{{Device: "phone", Node: "n2", At: 30}}},
		4: {},
	} {
		got := upTo(seq)
		if (len(got.States) == 1) != (seq == 2) {
			t.Errorf("the receipts of %d are %+v", seq, got.States)
		}
		if got.States = nil; !reflect.DeepEqual(got, want) {
			t.Errorf("the steps of %d are %+v; want %+v", seq, got, want)
		}
	}
	if err := a.Route(t.Context(), []ledger.Routed{again}); err != nil {
		t.Error(err)
	}
	if was, now := upTo(3).Routed.At, upTo(4).Routed; was != 11 || now == nil || now.At != 50 {
		t.Errorf("a later report changed what was known to %d, and added %+v", was, now)
	}
	phone := history.Cursor{Tenant: "default", User: "alice", Device: "phone", Address: alice.Tokens(), Seq: 4, At: 60, Node: "n3"}
	if states, err := a.Asked(t.Context(), []history.Cursor{phone}); err != nil || len(states) != 1 || states[0].Message.ID != "a4" {
		t.Errorf("receipts are owed of %v, %v; want a4", states, err)
	}
	if rows, err := a.Pending(t.Context(), admin.Filter{User: "alice"}, admin.Place{}, 2000, 10); err != nil || len(rows) != 1 || rows[0].Message.ID != "a4" {
		t.Errorf("pending are %v, %v; want a4", rows, err)
	}
	known := &message.Message{To: alice, ID: "a3", Payload: []byte("payload")}
	if outcomes, err := a.Append(t.Context(), 0, []*message.Message{known}, nil); err != nil || outcomes[0].Fate != archive.Conflict || string(outcomes[0].Message.Payload) != "payload" {
		t.Errorf("an id of before: %+v, %v; want a conflict", outcomes, err)
	}
	if records, err := a.Records(t.Context(), admin.RecordsRequest{}); err != nil || len(records) != 1 {
		t.Errorf("the records are %v, %v", records, err)
	}
	if n, err := a.Purge(t.Context(), 0, archive.Policy{Retention: time.Hour}, time.Now()); err != nil || n == 0 {
		t.Errorf("purged %d, %v", n, err)
	}
	if got := upTo(3); got.Routed != nil {
		t.Errorf("after the purge the routing of 3 is %+v", got.Routed)
	}
	const ofNothing = `SELECT (SELECT count(*) FROM steps WHERE message NOT IN (SELECT key FROM messages)) +
		(SELECT count(*) FROM routed WHERE message NOT IN (SELECT key FROM messages))`
	var left int
	if err := a.db.QueryRowContext(t.Context(), ofNothing).Scan(&left); err != nil || left != 0 {
		t.Errorf("the purge left %d rows of the ledger of what it deleted, %v", left, err)
	}
}

// No two messages have one place, whoever writes into the file.
func TestPlacesAreUnique(t *testing.T) {
	path := olderOne(t)
	openAll(t, path, archive.Facts{Partitions: 2})
	w, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	const again = `INSERT INTO messages (mailbox, seq, id, partition, archived, at, expires, again, receipt, type, content_type, trace, why, hash, payload)
		SELECT mailbox, seq, 'another', partition, archived, at, expires, again, receipt, type, content_type, trace, why, hash, payload FROM messages WHERE key = 4`
	if _, err := w.conn.ExecContext(t.Context(), again); err == nil {
		t.Error("a place was taken twice")
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

func mustSteps(t *testing.T, a *Archive, to subject.Address) func(uint64) archive.Steps {
	t.Helper()
	return func(seq uint64) archive.Steps {
		steps, err := a.Steps(t.Context(), to, seq)
		if err != nil {
			t.Fatal(err)
		}
		return steps
	}
}

// An upgrade writes all of the file into the log beside it, which must not keep that size.
func TestLogShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.db")
	w, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	var limit int
	if err := w.conn.QueryRowContext(t.Context(), "PRAGMA journal_size_limit").Scan(&limit); err != nil || limit != walKept || limit >= longWAL {
		t.Errorf("%d bytes of the log are kept, %v; want %d, below those that are warned of: %d", limit, err, walKept, longWAL)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
}
