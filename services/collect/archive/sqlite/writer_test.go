package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

func source(t *testing.T, path string) string {
	t.Helper()
	s, err := dataSource(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// locked is an archive whose file is locked by a writer of another process until unlock is called.
func locked(t *testing.T) (a *Archive, unlock func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weft.db")
	a, err := Open(t.Context(), path, archive.Facts{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	other, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.close(); err != nil {
			t.Error(err)
		}
	})
	if err := other.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a, func() {
		if err := other.end(context.WithoutCancel(t.Context()), nil); err != nil {
			t.Error(err)
		}
	}
}

// A ping asks what a message would: whether the file can be written.
func TestPingOfALockedFile(t *testing.T) {
	a, unlock := locked(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := a.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a ping of a locked file: %v", err)
	}
	unlock()
	if err := a.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func store(name string) func(context.Context, prepared) error {
	return func(ctx context.Context, tx prepared) error {
		n, err := put(ctx, tx, history.Cursor{Tenant: "tenant", User: name, Address: "address", Device: "device", Seq: 1, At: 1}, 1)
		if err == nil && n == 0 {
			err = errors.New("stored before")
		}
		return err
	}
}

// A change that fails takes nothing of its group with it, and leaves nothing of itself.
func TestGroupIsolatesItsChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.db")
	w, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := w.create(t.Context(), archive.Facts{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("bad")
	group := []*change{
		{apply: store("first"), done: make(chan error, 1)},
		{apply: func(ctx context.Context, tx prepared) error { return errors.Join(store("second")(ctx, tx), bad) }, done: make(chan error, 1)},
		{apply: store("third"), done: make(chan error, 1)},
	}
	w.serve(t.Context(), group)
	for i, want := range []error{nil, bad, nil} {
		if err := <-group[i].done; !errors.Is(err, want) {
			t.Errorf("change %d: %v; want %v", i, err, want)
		}
	}
	var n int
	if err := w.conn.QueryRowContext(t.Context(), "SELECT count(*) FROM cursors").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d changes were stored (%v); want 2", n, err)
	}
}

// A caller that gives up while another process holds the lock is let go at once, and its write never happens.
func TestCallerGivesUpWhileLocked(t *testing.T) {
	a, unlock := locked(t)
	ctx, cancel := context.WithCancel(t.Context())
	given := &change{apply: store("given up"), done: make(chan error, 1)}
	if err := a.submit(ctx, given); err != nil {
		t.Fatal(err)
	}
	if page, err := a.Read(t.Context(), subject.UserAddress("default", "a"), 0, 0, 1, time.Now()); err != nil || page.Head != 0 {
		t.Errorf("a reader waits for the writer: %v, %v", page, err)
	}
	cancel()
	if err := given.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who gives up gets %v", err)
	}
	unlock()
	if err := a.change(t.Context(), store("given up")); err != nil {
		t.Errorf("its write has happened: %v", err)
	}
}

// Close doesn't wait for the lock of another process.
func TestCloseWhileLocked(t *testing.T) {
	a, unlock := locked(t)
	defer unlock()
	c := &change{apply: store("never"), done: make(chan error, 1)}
	a.queue <- c
	started := time.Now()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-c.done; err == nil {
		t.Error("stored although the file was locked")
	}
	if waited := time.Since(started); waited > busyTimeout/2 {
		t.Errorf("Close took %v", waited)
	}
	if err := a.Advance(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
}

// Every query finds its rows by an index and sorts nothing, but for those that look at a few rows at most.
func TestQueriesUseIndexes(t *testing.T) {
	a, unlock := locked(t)
	unlock()
	few := map[string]string{
		touchFacts: "one row", selectAnyAsked: "the first row",
		selectDue: "sorts what a page has", selectNodes: "the nodes", forgetNodes: "the nodes",
	}
	for _, query := range append(reading(), writing()...) {
		if few[query] != "" {
			continue
		}
		arguments := make([]any, strings.Count(query, "?"))
		rows, err := a.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, arguments...)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(step, "SCAN") && step != "SCAN CONSTANT ROW" || strings.Contains(step, "TEMP B-TREE") {
				t.Errorf("%s\n%s", query, step)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Another process with a clock of tomorrow wrote last: what comes now must not be archived before it.
func TestArchivedNeverDecreases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.db")
	a, err := Open(t.Context(), path, archive.Facts{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	to := subject.UserAddress("default", "a")
	tomorrow := time.Now().Add(24 * time.Hour).UnixMilli()
	one, two := &message.Message{To: to, ID: "1", Payload: []byte("x")}, &message.Message{To: to, ID: "2", Payload: []byte("x")}
	if _, err := a.Append(t.Context(), 0, []*message.Message{one}, nil); err != nil {
		t.Fatal(err)
	}
	other, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := other.conn.ExecContext(t.Context(), "UPDATE messages SET archived = ?", tomorrow); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Append(t.Context(), 0, []*message.Message{two}, nil); err != nil {
		t.Fatal(err)
	}
	if two.Archived < tomorrow {
		t.Errorf("archived at %d, before the message below it: %d", two.Archived, tomorrow)
	}
}
