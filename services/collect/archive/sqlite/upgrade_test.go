package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// before is the schema of the version before the ledger, as it was, with what a fabric had stored: alice has two
// devices, bob none, and mallory has a cursor in alice's mailbox.
const before = `
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
	PRIMARY KEY (tenant, user, address, device)) WITHOUT ROWID;
INSERT INTO facts VALUES (1, 'EPOCH-OF-THE-VERSION-BEFORE', 2);
INSERT INTO mailboxes VALUES (1, 'default.user.alice', 4), (2, 'default.user.bob', 1), (3, 'default.topic.news', 2);
INSERT INTO messages SELECT value, 1, value, 'a' || value, 0, 1000 + value, 1, 0, 0, '', 'text/plain', '', x'00', '', 'payload' FROM json_each('[1,2,3,4]');
INSERT INTO messages VALUES (5, 2, 1, 'b1', 1, 1005, 1, 0, 0, '', 'text/plain', '', x'00', '', 'payload');
INSERT INTO messages SELECT 5 + value, 3, value, 'n' || value, 0, 1000 + value, 1, 0, 0, '', 'text/plain', '', x'00', '', 'payload' FROM json_each('[1,2]');
INSERT INTO cursors VALUES
	('default', 'alice', 'default.user.alice', 'phone', 3, 50), ('default', 'alice', 'default.user.alice', 'tablet', 1, 50),
	('default', 'alice', 'default.topic.news', 'phone', 1, 50), ('default', 'mallory', 'default.user.alice', 'phone', 4, 50);`

