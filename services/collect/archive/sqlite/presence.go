package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

// presenceTables are made in any file that lacks them: nothing of before has to be brought along. Present has the users
// that are at a node, attendances those about whom there is something to say soon; both are few of many.
const presenceTables = `
CREATE TABLE IF NOT EXISTS presence (
	user TEXT NOT NULL, node TEXT NOT NULL, number INTEGER NOT NULL, held INTEGER NOT NULL, at INTEGER NOT NULL,
	noted INTEGER NOT NULL, PRIMARY KEY (user, node)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS present ON presence (node, number) WHERE held = 1;
CREATE INDEX IF NOT EXISTS absent ON presence (noted) WHERE held = 0;
CREATE TABLE IF NOT EXISTS nodes (
	node TEXT PRIMARY KEY, rest INTEGER NOT NULL, silent INTEGER NOT NULL, gone INTEGER NOT NULL, noted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attendances (
	user TEXT PRIMARY KEY, partition INTEGER NOT NULL, told INTEGER NOT NULL, turn INTEGER NOT NULL, at INTEGER NOT NULL,
	open INTEGER NOT NULL, due INTEGER NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS due ON attendances (partition, due) WHERE ` + isDue + `;
CREATE INDEX IF NOT EXISTS told ON attendances (at) WHERE ` + isOver + `;
CREATE TABLE IF NOT EXISTS marks (partition INTEGER PRIMARY KEY, since INTEGER NOT NULL, after TEXT NOT NULL);`

const (
	isDue  = `due < 9223372036854775807`                           // archive.NotDue
	isOver = `told = 0 AND open = 0 AND due = 9223372036854775807` // nothing is to be said any more

	upsertNode = `INSERT INTO nodes VALUES (?, ?, 0, ?, ?) ON CONFLICT DO UPDATE SET
		rest = max(rest, excluded.rest), silent = 0, gone = max(gone, excluded.gone), noted = excluded.noted`
	selectRest     = `SELECT rest FROM nodes WHERE node = ?`
	upsertPresence = `INSERT INTO presence VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
		number = excluded.number, held = excluded.held, at = excluded.at, noted = excluded.noted WHERE number < excluded.number`
	// A user who is where and how he was is named again after a doubt; nobody has to look.
	refreshPresence = `UPDATE presence SET number = ? WHERE user = ? AND node = ? AND held = ? AND number < ?`
	selectPresent   = `SELECT user FROM presence WHERE node = ? AND held = 1 AND number < ? LIMIT ?`
	clearPresent    = `UPDATE presence SET held = 0, at = max(at, ?), noted = ? WHERE user = ? AND node = ?`
	upsertDue       = `INSERT INTO attendances VALUES (?, ?, 0, 0, 0, 0, ?, 1) ON CONFLICT DO UPDATE SET
		due = min(due, excluded.due), revision = revision + 1`
	silenceNode = `UPDATE nodes SET silent = 1, noted = ? WHERE node = ? AND silent = 0
		AND NOT EXISTS (SELECT 1 FROM presence p WHERE p.node = nodes.node AND held = 1)`
	selectNodes = `SELECT node, silent FROM nodes WHERE gone = 0 ORDER BY node`

	// A user of whom no node says anything any more went when that was noted; nobody knows when better than the archive.
	selectDue = `SELECT a.user, told, turn, a.at, open, due, revision,
			coalesce(max(p.held), 0), coalesce(min(p.at) FILTER (WHERE p.held = 1), max(p.at), 0), coalesce(max(p.noted), 0)
		FROM (SELECT * FROM attendances WHERE partition = ? AND due <= ? AND ` + isDue + ` ORDER BY due LIMIT ?) a
		LEFT JOIN presence p ON p.user = a.user GROUP BY a.user ORDER BY due`
	attend = `UPDATE attendances SET told = ?, turn = ?, at = ?, open = ?, due = ?, revision = revision + 1 WHERE user = ? AND revision = ?`
	said   = `UPDATE attendances SET open = 0 WHERE user = ? AND turn = ?`

	forgetAbsent = `DELETE FROM presence WHERE (user, node) IN (SELECT user, node FROM presence WHERE held = 0 AND noted < ? LIMIT ?)`
	forgetNodes  = `DELETE FROM nodes WHERE noted < ? AND (gone = 1 OR silent = 1)`
	forgetUsers  = `DELETE FROM attendances WHERE user IN (SELECT user FROM attendances WHERE at < ? AND ` + isOver + ` LIMIT ?)
		AND NOT EXISTS (SELECT 1 FROM presence p WHERE p.user = attendances.user)`

	insertMark = `INSERT INTO marks VALUES (?, ?, ?) ON CONFLICT DO NOTHING`
	selectMark = `SELECT since, after FROM marks WHERE partition = ?`
	moveMark   = `UPDATE marks SET since = ?, after = ? WHERE partition = ? AND since = ? AND after = ?`

	presenceChunk = 500 // users of one transaction
)

