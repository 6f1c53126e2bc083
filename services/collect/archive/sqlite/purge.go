package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/message"
)

const (
	selectOld = `SELECT archived, m.key, mailbox, seq, seq < head FROM messages m JOIN mailboxes b ON b.key = mailbox
		WHERE partition = ? AND (archived, m.key) > (?, ?) AND archived < ? ORDER BY archived, m.key LIMIT ?`
	deleteMessage = `DELETE FROM messages WHERE key = ?`
	emptyMessage  = `UPDATE messages SET why = ?, payload = x'' WHERE key = ? AND why = ''`
	emptyExpired  = `UPDATE messages SET why = ?, payload = x'' WHERE key IN (SELECT key FROM messages
		WHERE partition = ? AND expires > 0 AND why = '' AND expires <= ? AND archived <= ? LIMIT ?)`

	// What the ledger knows of a message, and of messages up to a sequence.
	deleteStep     = `DELETE FROM steps WHERE message = ?`
	deleteRouted   = `DELETE FROM routed WHERE message = ?`
	deleteReceipts = `DELETE FROM receipts WHERE mailbox = ? AND seq <= ?`

	purgeChunk = 250 // rows of one transaction, so that appends wait a few ms at most
)

// Purge applies the retention, then empties what expired. Each chunk is a transaction of its own, so a purge that
// was interrupted has done a part of its work.
func (a *Archive) Purge(ctx context.Context, partition int, policy archive.Policy, now time.Time) (int, error) {
	settled := now.Add(-policy.MinAge).UnixMilli() // archived at this time or before: old enough to be touched
	old := min(now.Add(-policy.Retention).UnixMilli(), settled+1)
	purged, err := a.purgeByRetention(ctx, partition, old)
	if err != nil {
		return purged, fmt.Errorf("sqlite: purge partition %d by retention: %w", partition, err)
	}
	expired, err := a.purgeExpired(ctx, partition, now.UnixMilli(), settled)
	if err != nil {
		return purged + expired, fmt.Errorf("sqlite: purge partition %d of what expired: %w", partition, err)
	}
	return purged + expired, nil
}

func (a *Archive) purgeByRetention(ctx context.Context, partition int, before int64) (int, error) {
	purged, after := 0, place{}
	for {
		var n int
		var last place
		err := a.change(ctx, func(ctx context.Context, tx prepared) (err error) {
			n, last, err = purgeOld(ctx, tx, partition, after, before)
			return err
		})
		if err != nil || last == after {
			return purged, err
		}
		purged, after = purged+n, last
	}
}

func (a *Archive) purgeExpired(ctx context.Context, partition int, now, settled int64) (int, error) {
	purged := 0
	for {
		var n int
		err := a.change(ctx, func(ctx context.Context, tx prepared) (err error) {
			n, err = affected(tx[emptyExpired].ExecContext(ctx, message.WhyExpired, partition, now, settled, purgeChunk))
			return err
		})
		if err != nil {
			return purged, err
		}
		if purged += n; n < purgeChunk {
			return purged, nil
		}
	}
}

// old is a row that is older than the retention.
type old struct {
	place
	mailbox, seq int64
	below        bool // the head
}

// purgeOld deletes, or empties where it is an address's last, the next rows archived before the given time, and what
// the ledger knows of those that it deletes. It returns the place of the last row that it looked at; the same place
// again when there was none.
func purgeOld(ctx context.Context, tx prepared, partition int, after place, before int64) (purged int, last place, err error) {
	chunk, err := oldRows(ctx, tx, partition, after, before)
	if err != nil {
		return 0, after, err
	}
	last = after
	gone := map[int64]int64{} // mailbox → its highest sequence that was deleted; all below it are gone too
	for _, r := range chunk {
		n, err := purgeRow(ctx, tx, r.key, r.below)
		if err != nil {
			return purged, after, err
		}
		purged, last = purged+n, r.place
		if r.below {
			gone[r.mailbox] = max(gone[r.mailbox], r.seq)
		}
	}
	return purged, last, forget(ctx, tx, gone)
}

func oldRows(ctx context.Context, tx prepared, partition int, after place, before int64) (chunk []old, err error) {
	rows, err := tx[selectOld].QueryContext(ctx, partition, after.archived, after.key, before, purgeChunk)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r old
		if err := rows.Scan(&r.archived, &r.key, &r.mailbox, &r.seq, &r.below); err != nil {
			return nil, err
		}
		chunk = append(chunk, r)
	}
	return chunk, rows.Err()
}

// forget deletes the receipts of messages up to a sequence of each mailbox.
func forget(ctx context.Context, tx prepared, gone map[int64]int64) error {
	for mailbox, seq := range gone {
		if _, err := tx[deleteReceipts].ExecContext(ctx, mailbox, seq); err != nil {
			return err
		}
	}
	return nil
}

func purgeRow(ctx context.Context, tx prepared, key int64, below bool) (int, error) {
	if !below {
		return affected(tx[emptyMessage].ExecContext(ctx, message.WhyRetention, key))
	}
	for _, query := range []string{deleteStep, deleteRouted} {
		if _, err := tx[query].ExecContext(ctx, key); err != nil {
			return 0, err
		}
	}
	return affected(tx[deleteMessage].ExecContext(ctx, key))
}

// affected is how many rows a statement changed.
func affected(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
