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
	selectOld = `SELECT archived, m.key, seq < head FROM messages m JOIN mailboxes b ON b.key = mailbox
		WHERE partition = ? AND (archived, m.key) > (?, ?) AND archived < ? ORDER BY archived, m.key LIMIT ?`
	deleteMessage = `DELETE FROM messages WHERE key = ?`
	emptyMessage  = `UPDATE messages SET why = ?, payload = x'' WHERE key = ? AND why = ''`
	emptyExpired  = `UPDATE messages SET why = ?, payload = x'' WHERE key IN (SELECT key FROM messages
		WHERE partition = ? AND expires > 0 AND why = '' AND expires <= ? AND archived <= ? LIMIT ?)`

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

// purgeOld deletes, or empties where it is an address's last, the next rows archived before the given time. It
// returns the place of the last row that it looked at; the same place again when there was none.
func purgeOld(ctx context.Context, tx prepared, partition int, after place, before int64) (purged int, last place, err error) {
	rows, err := tx[selectOld].QueryContext(ctx, partition, after.archived, after.key, before, purgeChunk)
	if err != nil {
		return 0, after, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	type row struct {
		place
		below bool // the head
	}
	var chunk []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.archived, &r.key, &r.below); err != nil {
			return 0, after, err
		}
		chunk = append(chunk, r)
	}
	if err := rows.Err(); err != nil {
		return 0, after, err
	}
	last = after
	for _, r := range chunk {
		n, err := purgeRow(ctx, tx, r.key, r.below)
		if err != nil {
			return purged, after, err
		}
		purged, last = purged+n, r.place
	}
	return purged, last, nil
}

func purgeRow(ctx context.Context, tx prepared, key int64, below bool) (int, error) {
	if below {
		return affected(tx[deleteMessage].ExecContext(ctx, key))
	}
	return affected(tx[emptyMessage].ExecContext(ctx, message.WhyRetention, key))
}

// affected is how many rows a statement changed.
func affected(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
