package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	selectAnyAsked = `SELECT 1 FROM messages INDEXED BY asked WHERE ` + isAsked + ` LIMIT 1`
	// CROSS JOIN keeps the order: the device's place, then only what is asked and above it.
	selectAsked = `SELECT ` + bare + ` FROM cursors c CROSS JOIN mailboxes b ON b.address = c.address
		CROSS JOIN messages m INDEXED BY asked ON m.mailbox = b.key
		WHERE tenant = ? AND user = ? AND c.address = ? AND device = ? AND ` + isAsked + ` AND m.seq > max(c.seq, ?) AND m.seq <= ?
		AND archived >= known ORDER BY m.seq`

	insertReceipt = `INSERT INTO receipts (mailbox, seq, device, state, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	selectReceipt = `SELECT state, at FROM receipts WHERE mailbox = ? AND seq = ? AND device = ?`
	closeAsked    = `UPDATE messages SET closed = 1 WHERE mailbox = ? AND seq = ? AND ` + isAsked

	selectLapsing = `SELECT ` + bare + `, address FROM messages m INDEXED BY lapsing JOIN mailboxes b ON b.key = mailbox
		WHERE partition = ? AND ` + isAsked + ` AND expires > 0 AND expires <= ? ORDER BY expires LIMIT ?`
	selectAging = `SELECT ` + bare + `, address FROM messages m INDEXED BY aging JOIN mailboxes b ON b.key = mailbox
		WHERE partition = ? AND ` + isAsked + ` AND archived < ? AND (expires = 0 OR expires > ?) ORDER BY archived LIMIT ?`
	selectOwing  = `SELECT device FROM cursors WHERE tenant = ? AND user = ? AND address = ? AND seq < ? AND known <= ? ORDER BY device`
	selectPlaces = `SELECT count(*) FROM cursors WHERE tenant = ? AND user = ? AND address = ?`

	// The range lies above all that is known, as most do; nothing is changed otherwise.
	raiseRouted   = `UPDATE mailboxes SET routed = ? WHERE address = ? AND routed < ?`
	selectOverlap = `SELECT since, m.seq FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key CROSS JOIN routed r ON r.message = m.key
		WHERE address = ? AND m.seq >= ? AND m.seq <= routed ORDER BY m.seq`
	insertRouted = `INSERT INTO routed (message, since, at, nodes) SELECT m.key, ?, ?, ? FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key
		WHERE b.address = ? AND m.seq >= ? AND m.seq <= ? ORDER BY m.seq DESC LIMIT 1 ON CONFLICT DO NOTHING`
)

// Asked costs one look at an index where no message asked for receipts, and else one for each cursor.
func (a *Archive) Asked(ctx context.Context, cursors []history.Cursor) ([]archive.Settled, error) {
	var one int
	err := a.read[selectAnyAsked].QueryRowContext(ctx).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: asked: %w", err)
	}
	type device struct{ tenant, user, device string }
	done := map[device]uint64{} // by the cursors before
	var asked []archive.Settled
	for _, c := range cursors {
		d := device{c.Tenant, c.User, c.Device}
		if !own(c.Tenant, c.User, c.Address) || c.Seq <= done[d] {
			continue
		}
		if asked, err = a.acknowledged(ctx, asked, c, done[d]); err != nil {
			return nil, fmt.Errorf("sqlite: asked by %s of %s: %w", c.Device, c.User, err)
		}
		done[d] = c.Seq
	}
	return asked, nil
}

// acknowledged adds what one cursor acknowledges above a sequence.
func (a *Archive) acknowledged(ctx context.Context, asked []archive.Settled, c history.Cursor, after uint64) ([]archive.Settled, error) {
	if c.At == 0 {
		c.At = time.Now().UnixMilli()
	}
	to := subject.UserAddress(c.Tenant, c.User)
	found, err := a.rows(ctx, to, selectAsked, c.Tenant, c.User, c.Address, c.Device, mailbox.Number(after), mailbox.Number(c.Seq))
	for _, r := range found {
		s := archive.Settled{Message: r.Message, Device: c.Device, State: message.StateDelivered, At: c.At}
		if r.Message.Expired(time.UnixMilli(c.At)) {
			s.State, s.At = message.StateExpired, r.Message.Expires
		}
		asked = append(asked, s)
	}
	return asked, err
}

// Settle stores all states in one transaction.
func (a *Archive) Settle(ctx context.Context, states []archive.Settled) ([]archive.Settled, error) {
	var hold []archive.Settled
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		hold = make([]archive.Settled, len(states))
		for i, s := range states {
			var err error
			if hold[i], err = settle(ctx, tx, s); err != nil {
				return fmt.Errorf("%s to %s at %q: %w", s.Message.ID, s.Message.To, s.Device, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: settle %d states: %w", len(states), err)
	}
	return hold, nil
}

func settle(ctx context.Context, tx prepared, s archive.Settled) (archive.Settled, error) {
	b, err := makeBox(ctx, tx, s.Message.To)
	if err != nil {
		return s, err
	}
	seq := mailbox.Number(s.Message.Seq)
	stored, err := affected(tx[insertReceipt].ExecContext(ctx, b.key, seq, s.Device, s.State, s.At))
	if err != nil || stored == 1 {
		return s, err
	}
	err = tx[selectReceipt].QueryRowContext(ctx, b.key, seq, s.Device).Scan(&s.State, &s.At)
	return s, err
}

// Lapsed finds what expired first, then what is old.
func (a *Archive) Lapsed(ctx context.Context, partition int, expired, deleted int64, limit int) ([]archive.Lapsed, error) {
	found, err := a.rows(ctx, subject.Address{}, selectLapsing, partition, expired, limit)
	if err == nil && len(found) < limit {
		var old []archive.Row
		old, err = a.rows(ctx, subject.Address{}, selectAging, partition, deleted, expired, limit-len(found))
		found = append(found, old...)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: lapsed of partition %d: %w", partition, err)
	}
	now := time.Now().UnixMilli()
	lapsed := make([]archive.Lapsed, len(found))
	for i, r := range found {
		s := archive.Settled{Message: r.Message, State: message.StateDeleted, At: now}
		if r.Message.Expires > 0 && r.Message.Expires <= expired {
			s.State, s.At = message.StateExpired, r.Message.Expires
		}
		lapsed[i].Message = r.Message
		if lapsed[i].States, err = a.owing(ctx, s); err != nil {
			return nil, fmt.Errorf("sqlite: devices of %s: %w", r.Message.To, err)
		}
	}
	return lapsed, nil
}

// owing repeats a state for each device that the message is owed to and that has not acknowledged it. A device that
// began above it has a cursor above it too.
func (a *Archive) owing(ctx context.Context, s archive.Settled) ([]archive.Settled, error) {
	to := s.Message.To
	devices, err := a.names(ctx, selectOwing, to.Tenant, to.ID, to.Tokens(), mailbox.Number(s.Message.Seq), s.Message.Archived)
	if err != nil {
		return nil, err
	}
	var states []archive.Settled
	for _, s.Device = range devices {
		states = append(states, s)
	}
	if len(states) > 0 {
		return states, nil
	}
	var places int
	if err := a.read[selectPlaces].QueryRowContext(ctx, to.Tenant, to.ID, to.Tokens()).Scan(&places); err != nil || places > 0 {
		return nil, err
	}
	return []archive.Settled{s}, nil
}

// names are the rows of a query for one text.
func (a *Archive) names(ctx context.Context, query string, args ...any) (names []string, err error) {
	rows, err := a.read[query].QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// CloseAsked closes all in one transaction.
func (a *Archive) CloseAsked(ctx context.Context, lapsed []archive.Lapsed) error {
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		for _, l := range lapsed {
			b, err := findBox(ctx, tx, l.Message.To)
			if err != nil {
				return err
			}
			if _, err := tx[closeAsked].ExecContext(ctx, b.key, mailbox.Number(l.Message.Seq)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: close %d messages: %w", len(lapsed), err)
	}
	return nil
}

// Route stores all reports in one transaction; those of addresses that nobody wrote to are left out.
func (a *Archive) Route(ctx context.Context, reports []ledger.Routed) error {
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		for _, r := range reports {
			if err := route(ctx, tx, r); err != nil {
				return fmt.Errorf("%s: %w", r.Address, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: store %d reports: %w", len(reports), err)
	}
	return nil
}

func route(ctx context.Context, tx prepared, r ledger.Routed) error {
	if r.To < r.From {
		return nil
	}
	nodes, err := json.Marshal(r.Nodes)
	if err != nil {
		return err
	}
	free := []span{{mailbox.Number(r.From), mailbox.Number(r.To)}}
	raised, err := affected(tx[raiseRouted].ExecContext(ctx, free[0].upto, r.Address, free[0].since))
	if err == nil && raised == 0 {
		if free, err = unreported(ctx, tx, r.Address, free[0]); err == nil && len(free) > 0 {
			upto := free[len(free)-1].upto
			_, err = tx[raiseRouted].ExecContext(ctx, upto, r.Address, upto)
		}
	}
	for _, f := range free {
		if err == nil {
			_, err = tx[insertRouted].ExecContext(ctx, f.since, r.At, nodes, r.Address, f.since, f.upto)
		}
	}
	return err
}

// span is some sequences of a mailbox, both ends included.
type span struct{ since, upto int64 }

// unreported are the parts of a range that no report has covered yet.
func unreported(ctx context.Context, tx prepared, address string, wanted span) (free []span, err error) {
	since, upto := wanted.since, wanted.upto
	rows, err := tx[selectOverlap].QueryContext(ctx, address, since)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() && since <= upto {
		var known span
		if err := rows.Scan(&known.since, &known.upto); err != nil {
			return nil, err
		}
		if known.since > since {
			free = append(free, span{since, min(known.since-1, upto)})
		}
		since = known.upto + 1
	}
	if since <= upto {
		free = append(free, span{since, upto})
	}
	return free, rows.Err()
}
