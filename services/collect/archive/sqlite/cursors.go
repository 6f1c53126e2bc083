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
	insertCursor  = `INSERT INTO cursors (tenant, user, address, device, seq, at) VALUES (?, ?, ?, ?, ?, ?)`
	raiseCursor   = insertCursor + ` ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), at = max(at, excluded.at)`
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
	_, err = tx[insertCursor].ExecContext(ctx, r.Tenant, r.User, to.Tokens(), r.Device,
		mailbox.Number(p.Cursor), time.Now().UnixMilli())
	return p, err
}

// Advance raises cursors, all in one transaction.
func (a *Archive) Advance(ctx context.Context, cursors []history.Cursor) error {
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		now := time.Now().UnixMilli()
		for _, c := range cursors {
			if _, err := tx[raiseCursor].ExecContext(ctx, c.Tenant, c.User, c.Address, c.Device, mailbox.Number(c.Seq), now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: advance %d cursors: %w", len(cursors), err)
	}
	return nil
}
