// Package sqlite is the archive in one file, for a laptop and for several processes on one machine.
//
// The database runs in WAL mode with synchronous=FULL: what was answered survives power. All writes of a process go
// through one goroutine that takes what is queued and commits it at once, so partitions share the cost of a sync;
// reads have connections of their own and never wait for it. Between processes the file's lock decides; a paused
// process can hold it, which the others see as errors after busyTimeout.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	driver "modernc.org/sqlite"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
)

const (
	busyTimeout = 5 * time.Second // how long a write waits for another process before it fails
	openTimeout = 10 * time.Second
	// upgradeTimeout is how long an opening waits while another process may be upgrading the file: for some 60 million messages.
	upgradeTimeout = 10 * time.Minute
	openPause      = 10 * time.Millisecond // between two attempts to open
	readers        = 4                     // connections for reading
	// walKept is how many bytes of the write-ahead log beside the file are kept once what they hold is in the file: an upgrade
	// writes all of the file into it.
	walKept = 64 << 20
)

// ErrClosed is the error of a write after Close.
var ErrClosed = errors.New("sqlite: archive is closed")

const (
	insertFacts = `INSERT INTO facts VALUES (1, ?, ?) ON CONFLICT DO NOTHING`
	selectFacts = `SELECT epoch, partitions FROM facts`
	touchFacts  = `UPDATE facts SET epoch = epoch`
)

// Archive is an archive.Archive on one SQLite file.
type Archive struct {
	facts archive.Facts
	path  string
	db    *sql.DB  // readers
	read  prepared // on db
	queue chan *change
	stop  context.CancelFunc // ends the writer
	ended chan struct{}      // closed when the writer has ended; what it owned is closed then
	err   error              // of closing what the writer owned; read after ended
}

var _ archive.Archive = (*Archive)(nil)

// Open opens the archive in the file at path and creates it if it is not there; its folder must exist. The epoch in
// facts is not looked at: a new archive gets its own. Several processes may do it at once: one that finds the file
// locked tries again, for at most 10 s (without that 3 of 240 opens failed, six processes at a time on a new file:
// SQLite doesn't always wait for the lock while it switches a file to WAL), and for as long as another may need to
// upgrade the file. The error is archive.ErrPartitions if it was created with another number, and ErrNewer if a newer
// version has changed it.
func Open(ctx context.Context, path string, facts archive.Facts) (*Archive, error) {
	if err := mailbox.Check(facts); err != nil {
		return nil, err
	}
	for started := time.Now(); ; {
		a, err := open(ctx, path, facts)
		if err == nil || !busy(err) {
			return a, err
		}
		limit := openTimeout
		if errors.Is(err, errUpgrade) {
			limit = upgradeTimeout
		}
		if time.Since(started) > limit {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-time.After(openPause):
		}
	}
}

func open(ctx context.Context, path string, facts archive.Facts) (_ *Archive, err error) {
	source, err := dataSource(path)
	if err != nil {
		return nil, err
	}
	w, err := newWriter(ctx, path, source)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	stored, err := w.create(ctx, facts)
	if err != nil {
		return nil, err
	}
	if err := mailbox.Agree(stored, facts); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", source+"&_pragma=query_only(1)")
	if err != nil {
		return nil, fmt.Errorf("sqlite: open for reading: %w", err)
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	read, err := prepare(ctx, db, reading()...)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	a := &Archive{facts: stored, path: path, db: db, read: read, queue: make(chan *change), ended: make(chan struct{})}
	ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	go a.write(ctx, w)
	return a, nil
}

// dataSource names the file for the driver. The file is made here because messages are nobody else's to read, and
// SQLite gives its companions (-wal, -shm) the same mode.
func dataSource(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	escaped := (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()
	return fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=journal_size_limit(%d)",
		escaped, busyTimeout.Milliseconds(), walKept), nil
}

// Facts are the archive's epoch and partitions.
func (a *Archive) Facts() archive.Facts { return a.facts }

// Ping says whether the file can be written: another process may hold its lock.
func (a *Archive) Ping(ctx context.Context) error {
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		_, err := tx[touchFacts].ExecContext(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlite: ping: %w", err)
	}
	return nil
}

// Close ends the writer after the group that it is committing and closes the connections. Writes still queued get
// ErrClosed.
func (a *Archive) Close() error {
	a.stop()
	<-a.ended
	return errors.Join(a.err, a.read.close(), a.db.Close())
}

// busy says whether the error is another's lock.
func busy(err error) bool {
	const sqliteBusy, sqliteLocked, primary = 5, 6, 0xff // extended codes keep the primary one in the low byte
	var failed *driver.Error
	return errors.As(err, &failed) && (failed.Code()&primary == sqliteBusy || failed.Code()&primary == sqliteLocked)
}

// away says whether the error is the file's or the machine's and no message's: locked, disk full, I/O, memory.
func away(err error) bool {
	const sqlitePerm, sqliteNoMem, sqliteReadOnly, sqliteIOErr, sqliteCorrupt, sqliteFull, sqliteCantOpen, sqliteProtocol = 3, 7, 8, 10, 11, 13, 14, 15
	var failed *driver.Error
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Code() & 0xff { // extended codes keep the primary one in the low byte
	case sqlitePerm, sqliteNoMem, sqliteReadOnly, sqliteIOErr, sqliteCorrupt, sqliteFull, sqliteCantOpen, sqliteProtocol:
		return true
	}
	return busy(err)
}

// reading are the statements of readers.
func reading() []string {
	return append(presenceReading(),
		selectMailbox, selectRange, selectSince, selectCursor,
		selectAnyAsked, selectAsked, selectLapsing, selectAging, selectOwing, selectPlaces,
		selectBehind, selectAbove, selectStanding, selectStandingOf, selectStandingShared, selectUnacked, selectUnackedEach,
		selectTenant, selectDevices, selectFound, selectFoundShared, selectCopies, selectRow, selectRows, selectScan,
		selectRouted, selectAcking, selectStep, selectStates, selectRecords, selectRecordsOf,
	)
}

// writing are the statements of the writer.
func writing() []string {
	return append(presenceWriting(),
		selectMailbox, insertMailbox, raiseHead, selectNewest, insertMessage, selectByID, touchFacts,
		selectCursor, selectHighest, insertCursor, raiseCursor, raiseHandled, insertStep, insertLateStep,
		insertReceipt, selectReceipt, closeAsked, raiseRouted, selectOverlap, insertRouted, insertRecord,
		selectOld, deleteMessage, emptyMessage, emptyExpired, deleteStep, deleteRouted, deleteReceipts,
	)
}

// prepared are statements by their text. It does not change once made, so it needs no lock.
type prepared map[string]*sql.Stmt

func prepare(ctx context.Context, on interface {
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}, queries ...string,
) (prepared, error) {
	p := prepared{}
	for _, query := range queries {
		statement, err := on.PrepareContext(ctx, query)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("sqlite: prepare %q: %w", query, err), p.close())
		}
		p[query] = statement
	}
	return p, nil
}

func (p prepared) close() error {
	var all []error
	for _, statement := range p {
		all = append(all, statement.Close())
	}
	return errors.Join(all...)
}
