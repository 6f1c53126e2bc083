package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// bare are the columns of a message without its payload, of which only the length is looked at: SQLite finds that
// without reading it.
const bare = `m.seq, m.id, m.archived, m.at, m.expires, m.again, m.receipt, m.type, m.content_type, m.trace, m.why, length(m.payload)`

const (
	selectDevices = `SELECT device, address, seq, start, known, at FROM cursors WHERE tenant = ? AND user = ? ORDER BY address, device`

	found       = `SELECT ` + bare + `, address FROM messages m INDEXED BY identified CROSS JOIN mailboxes b ON b.key = m.mailbox `
	selectFound = found + `WHERE id = ? AND address >= ? AND address < ? AND NOT ` + isShared + ` LIMIT ?`
	// What is shared comes after, so that an id that many messages have needs no sorting.
	selectFoundShared = found + `WHERE id = ? AND address >= ? AND address < ? AND ` + isShared + ` LIMIT ?`
	selectCopies      = found + `WHERE id >= ? AND id < ? AND address >= ? AND address < ? LIMIT ?`

	selectRow  = `SELECT ` + bare + ` FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key WHERE address = ? AND m.seq = ?`
	selectRows = `SELECT ` + bare + ` FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key
		WHERE address = ? AND m.seq >= ? ORDER BY m.seq LIMIT ?`
	selectScan = `SELECT ` + bare + `, address, m.key FROM messages m CROSS JOIN mailboxes b ON b.key = m.mailbox
		WHERE partition = ? AND (archived, m.key) > (?, ?) AND archived < ? ORDER BY archived, m.key LIMIT ?`

	selectRouted = `SELECT since, m.seq, r.at, nodes FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key
		CROSS JOIN routed r ON r.message = m.key WHERE address = ? AND m.seq >= ? AND m.seq <= routed ORDER BY m.seq LIMIT 1`
	selectAcking = `SELECT device, start, seq FROM cursors WHERE tenant = ? AND user = ? AND address = ? AND seq >= ? ORDER BY device`
	selectStep   = `SELECT m.seq, node, s.at FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key
		CROSS JOIN steps s ON s.message = m.key AND device = ? WHERE address = ? AND m.seq >= ? AND m.seq <= ? ORDER BY m.seq LIMIT 1`
	selectStates = `SELECT r.seq, r.device, r.state, r.at FROM mailboxes b CROSS JOIN receipts r ON r.mailbox = b.key
		WHERE address = ? AND r.seq >= ? AND r.seq <= ? ORDER BY r.seq, r.device`
)

