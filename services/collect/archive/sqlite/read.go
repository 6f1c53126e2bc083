package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	selectRange = `SELECT ` + columns + ` FROM messages WHERE mailbox = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?`

	// The key breaks ties: it grows with each insertion, and so with each address's sequence.
	selectSince = `SELECT ` + columns + `, m.key, address FROM messages m JOIN mailboxes b ON b.key = mailbox
		WHERE partition = ? AND (archived, m.key) > (?, ?) AND why = '' AND (expires = 0 OR expires > ?)
		ORDER BY archived, m.key LIMIT ?`

	sinceChunk = 500
)

// Read returns a part of a mailbox. The head is read before the rows: what is purged in between is a gap either way.
func (a *Archive) Read(ctx context.Context, to subject.Address, after, upTo uint64, maxBytes int, now time.Time) (*history.Page, error) {
	b, err := findBox(ctx, a.read, to)
	if err != nil {
		return nil, fmt.Errorf("sqlite: read: %w", err)
	}
	page := mailbox.NewPage(a.facts.Epoch, mailbox.Sequence(b.head), after, upTo, maxBytes, now)
	first, last, ok := page.Range()
	if !ok {
		return page.End(), nil
	}
	rows, err := a.read[selectRange].QueryContext(ctx, b.key, first, last, mailbox.PageRows)
	if err != nil {
		return nil, fmt.Errorf("sqlite: read %s: %w", to, err)
	}
	defer func() { _ = rows.Close() }() // its error is that of Err
	for rows.Next() {
		row, err := scan(rows, to)
		if err != nil {
			return nil, fmt.Errorf("sqlite: read %s: %w", to, err)
		}
		if !page.Add(row) {
			break
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlite: read %s: %w", to, err)
	}
	return page.End(), nil
}

// Heads returns the highest sequence of each address.
func (a *Archive) Heads(ctx context.Context, addresses []subject.Address) (map[subject.Address]uint64, error) {
	heads := make(map[subject.Address]uint64, len(addresses))
	for _, to := range addresses {
		b, err := findBox(ctx, a.read, to)
		if err != nil {
			return nil, fmt.Errorf("sqlite: heads: %w", err)
		}
		heads[to] = mailbox.Sequence(b.head)
	}
	return heads, nil
}

// place is a position in the order of archiving inside a partition.
type place struct{ archived, key int64 }

// Since gives fn a partition's messages from a time on. No read is open while fn runs.
func (a *Archive) Since(ctx context.Context, partition int, archived int64, fn func([]*message.Message) error) error {
	after := place{archived: archived}
	for {
		chunk, last, err := a.sinceChunk(ctx, partition, after)
		if err != nil {
			return fmt.Errorf("sqlite: partition %d since %d: %w", partition, archived, err)
		}
		if len(chunk) == 0 {
			return nil
		}
		if err := fn(chunk); err != nil {
			return err
		}
		after = last
	}
}

func (a *Archive) sinceChunk(ctx context.Context, partition int, after place) (chunk []*message.Message, last place, err error) {
	rows, err := a.read[selectSince].QueryContext(ctx, partition, after.archived, after.key, time.Now().UnixMilli(), sinceChunk)
	if err != nil {
		return nil, last, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var tokens string
		row, err := scan(rows, subject.Address{}, &last.key, &tokens)
		if err != nil {
			return nil, last, err
		}
		if row.Message.To, err = subject.ParseTokens(tokens); err != nil {
			return nil, last, err
		}
		last.archived = row.Message.Archived
		chunk = append(chunk, row.Message)
	}
	return chunk, last, rows.Err()
}
