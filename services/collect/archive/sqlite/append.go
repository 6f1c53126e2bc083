package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	selectMailbox = `SELECT key, head FROM mailboxes WHERE address = ?`
	// A device can have a place before the first message is there.
	insertMailbox = `INSERT INTO mailboxes (address, head, handled) VALUES (?, 0,
		coalesce((SELECT max(seq) FROM cursors WHERE tenant = ? AND user = ? AND address = ?), 0))`
	raiseHead     = `UPDATE mailboxes SET head = ? WHERE key = ?`
	selectNewest  = `SELECT coalesce(max(archived), 0) FROM messages WHERE partition = ?`
	selectByID    = `SELECT ` + columns + ` FROM messages WHERE mailbox = ? AND id = ?`
	insertMessage = `INSERT INTO messages (mailbox, partition, hash, why, ` + stored + `)
		VALUES (?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, mailbox) DO NOTHING`
)

// box is a mailbox in the course of one transaction.
type box struct {
	key, head int64
	raised    bool
}

// appending is one Append inside a transaction.
type appending struct {
	tx        prepared
	partition int
	archived  int64 // ms since 1970, of everything it stores
	boxes     map[subject.Address]*box
}

// Append gives each message its sequence and stores it. The transaction takes all of the batch or nothing. Heads are
// read inside it, so the caller's are only kept current.
func (a *Archive) Append(ctx context.Context, partition int, batch []*message.Message, heads archive.Heads) ([]archive.Outcome, error) {
	var run *appending
	var outcomes []archive.Outcome
	var seqs []int64
	err := a.change(ctx, func(ctx context.Context, tx prepared) (err error) {
		run = &appending{tx: tx, partition: partition, boxes: map[subject.Address]*box{}}
		outcomes, seqs, err = run.all(ctx, batch)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: append: %w", err)
	}
	for i, o := range outcomes {
		if o.Fate == archive.Stored {
			o.Message.Seq, o.Message.Archived = mailbox.Sequence(seqs[i]), run.archived
		}
	}
	for address, b := range run.boxes {
		if heads != nil {
			heads[address] = mailbox.Sequence(b.head)
		}
	}
	return outcomes, nil
}

// all stores the batch. The sequences of what is stored come apart, because a message must not change before it is
// durable.
func (r *appending) all(ctx context.Context, batch []*message.Message) ([]archive.Outcome, []int64, error) {
	// The clock may step back, and another process may have another one. The time of archiving never decreases
	// inside a partition, so that Since can go by it and keep each address's order.
	if err := r.tx[selectNewest].QueryRowContext(ctx, r.partition).Scan(&r.archived); err != nil {
		return nil, nil, fmt.Errorf("newest of partition %d: %w", r.partition, err)
	}
	r.archived = max(r.archived, time.Now().UnixMilli())
	outcomes, seqs := make([]archive.Outcome, len(batch)), make([]int64, len(batch))
	for i, m := range batch {
		var err error
		if outcomes[i], seqs[i], err = r.one(ctx, m); err != nil {
			return nil, nil, fmt.Errorf("message %q to %s: %w", m.ID, m.To, err)
		}
	}
	for address, b := range r.boxes {
		if !b.raised {
			continue
		}
		if _, err := r.tx[raiseHead].ExecContext(ctx, b.head, b.key); err != nil {
			return nil, nil, fmt.Errorf("head of %s: %w", address, err)
		}
	}
	return outcomes, seqs, nil
}

func (r *appending) one(ctx context.Context, m *message.Message) (archive.Outcome, int64, error) {
	b, err := r.box(ctx, m.To)
	if err != nil {
		return archive.Outcome{}, 0, err
	}
	hash := m.Hash()
	payload := m.Payload
	if payload == nil {
		payload = []byte{} // the driver stores nil as NULL
	}
	inserted, err := affected(r.tx[insertMessage].ExecContext(ctx, b.key, r.partition, hash[:],
		b.head+1, m.ID, r.archived, m.At, m.Expires, m.Again, m.Receipt, m.Type, m.ContentType, m.Trace, payload))
	if err != nil {
		return archive.Outcome{}, 0, err
	}
	if inserted == 1 {
		b.head, b.raised = b.head+1, true
		return archive.Outcome{Fate: archive.Stored, Message: m}, b.head, nil
	}
	there, err := scan(r.tx[selectByID].QueryRowContext(ctx, b.key, m.ID), m.To)
	return there.Met(hash), 0, err
}

// box finds the mailbox of an address, and makes it for its first message.
func (r *appending) box(ctx context.Context, to subject.Address) (*box, error) {
	if b, ok := r.boxes[to]; ok {
		return b, nil
	}
	b, err := makeBox(ctx, r.tx, to)
	if err != nil {
		return nil, err
	}
	r.boxes[to] = b
	return b, nil
}

// makeBox finds the mailbox of an address, or makes it.
func makeBox(ctx context.Context, tx prepared, to subject.Address) (*box, error) {
	b, err := findBox(ctx, tx, to)
	if err != nil || b.key != 0 {
		return b, err
	}
	user := "" // nobody's
	if to.Kind == subject.User {
		user = to.ID
	}
	result, err := tx[insertMailbox].ExecContext(ctx, to.Tokens(), to.Tenant, user, to.Tokens())
	if err != nil {
		return nil, fmt.Errorf("mailbox %s: %w", to, err)
	}
	b.key, err = result.LastInsertId()
	return b, err
}

// findBox returns the zero box for an address that nobody wrote to.
func findBox(ctx context.Context, on prepared, to subject.Address) (*box, error) {
	b := new(box)
	err := on[selectMailbox].QueryRowContext(ctx, to.Tokens()).Scan(&b.key, &b.head)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("mailbox %s: %w", to, err)
	}
	return b, nil
}

// stored are the columns of a message in the order of both insertMessage and scan.
const stored = `seq, id, archived, at, expires, again, receipt, type, content_type, trace, payload`

const columns = `hash, why, ` + stored

// scan reads columns from a row. Its error is not wrapped.
func scan(from interface{ Scan(into ...any) error }, to subject.Address, more ...any) (mailbox.Row, error) {
	m := &message.Message{To: to}
	r := mailbox.Row{Message: m}
	var hash []byte
	err := from.Scan(append([]any{
		&hash, &r.Why, &m.Seq, &m.ID, &m.Archived, &m.At, &m.Expires, &m.Again, &m.Receipt,
		&m.Type, &m.ContentType, &m.Trace, &m.Payload,
	}, more...)...)
	copy(r.Hash[:], hash)
	return r, err
}