// rows are the rows of a query for bare columns. Where the address is not known beforehand, they have it behind them.
func (a *Archive) rows(ctx context.Context, to subject.Address, query string, args ...any) (all []archive.Row, err error) {
	rows, err := a.read[query].QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	known := to != subject.Address{}
	var last, tokens string
	for rows.Next() {
		if known {
			r, err := scanBare(rows, to)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
			continue
		}
		r, err := scanBare(rows, to, &tokens)
		if err != nil {
			return nil, err
		}
		if tokens != last { // neighbours mostly have one address
			if to, err = subject.ParseTokens(tokens); err != nil {
				return nil, err
			}
			r.Message.To, last = to, tokens
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// scanBare reads bare columns from a row. Its error is not wrapped.
func scanBare(from interface{ Scan(into ...any) error }, to subject.Address, more ...any) (archive.Row, error) {
	m := &message.Message{To: to}
	r := archive.Row{Message: m}
	err := from.Scan(append([]any{
		&m.Seq, &m.ID, &m.Archived, &m.At, &m.Expires, &m.Again, &m.Receipt, &m.Type, &m.ContentType, &m.Trace, &r.Why, &r.Size,
	}, more...)...)
	return r, err
}

// Devices are in the order of address and device.
func (a *Archive) Devices(ctx context.Context, tenant, user string) (devices []archive.Device, err error) {
	rows, err := a.read[selectDevices].QueryContext(ctx, tenant, user)
	if err != nil {
		return nil, fmt.Errorf("sqlite: devices of %s: %w", user, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var d archive.Device
		var tokens string
		if err := rows.Scan(&d.Device, &tokens, &d.Cursor, &d.Start, &d.Known, &d.At); err != nil {
			return nil, fmt.Errorf("sqlite: devices of %s: %w", user, err)
		}
		if d.To, err = subject.ParseTokens(tokens); err != nil {
			return nil, fmt.Errorf("sqlite: devices of %s: %w", user, err)
		}
		devices = append(devices, d)
	}
	return devices, rows.Err()
}

// Find returns users' messages first, each kind in the order in which the mailboxes were made.
func (a *Archive) Find(ctx context.Context, tenant, id string, limit int) (found, copies []archive.Row, err error) {
	from := subject.Encode(tenant) + "."
	before := subject.Encode(tenant) + "/" // what comes after the dot
	found, err = a.rows(ctx, subject.Address{}, selectFound, id, from, before, limit)
	if err == nil && len(found) < limit {
		var shared []archive.Row
		shared, err = a.rows(ctx, subject.Address{}, selectFoundShared, id, from, before, limit-len(found))
		found = append(found, shared...)
	}
	if err == nil {
		copies, err = a.rows(ctx, subject.Address{}, selectCopies, id+"~", id+"\x7f", from, before, limit)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("sqlite: find %q: %w", id, err)
	}
	return found, copies, nil
}

// Steps looks for each device that has come so far, message by message up to its next acknowledgement.
func (a *Archive) Steps(ctx context.Context, to subject.Address, seq uint64) (steps archive.Steps, err error) {
	if steps.Routed, err = a.routed(ctx, to, seq); err != nil {
		return steps, fmt.Errorf("sqlite: routing of %s: %w", to, err)
	}
	if steps.Acked, err = a.acked(ctx, to, seq); err != nil {
		return steps, fmt.Errorf("sqlite: acknowledgements of %s: %w", to, err)
	}
	if steps.States, err = a.SettledOf(ctx, to, seq, seq); err != nil {
		return steps, err
	}
	return steps, nil
}

// routed is the report that covers a message, or nil.
func (a *Archive) routed(ctx context.Context, to subject.Address, seq uint64) (*ledger.Routed, error) {
	r := ledger.Routed{Address: to.Tokens()}
	var nodes []byte
	err := a.read[selectRouted].QueryRowContext(ctx, r.Address, mailbox.Number(seq)).Scan(&r.From, &r.To, &r.At, &nodes)
	if errors.Is(err, sql.ErrNoRows) || err == nil && r.From > seq {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r, json.Unmarshal(nodes, &r.Nodes)
}

func (a *Archive) acked(ctx context.Context, to subject.Address, seq uint64) ([]archive.Acked, error) {
	places, err := a.acking(ctx, to, seq)
	if err != nil {
		return nil, err
	}
	var all []archive.Acked
	for _, p := range places {
		acked := archive.Acked{Device: p.device}
		var step uint64
		err := a.read[selectStep].QueryRowContext(ctx, p.device, to.Tokens(), mailbox.Number(seq), p.seq).Scan(&step, &acked.Node, &acked.At)
		if errors.Is(err, sql.ErrNoRows) {
			continue // it came so far before the ledger, or without acknowledging
		}
		if err != nil {
			return nil, err
		}
		if p.start < seq || p.start == step { // else it began above the message; an acknowledgement that made its place counts
			all = append(all, acked)
		}
	}
	return all, nil
}

// began is where a device began, and where it is.
type began struct {
	device string
	start  uint64
	seq    int64
}

// acking are the devices that are at a message or above it.
func (a *Archive) acking(ctx context.Context, to subject.Address, seq uint64) (places []began, err error) {
	rows, err := a.read[selectAcking].QueryContext(ctx, to.Tenant, to.ID, to.Tokens(), mailbox.Number(seq))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var b began
		if err := rows.Scan(&b.device, &b.start, &b.seq); err != nil {
			return nil, err
		}
		places = append(places, b)
	}
	return places, rows.Err()
}

// Rows reads from one mailbox.
func (a *Archive) Rows(ctx context.Context, to subject.Address, from uint64, limit int) ([]archive.Row, error) {
	rows, err := a.rows(ctx, to, selectRows, to.Tokens(), mailbox.Number(from), limit)
	if err != nil {
		return nil, fmt.Errorf("sqlite: rows of %s: %w", to, err)
	}
	return rows, nil
}

// Scan gives marks that are the time of archiving and the key of the last row.
func (a *Archive) Scan(ctx context.Context, partition int, since, until int64, mark string, limit int) ([]archive.Row, string, error) {
	after := place{archived: since}
	if mark != "" {
		archived, key, _ := strings.Cut(mark, ".")
		var errs [2]error
		after.archived, errs[0] = strconv.ParseInt(archived, 10, 64)
		after.key, errs[1] = strconv.ParseInt(key, 10, 64)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, "", fmt.Errorf("sqlite: scan behind the mark %q: %w", mark, err)
		}
	}
	rows, last, err := a.scanChunk(ctx, partition, after, until, limit)
	if err != nil {
		return nil, "", fmt.Errorf("sqlite: scan partition %d: %w", partition, err)
	}
	if len(rows) <= limit {
		return rows, "", nil
	}
	return rows[:limit], fmt.Sprintf("%d.%d", last.archived, last.key), nil
}

// scanChunk reads up to one row more than the limit, which tells that there is more; last is the place of the row at
// the limit.
func (a *Archive) scanChunk(ctx context.Context, partition int, after place, until int64, limit int) (all []archive.Row, last place, err error) {
	rows, err := a.read[selectScan].QueryContext(ctx, partition, after.archived, after.key, until, limit+1)
	if err != nil {
		return nil, last, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var tokens string
		var key int64
		r, err := scanBare(rows, subject.Address{}, &tokens, &key)
		if err != nil {
			return nil, last, err
		}
		if r.Message.To, err = subject.ParseTokens(tokens); err != nil {
			return nil, last, err
		}
		if all = append(all, r); len(all) <= limit {
			last = place{r.Message.Archived, key}
		}
	}
	return all, last, rows.Err()
}

// SettledOf says of messages that are gone only where they were.
func (a *Archive) SettledOf(ctx context.Context, to subject.Address, from, upTo uint64) ([]archive.Settled, error) {
	states, err := a.states(ctx, to, from, upTo)
	if err != nil {
		return nil, fmt.Errorf("sqlite: receipts of %s: %w", to, err)
	}
	for i, s := range states {
		if i > 0 && states[i-1].Message.Seq == s.Message.Seq {
			states[i].Message = states[i-1].Message
			continue
		}
		rows, err := a.rows(ctx, to, selectRow, to.Tokens(), mailbox.Number(s.Message.Seq))
		if err != nil {
			return nil, fmt.Errorf("sqlite: receipts of %s: %w", to, err)
		}
		if len(rows) > 0 {
			states[i].Message = rows[0].Message
		}
	}
	return states, nil
}

// states are receipts whose messages are only their places.
func (a *Archive) states(ctx context.Context, to subject.Address, from, upTo uint64) (states []archive.Settled, err error) {
	rows, err := a.read[selectStates].QueryContext(ctx, to.Tokens(), mailbox.Number(from), mailbox.Number(upTo))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		s := archive.Settled{Message: &message.Message{To: to}}
		if err := rows.Scan(&s.Message.Seq, &s.Device, &s.State, &s.At); err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return states, rows.Err()
}
