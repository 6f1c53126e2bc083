package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
)

// groupSize is the most changes of one transaction. A batch of 256 messages takes some 5 ms, so that no transaction
// keeps the lock for longer than a human would notice.
const groupSize = 16

// change is one caller's write, waiting for its turn.
type change struct {
	apply   func(ctx context.Context, tx prepared) error // may run again: a group that failed is run one by one
	claimed atomic.Bool                                  // set by the first: the writer who begins, or the caller who gives up
	taken   bool                                         // the writer won; only the writer looks
	done    chan error                                   // capacity 1, so that the writer never waits for a caller
}

// claim is the writer's: false if the caller has given up.
func (c *change) claim() bool {
	c.taken = c.taken || c.claimed.CompareAndSwap(false, true)
	return c.taken
}

// change has apply run in a transaction and returns when it is durable. After ctx ends it returns at once if the
// change has not begun, else when it is done, which takes the time of one transaction.
func (a *Archive) change(ctx context.Context, apply func(ctx context.Context, tx prepared) error) error {
	c := &change{apply: apply, done: make(chan error, 1)}
	if err := a.submit(ctx, c); err != nil {
		return err
	}
	err := c.wait(ctx)
	if away(err) {
		err = fmt.Errorf("%w: %w", archive.ErrAway, err)
	}
	return err
}

// submit returns when the writer has taken the change.
func (a *Archive) submit(ctx context.Context, c *change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case a.queue <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.ended:
		return ErrClosed
	}
}

func (c *change) wait(ctx context.Context) error {
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		if c.claimed.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		return <-c.done
	}
}

// writer owns the one connection that writes. Only the goroutine of Archive.write uses it once the archive is open.
type writer struct {
	db   *sql.DB
	conn *sql.Conn
	tx   prepared
	line line
}

func newWriter(ctx context.Context, path, source string) (*writer, error) {
	db, err := sql.Open("sqlite", source)
	if err != nil {
		return nil, fmt.Errorf("sqlite: open: %w", err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: open: %w", err), db.Close())
	}
	line, err := newLine(path)
	if err == nil {
		_, err = conn.ExecContext(ctx, "PRAGMA busy_timeout = 0") // the line waits instead
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: open: %w", err), conn.Close(), db.Close())
	}
	return &writer{db: db, conn: conn, line: line}, nil
}

// create makes what is missing in the file and reads what was decided when it was made.
func (w *writer) create(ctx context.Context, wanted archive.Facts) (stored archive.Facts, err error) {
	var have int // as far as it was committed
	if err := w.conn.QueryRowContext(ctx, selectVersion).Scan(&have); err != nil {
		return stored, fmt.Errorf("sqlite: read the file's version: %w", err)
	}
	if err := w.begin(ctx); err != nil {
		if have < version {
			err = fmt.Errorf("%w: %w", errUpgrade, err)
		}
		return stored, err
	}
	defer func() { err = w.end(ctx, err) }()
	if err := w.upgrade(ctx); err != nil {
		return stored, err
	}
	if err := w.execute(presenceTables)(ctx); err != nil {
		return stored, fmt.Errorf("sqlite: create the tables of presence: %w", err)
	}
	if _, err := w.conn.ExecContext(ctx, insertFacts, mailbox.NewEpoch(), wanted.Partitions); err != nil {
		return stored, fmt.Errorf("sqlite: create facts: %w", err)
	}
	if err := w.conn.QueryRowContext(ctx, selectFacts).Scan(&stored.Epoch, &stored.Partitions); err != nil {
		return stored, fmt.Errorf("sqlite: read facts: %w", err)
	}
	w.tx, err = prepare(ctx, w.conn, writing()...)
	return stored, err
}

func (w *writer) begin(ctx context.Context) error {
	err := w.line.wait(ctx, func() error {
		_, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlite: begin: %w", err)
	}
	return nil
}

// end commits if err is nil and rolls back otherwise; what it returns is err or the commit's own error. The error of
// the rollback says nothing: after a full disk SQLite has rolled back already.
func (w *writer) end(ctx context.Context, err error) error {
	if err == nil {
		if _, err = w.conn.ExecContext(ctx, "COMMIT"); err == nil {
			return nil
		}
		err = fmt.Errorf("sqlite: commit: %w", err)
	}
	_, _ = w.conn.ExecContext(ctx, "ROLLBACK")
	return err
}

func (w *writer) close() error {
	return errors.Join(w.tx.close(), w.conn.Close(), w.db.Close(), w.line.close())
}

// write is the writer's goroutine: it takes one change, adds what waits behind it, and commits them together. ctx
// ends it and its waiting for the lock, but no transaction that has begun.
func (a *Archive) write(ctx context.Context, w *writer) {
	defer close(a.ended)
	defer func() { a.err = w.close() }()
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-a.queue:
			w.serve(ctx, a.gather(first))
			w.line.yield(ctx)
		}
	}
}

// gather adds to a change those whose callers are waiting already.
func (a *Archive) gather(first *change) []*change {
	group := []*change{first}
	for len(group) < groupSize {
		select {
		case next := <-a.queue:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}

// serve gives each change of the group its own result. If one of several fails, the others must not: each is run
// again in a transaction of its own.
func (w *writer) serve(ctx context.Context, group []*change) {
	err := w.begin(ctx)
	if err == nil {
		if err = w.apply(context.WithoutCancel(ctx), group); err != nil && len(group) > 1 {
			for i := range group {
				w.serve(ctx, group[i:i+1])
			}
			return
		}
	}
	for _, c := range group {
		c.done <- err
	}
}

// apply runs what is still wanted of the group and commits. ctx can't be cancelled: an interrupt in the middle would
// fail the changes of others, and watching a context costs a goroutine for each statement.
func (w *writer) apply(ctx context.Context, group []*change) (err error) {
	defer func() { err = w.end(ctx, err) }()
	for _, c := range group {
		if !c.claim() {
			continue
		}
		if err := c.apply(ctx, w.tx); err != nil {
			return err
		}
	}
	return nil
}
