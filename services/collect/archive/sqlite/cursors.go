package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

const (
	selectCursor  = `SELECT seq FROM cursors WHERE tenant = ? AND user = ? AND address = ? AND device = ?`
	selectHighest = `SELECT coalesce(max(seq), 0) FROM cursors WHERE tenant = ? AND user = ? AND address = ?`
	raiseCursor   = `UPDATE cursors SET seq = ?, at = max(at, ?) WHERE tenant = ? AND user = ? AND address = ? AND device = ? AND seq < ?`
	// A user's first device in the user's mailbox is known from the beginning.
	insertCursor = `INSERT INTO cursors (tenant, user, address, device, seq, start, at, known) VALUES (?, ?, ?, ?, ?, ?, ?,
		CASE WHEN ? AND NOT EXISTS (SELECT 1 FROM cursors WHERE tenant = ? AND user = ? AND address = ?) THEN 0 ELSE ? END)
		ON CONFLICT DO NOTHING`
	// An acknowledgement is noted at the message that it names, which is the highest up to there.
	stepAt = `INSERT INTO steps (message, device, node, at) SELECT m.key, ?, ?, ? FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key
		WHERE b.address = ? AND m.seq <= ?`
	lastStep   = ` ORDER BY m.seq DESC LIMIT 1 ON CONFLICT DO NOTHING`
	insertStep = stepAt + lastStep
	// An acknowledgement of less than is known by now still tells when the device came so far.
	insertLateStep = stepAt + ` AND EXISTS (SELECT 1 FROM cursors WHERE tenant = ? AND user = ? AND address = ? AND device = ? AND start < ?)` + lastStep
)

// Open returns the position of a device in each address; only the first time in a mailbox it writes.
func (a *Archive) Open(ctx context.Context, request history.OpenRequest) (*history.OpenAnswer, error) {
	answer := &history.OpenAnswer{Epoch: a.facts.Epoch, Positions: map[string]history.Position{}}
	var fresh []subject.Address
	for _, tokens := range request.Addresses {
		to, err := subject.ParseTokens(tokens)
		if err != nil {
			return nil, fmt.Errorf("sqlite: open %q: %w", tokens, err)
		}
		position, known, err := position(ctx, a.read, request, to)
		if err != nil {
			return nil, fmt.Errorf("sqlite: open %s: %w", to, err)
		}
		if !known {
			fresh = append(fresh, to)
			continue
		}
		answer.Positions[tokens] = position
	}
	if len(fresh) == 0 {
		return answer, nil
	}
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		for _, to := range fresh {
			position, err := start(ctx, tx, request, to)
			if err != nil {
				return fmt.Errorf("%s: %w", to, err)
			}
			answer.Positions[to.Tokens()] = position
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: open: %w", err)
	}
	return answer, nil
}

// position is where the device stands. The cursor is read before the head, so that it is never above it.
func position(ctx context.Context, on prepared, r history.OpenRequest, to subject.Address) (p history.Position, known bool, err error) {
	err = on[selectCursor].QueryRowContext(ctx, r.Tenant, r.User, to.Tokens(), r.Device).Scan(&p.Cursor)
	if known = err == nil; !known && !errors.Is(err, sql.ErrNoRows) {
		return p, false, fmt.Errorf("cursor: %w", err)
	}
	b, err := findBox(ctx, on, to)
	if err != nil {
		return p, false, err
	}
	p.Head = mailbox.Sequence(b.head)
	return p, known, nil
}

// start gives a new device its place, unless it got one in the meantime.
func start(ctx context.Context, tx prepared, r history.OpenRequest, to subject.Address) (history.Position, error) {
	p, known, err := position(ctx, tx, r, to)
	if err != nil || known {
		return p, err
	}
	p.Cursor = p.Head
	if to.Kind == subject.User {
		if err := tx[selectHighest].QueryRowContext(ctx, r.Tenant, r.User, to.Tokens()).Scan(&p.Cursor); err != nil {
			return p, fmt.Errorf("highest cursor: %w", err)
		}
		p.Cursor = max(p.Cursor, r.Floors[to.Tokens()])
	}
	c := history.Cursor{Tenant: r.Tenant, User: r.User, Device: r.Device, Address: to.Tokens(), Seq: p.Cursor, At: time.Now().UnixMilli()}
	if _, err := put(ctx, tx, c, c.At); err != nil {
		return p, err
	}
	return p, handle(ctx, tx, c)
}

// put stores the first place of a device, unless it has one.
func put(ctx context.Context, tx prepared, c history.Cursor, now int64) (int, error) {
	seq := mailbox.Number(c.Seq)
	return affected(tx[insertCursor].ExecContext(ctx, c.Tenant, c.User, c.Address, c.Device, seq, seq, c.At,
		own(c.Tenant, c.User, c.Address), c.Tenant, c.User, c.Address, now))
}

// handle raises what has been handled of a user's own mailbox.
func handle(ctx context.Context, tx prepared, c history.Cursor) error {
	if !own(c.Tenant, c.User, c.Address) {
		return nil
	}
	_, err := tx[raiseHandled].ExecContext(ctx, mailbox.Number(c.Seq), c.Address, mailbox.Number(c.Seq))
	return err
}

// Advance raises cursors, all in one transaction.
func (a *Archive) Advance(ctx context.Context, cursors []history.Cursor) error {
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		now := time.Now().UnixMilli()
		for _, c := range cursors {
			if c.At == 0 {
				c.At = now
			}
			if err := advance(ctx, tx, c, now); err != nil {
				return fmt.Errorf("%s of %s in %s: %w", c.Device, c.User, c.Address, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: advance %d cursors: %w", len(cursors), err)
	}
	return nil
}

func advance(ctx context.Context, tx prepared, c history.Cursor, now int64) error {
	seq := mailbox.Number(c.Seq)
	raised, err := affected(tx[raiseCursor].ExecContext(ctx, seq, c.At, c.Tenant, c.User, c.Address, c.Device, seq))
	if err != nil {
		return err
	}
	if raised == 0 {
		if raised, err = put(ctx, tx, c, now); err != nil {
			return err
		}
	}
	if !own(c.Tenant, c.User, c.Address) {
		return nil
	}
	if raised == 0 {
		_, err := tx[insertLateStep].ExecContext(ctx, c.Device, c.Node, c.At, c.Address, seq,
			c.Tenant, c.User, c.Address, c.Device, seq)
		return err
	}
	if _, err := tx[insertStep].ExecContext(ctx, c.Device, c.Node, c.At, c.Address, seq); err != nil {
		return err
	}
	return handle(ctx, tx, c)
}