// older makes a file of the version before. Many more cursors than one chunk of the upgrade are stored with it.
func older(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weft.db")
	db, err := sql.Open("sqlite", source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	const many = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
		INSERT INTO mailboxes SELECT 100 + i, 'default.user.many-' || i, 1 FROM n;
		INSERT INTO messages SELECT key, key, 1, 'm', 0, 1, 1, 0, 0, '', 'text/plain', '', x'00', '', 'payload' FROM mailboxes WHERE key > 100;
		INSERT INTO cursors SELECT 'default', substr(address, 14), address, 'phone', 1, 50 FROM mailboxes WHERE key > 100`
	for _, statements := range []string{before, many} {
		if _, err := db.ExecContext(t.Context(), statements); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// openAll has several processes open a file at once.
func openAll(t *testing.T, path string, facts archive.Facts) []*Archive {
	t.Helper()
	all := make([]*Archive, 4)
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() {
			var err error
			if all[i], err = Open(t.Context(), path, facts); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, a := range all {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return all
}

func TestUpgrade(t *testing.T) {
	all := openAll(t, older(t), archive.Facts{Partitions: 2})
	alice := subject.UserAddress("default", "alice")
	for _, a := range all {
		if a.Facts().Epoch != "EPOCH-OF-THE-VERSION-BEFORE" {
			t.Errorf("the epoch became %s", a.Facts().Epoch)
		}
		rows, err := a.Pending(t.Context(), admin.Filter{}, admin.Place{}, 2000, 100)
		if err != nil || len(rows) != 2 || rows[0].Message.ID != "a4" || rows[1].Message.ID != "b1" {
			t.Errorf("pending are %v, %v; want a4 of alice and b1 of bob", rows, err)
		}
	}
	a := all[0]
	devices, err := a.Devices(t.Context(), "default", "alice")
	want := []archive.Device{
		{Device: "phone", To: subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}, Cursor: 1, Start: 1, At: 50},
		{Device: "phone", To: alice, Cursor: 3, Start: 3, At: 50},
		{Device: "tablet", To: alice, Cursor: 1, Start: 1, At: 50},
	}
	if err != nil || !reflect.DeepEqual(devices, want) {
		t.Errorf("the devices are %+v, %v; want %+v", devices, err, want)
	}
	fresh := &message.Message{To: alice, ID: "a5", Receipt: true, Payload: []byte("x")}
	if _, err := a.Append(t.Context(), 0, []*message.Message{fresh}, nil); err != nil || fresh.Seq != 5 {
		t.Errorf("the next message is %d, %v; want 5", fresh.Seq, err)
	}
	c := history.Cursor{Tenant: "default", User: "alice", Device: "tablet", Address: alice.Tokens(), Seq: 5, At: 60, Node: "n"}
	states, err := a.Asked(t.Context(), []history.Cursor{c})
	if err != nil || len(states) != 1 || states[0].Message.Seq != 5 {
		t.Errorf("the tablet's first acknowledgement is owed receipts of %v, %v; want a5 only", states, err)
	}
	if err := a.Advance(t.Context(), []history.Cursor{c}); err != nil {
		t.Error(err)
	}
	for seq, want := range map[uint64]int{1: 0, 2: 1, 4: 1, 5: 1} { // the tablet began at 1; when it acknowledged that is not known
		if steps, err := a.Steps(t.Context(), alice, seq); err != nil || len(steps.Acked) != want {
			t.Errorf("acknowledgements of %d: %+v, %v; want %d", seq, steps.Acked, err, want)
		}
	}
}

// structure is everything in a file's schema, by name.
func structure(t *testing.T, a *Archive) map[string]string {
	t.Helper()
	rows, err := a.db.QueryContext(t.Context(), "SELECT name, coalesce(sql, '') FROM sqlite_master")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			t.Fatal(err)
		}
		all[name] = strings.Join(strings.Fields(text), " ")
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

// A file that was upgraded is what a new one is.
func TestUpgradeMakesWhatIsNew(t *testing.T) {
	made := openAll(t, filepath.Join(t.TempDir(), "weft.db"), archive.Facts{Partitions: 2})[0]
	upgraded := openAll(t, older(t), archive.Facts{Partitions: 2})[0]
	if got, want := structure(t, upgraded), structure(t, made); !reflect.DeepEqual(got, want) {
		t.Errorf("an upgraded file has\n%v\na new one\n%v", got, want)
	}
}

// An upgrade that is ended in its middle leaves the file as it was.
func TestUpgradeIsAllOrNothing(t *testing.T) {
	path := older(t)
	w, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := errors.New("ended")
	if err := w.end(context.WithoutCancel(t.Context()), errors.Join(w.upgrade(t.Context()), ended)); !errors.Is(err, ended) {
		t.Fatal(err)
	}
	var version int
	if err := w.conn.QueryRowContext(t.Context(), selectVersion).Scan(&version); err != nil || version != 0 {
		t.Errorf("the file is of version %d, %v; want 0", version, err)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
	openAll(t, path, archive.Facts{Partitions: 2})
}

func TestNewerIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.db")
	w, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.conn.ExecContext(t.Context(), fmt.Sprint("PRAGMA user_version = ", version+1)); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
	started := time.Now()
	if _, err := Open(t.Context(), path, archive.Facts{Partitions: 1}); !errors.Is(err, ErrNewer) {
		t.Errorf("a file of a newer version was opened: %v", err)
	}
	if waited := time.Since(started); waited > openTimeout/2 {
		t.Errorf("it was refused after %v", waited)
	}
}

// Who finds a file of before locked may have to wait for an upgrade, which takes longer than any other transaction.
func TestLockedWhileUpgraded(t *testing.T) {
	made := filepath.Join(t.TempDir(), "weft.db")
	openAll(t, made, archive.Facts{Partitions: 2})
	for path, want := range map[string]bool{older(t): true, made: false} {
		upgrading, err := newWriter(t.Context(), path, source(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if err := upgrading.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err = Open(ctx, path, archive.Facts{Partitions: 2})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errUpgrade) != want {
			t.Errorf("a locked file opened: %v; to be upgraded: %v", err, want)
		}
		if err := errors.Join(upgrading.end(context.WithoutCancel(t.Context()), nil), upgrading.close()); err != nil {
			t.Error(err)
		}
	}
}