// presenceReading and presenceWriting are the statements of this file.
func presenceReading() []string { return []string{selectDue, selectNodes, selectMark} }

func presenceWriting() []string {
	return []string{
		upsertNode, selectRest, refreshPresence, upsertPresence, selectPresent, clearPresent, upsertDue, silenceNode, attend, said,
		forgetAbsent, forgetNodes, forgetUsers, insertMark, selectMark, moveMark,
	}
}

// Report stores reports, each in a transaction of its own with others' beside it.
func (a *Archive) Report(ctx context.Context, reports []archive.Report, now time.Time, grace time.Duration) error {
	for _, r := range reports {
		err := a.change(ctx, func(ctx context.Context, tx prepared) error { return a.report(ctx, tx, r, now.UnixMilli(), grace) })
		if err == nil && r.Rest > 0 {
			err = a.clear(ctx, r.Node, r.Rest, r.At, now.UnixMilli(), grace)
		}
		if err != nil {
			return fmt.Errorf("sqlite: presence at %s: %w", r.Node, err)
		}
	}
	return nil
}

func (a *Archive) report(ctx context.Context, tx prepared, r archive.Report, now int64, grace time.Duration) error {
	if _, err := tx[upsertNode].ExecContext(ctx, r.Node, mailbox.Number(r.Rest), r.Leaving, now); err != nil {
		return err
	}
	var rest int64
	if err := tx[selectRest].QueryRowContext(ctx, r.Node).Scan(&rest); err != nil {
		return err
	}
	for _, seen := range r.Users {
		seen.On = seen.On && mailbox.Number(r.Number) >= rest
		changed, err := see(ctx, tx, r.Node, mailbox.Number(r.Number), seen, now)
		if err != nil {
			return err
		}
		due := now
		if !seen.On {
			due += grace.Milliseconds()
		}
		if changed {
			err = a.touch(ctx, tx, seen.User, due)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// see stores that a user has sessions at a node, or none, and says whether that is news.
func see(ctx context.Context, tx prepared, node string, number int64, seen ledger.Seen, now int64) (changed bool, err error) {
	n, err := affected(tx[refreshPresence].ExecContext(ctx, number, seen.User, node, seen.On, number))
	if err != nil || n > 0 {
		return false, err
	}
	n, err = affected(tx[upsertPresence].ExecContext(ctx, seen.User, node, number, seen.On, seen.At, now))
	return n > 0, err
}

// touch makes a user due.
func (a *Archive) touch(ctx context.Context, tx prepared, user string, due int64) error {
	to, err := subject.ParseTokens(user)
	if err != nil {
		return err
	}
	_, err = tx[upsertDue].ExecContext(ctx, user, subject.Partition(to, a.facts.Partitions), due)
	return err
}

// Silence stores that a node can't be reached: last, since nobody asks for it again once it is stored.
func (a *Archive) Silence(ctx context.Context, node string, at int64, now time.Time, grace time.Duration) error {
	err := a.clear(ctx, node, archive.NotDue, at, now.UnixMilli(), grace)
	if err == nil {
		err = a.change(ctx, func(ctx context.Context, tx prepared) error {
			_, err := tx[silenceNode].ExecContext(ctx, now.UnixMilli(), node)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("sqlite: silence of %s: %w", node, err)
	}
	return nil
}

// clear notes that the users whom a node named last under a lower number than below are not there. What they were named
// under stays: a report of before changes nothing.
func (a *Archive) clear(ctx context.Context, node string, below uint64, at, now int64, grace time.Duration) error {
	for {
		var users []string
		err := a.change(ctx, func(ctx context.Context, tx prepared) (err error) {
			users, err = list(tx[selectPresent].QueryContext(ctx, node, mailbox.Number(below), presenceChunk))
			if err != nil {
				return err
			}
			for _, user := range users {
				if _, err := tx[clearPresent].ExecContext(ctx, at, now, user, node); err != nil {
					return err
				}
				if err := a.touch(ctx, tx, user, now+grace.Milliseconds()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(users) < presenceChunk {
			return err
		}
	}
}

// list reads rows of one text.
func list(rows *sql.Rows, err error) (all []string, _ error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // its error is that of Err
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// Nodes returns the nodes that may have users.
func (a *Archive) Nodes(ctx context.Context) (nodes []archive.Node, err error) {
	rows, err := a.read[selectNodes].QueryContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqlite: nodes: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var n archive.Node
		if err := rows.Scan(&n.ID, &n.Silent); err != nil {
			return nil, fmt.Errorf("sqlite: nodes: %w", err)
		}
		nodes = append(nodes, n)
	}
	return nodes, rows.Err()
}

// Due returns users about whom there may be something to say.
func (a *Archive) Due(ctx context.Context, partition int, now time.Time, limit int) (due []archive.Attendance, err error) {
	rows, err := a.read[selectDue].QueryContext(ctx, partition, now.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("sqlite: due users: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var u archive.Attendance
		var user string
		if err := rows.Scan(&user, &u.Told, &u.Turn, &u.At, &u.Open, &u.Due, &u.Revision, &u.On, &u.Since, &u.Noted); err != nil {
			return nil, fmt.Errorf("sqlite: due users: %w", err)
		}
		if u.User, err = subject.ParseTokens(user); err != nil {
			return nil, fmt.Errorf("sqlite: due users: %w", err)
		}
		due = append(due, u)
	}
	return due, rows.Err()
}

// Attend stores what was decided, where nothing new is known.
func (a *Archive) Attend(ctx context.Context, some []archive.Attendance) ([]bool, error) {
	held := make([]bool, len(some))
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		for i, u := range some {
			n, err := affected(tx[attend].ExecContext(ctx, u.Told, mailbox.Number(u.Turn), u.At, u.Open, u.Due, u.User.Tokens(), mailbox.Number(u.Revision)))
			if err != nil {
				return err
			}
			held[i] = n == 1
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sqlite: attend: %w", err)
	}
	return held, nil
}

// Said stores that events are published.
func (a *Archive) Said(ctx context.Context, some []archive.Attendance) error {
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		for _, u := range some {
			if _, err := tx[said].ExecContext(ctx, u.User.Tokens(), mailbox.Number(u.Turn)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sqlite: said: %w", err)
	}
	return nil
}

// Forget removes what is of no use any more, in chunks.
func (a *Archive) Forget(ctx context.Context, reports, users time.Time) error {
	for _, step := range []struct {
		statement string
		before    time.Time
	}{{forgetAbsent, reports}, {forgetUsers, users}} {
		for n := presenceChunk; n == presenceChunk; {
			err := a.change(ctx, func(ctx context.Context, tx prepared) (err error) {
				n, err = affected(tx[step.statement].ExecContext(ctx, step.before.UnixMilli(), presenceChunk))
				return err
			})
			if err != nil {
				return fmt.Errorf("sqlite: forget presence: %w", err)
			}
		}
	}
	err := a.change(ctx, func(ctx context.Context, tx prepared) error {
		_, err := tx[forgetNodes].ExecContext(ctx, reports.UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlite: forget nodes: %w", err)
	}
	return nil
}

// Mark returns a partition's mark.
func (a *Archive) Mark(ctx context.Context, partition int, first archive.Mark) (m archive.Mark, err error) {
	err = a.read[selectMark].QueryRowContext(ctx, partition).Scan(&m.Since, &m.After)
	if errors.Is(err, sql.ErrNoRows) {
		err = a.change(ctx, func(ctx context.Context, tx prepared) error {
			if _, err := tx[insertMark].ExecContext(ctx, partition, first.Since, first.After); err != nil {
				return err
			}
			return tx[selectMark].QueryRowContext(ctx, partition).Scan(&m.Since, &m.After)
		})
	}
	if err != nil {
		return m, fmt.Errorf("sqlite: mark of partition %d: %w", partition, err)
	}
	return m, nil
}

// MoveMark replaces a partition's mark.
func (a *Archive) MoveMark(ctx context.Context, partition int, from, to archive.Mark) (moved bool, err error) {
	err = a.change(ctx, func(ctx context.Context, tx prepared) error {
		n, err := affected(tx[moveMark].ExecContext(ctx, to.Since, to.After, partition, from.Since, from.After))
		moved = n == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("sqlite: mark of partition %d: %w", partition, err)
	}
	return moved, nil
}
