package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/weftpush/weft/shared/admin"
)

const (
	insertRecord = `INSERT OR REPLACE INTO records (id, at, who, note, action, filter, count, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`

	recorded        = `SELECT id, at, who, note, action, filter, count, detail FROM records WHERE at < ?`
	selectRecords   = recorded + ` ORDER BY at DESC, id DESC LIMIT ?`
	selectRecordsOf = recorded + ` AND action = ? ORDER BY at DESC, id DESC LIMIT ?`

	usualRecords = 50 // of a request without a limit
)

// Record is durable when it returns.
func (a *Archive) Record(ctx context.Context, r admin.Record) error {
	filter := r.Filter
	if filter == nil {
		filter = []byte{} // the driver stores nil as NULL
	}
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		_, err := tx[insertRecord].ExecContext(ctx, r.ID, r.At, r.By.Who, r.By.Note, r.Action, []byte(filter), r.Count, r.Detail)
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlite: record %s: %w", r.ID, err)
	}
	return nil
}

// Records of one time come in the order of their ids, the highest first.
func (a *Archive) Records(ctx context.Context, q admin.RecordsRequest) ([]admin.Record, error) {
	if q.Before == 0 {
		q.Before = math.MaxInt64
	}
	if q.Limit == 0 {
		q.Limit = usualRecords
	}
	query, args := selectRecords, []any{q.Before, q.Limit}
	if q.Action != "" {
		query, args = selectRecordsOf, []any{q.Before, q.Action, q.Limit}
	}
	records, err := a.recorded(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("sqlite: records: %w", err)
	}
	return records, nil
}

func (a *Archive) recorded(ctx context.Context, query string, args []any) (records []admin.Record, err error) {
	rows, err := a.read[query].QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r admin.Record
		var filter sql.RawBytes
		if err := rows.Scan(&r.ID, &r.At, &r.By.Who, &r.By.Note, &r.Action, &filter, &r.Count, &r.Detail); err != nil {
			return nil, err
		}
		if len(filter) > 0 {
			r.Filter = append(r.Filter, filter...)
		}
		records = append(records, r)
	}
	return records, rows.Err()
}

// longWAL is a write-ahead log that somebody keeps from being taken back into the file: SQLite does that at 4 MB.
const longWAL = 256 << 20

// Health measures a ping. The file has no clock of its own.
func (a *Archive) Health(ctx context.Context) (admin.Health, error) {
	h := admin.Health{Kind: "sqlite"}
	if err := a.db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&h.Version); err != nil {
		return h, fmt.Errorf("sqlite: version: %w", err)
	}
	start := time.Now()
	if err := a.Ping(ctx); err != nil {
		return h, err
	}
	h.Millis = float64(time.Since(start).Microseconds()) / 1000
	if info, err := os.Stat(a.path + "-wal"); err == nil {
		h.Warnings = warnings(info.Size())
	}
	return h, nil
}

// warnings are about a write-ahead log of so many bytes.
func warnings(wal int64) []admin.Warn {
	if wal <= longWAL {
		return nil
	}
	return []admin.Warn{{
		What:   fmt.Sprintf("the write-ahead log beside the archive has grown to %d MB", wal>>20),
		Remedy: "something reads the archive without end: look for a process that has the file open (sqlite3, a backup) and end it",
	}}
}
