package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// wanted is what a filter and the time leave of the messages of a mailbox.
	wanted = ` AND m.why = '' AND (m.expires = 0 OR m.expires > ?) AND m.archived >= ? AND m.archived < ? AND (? = '' OR m.type = ?)`

	// The walk goes over the mailboxes that are behind, in order, and from each to its messages above what was handled.
	selectBehind = `SELECT ` + bare + `, address FROM mailboxes b INDEXED BY behind CROSS JOIN messages m ON m.mailbox = b.key
		WHERE ` + isBehind + ` AND b.address >= ? AND b.address < ?
		AND m.seq > max(b.handled, CASE b.address WHEN ? THEN ? ELSE 0 END)` + wanted + ` ORDER BY b.address, m.seq LIMIT ?`
	selectAbove = `SELECT ` + bare + ` FROM mailboxes b CROSS JOIN messages m ON m.mailbox = b.key
		WHERE b.address = ? AND m.seq > ?` + wanted + ` ORDER BY m.seq LIMIT ?`

	selectHead           = `SELECT coalesce((SELECT head FROM mailboxes WHERE address = ?), 0), count(*), `
	selectStanding       = selectHead + `coalesce(max(seq), 0) FROM cursors WHERE tenant = ? AND user = ? AND address = ?`
	selectStandingOf     = selectStanding + ` AND device = ?`
	selectStandingShared = selectHead + `coalesce(min(seq), 0) FROM cursors INDEXED BY subscribed WHERE address = ? AND ` + isShared

	selectUnacked     = `SELECT count(*) FROM cursors INDEXED BY subscribed WHERE address = ? AND ` + isShared + ` AND seq < ?`
	selectUnackedEach = `SELECT seq, count(*) FROM cursors INDEXED BY subscribed
		WHERE address = ? AND ` + isShared + ` AND seq >= ? AND seq < ? GROUP BY seq ORDER BY seq`

	selectTenant = `SELECT address FROM mailboxes WHERE address >= ? ORDER BY address LIMIT 1`
)

// Pending walks the mailboxes that are behind, or looks at those that the filter names. A topic's User and a Device
// without its User are not looked at.
func (a *Archive) Pending(ctx context.Context, f admin.Filter, after admin.Place, now int64, limit int) ([]archive.Row, error) {
	if f.Until == 0 {
		f.Until = math.MaxInt64
	}
	if f.User == "" && f.Topic == "" {
		rows, err := a.behind(ctx, f, after, now, limit)
		if err != nil {
			return nil, fmt.Errorf("sqlite: pending: %w", err)
		}
		return rows, nil
	}
	named, err := a.named(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("sqlite: pending: %w", err)
	}
	var found []archive.Row
	for _, to := range named {
		tokens := to.Tokens()
		if tokens < after.Address || len(found) >= limit {
			continue
		}
		above := uint64(0)
		if tokens == after.Address {
			above = after.Seq
		}
		rows, err := a.above(ctx, to, f, above, now, limit-len(found))
		if err != nil {
			return nil, fmt.Errorf("sqlite: pending of %s: %w", to, err)
		}
		found = append(found, rows...)
	}
	return found, nil
}

// behind is Pending of all users, of one tenant or of all.
func (a *Archive) behind(ctx context.Context, f admin.Filter, after admin.Place, now int64, limit int) ([]archive.Row, error) {
	from, before := "", "\xff"
	if f.Tenant != "" {
		from = strings.TrimSuffix(subject.UserAddress(f.Tenant, "x").Tokens(), "x")
		before = strings.TrimSuffix(from, ".") + "/" // what comes after the dot
	}
	return a.rows(ctx, subject.Address{}, selectBehind, max(from, after.Address), before, after.Address, mailbox.Number(after.Seq),
		now, f.Since, f.Until, f.Type, f.Type, limit)
}

// named are the mailboxes that the filter names, in the order of their tokens.
func (a *Archive) named(ctx context.Context, f admin.Filter) ([]subject.Address, error) {
	tenants := []string{f.Tenant}
	if f.Tenant == "" {
		var err error
		if tenants, err = a.tenants(ctx); err != nil {
			return nil, err
		}
	}
	named := make([]subject.Address, len(tenants))
	for i, tenant := range tenants {
		named[i] = subject.UserAddress(tenant, f.User)
		if f.Topic != "" {
			named[i] = subject.Address{Tenant: tenant, Kind: subject.Topic, ID: f.Topic}
		}
	}
	return named, nil
}

// tenants are those that have mailboxes, in the order of their tokens. It looks once for each.
func (a *Archive) tenants(ctx context.Context) ([]string, error) {
	var tenants []string
	for from := ""; ; {
		var tokens string
		err := a.read[selectTenant].QueryRowContext(ctx, from).Scan(&tokens)
		if errors.Is(err, sql.ErrNoRows) {
			return tenants, nil
		}
		if err != nil {
			return nil, err
		}
		to, err := subject.ParseTokens(tokens)
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, to.Tenant)
		from = subject.Encode(to.Tenant) + "/" // after all that begins with the tenant and a dot
	}
}

// above is Pending of one mailbox.
func (a *Archive) above(ctx context.Context, to subject.Address, f admin.Filter, after uint64, now int64, limit int) ([]archive.Row, error) {
	s, err := a.standing(ctx, to, f.Device)
	if err != nil {
		return nil, err
	}
	found, err := a.rows(ctx, to, selectAbove, to.Tokens(), mailbox.Number(max(after, s.Handled)), now, f.Since, f.Until, f.Type, f.Type, limit)
	if err != nil || to.Kind == subject.User {
		return found, err
	}
	return found, a.countDevices(ctx, to, found)
}

// countDevices says of each row of a shared mailbox how many devices are below it. It looks at each device once.
func (a *Archive) countDevices(ctx context.Context, to subject.Address, found []archive.Row) (err error) {
	if len(found) == 0 {
		return nil
	}
	first, last := mailbox.Number(found[0].Message.Seq), mailbox.Number(found[len(found)-1].Message.Seq)
	var below int
	if err := a.read[selectUnacked].QueryRowContext(ctx, to.Tokens(), first).Scan(&below); err != nil {
		return err
	}
	rows, err := a.read[selectUnackedEach].QueryContext(ctx, to.Tokens(), first, last)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	next := 0 // the row to count for
	for rows.Next() {
		var seq uint64
		var devices int
		if err := rows.Scan(&seq, &devices); err != nil {
			return err
		}
		for ; next < len(found) && found[next].Message.Seq <= seq; next++ {
			found[next].Devices = below
		}
		below += devices
	}
	for ; next < len(found); next++ {
		found[next].Devices = below
	}
	return rows.Err()
}

// Standing looks at each mailbox and its cursors as of one moment.
func (a *Archive) Standing(ctx context.Context, addresses []subject.Address, device string) (map[subject.Address]archive.Standing, error) {
	all := make(map[subject.Address]archive.Standing, len(addresses))
	for _, to := range addresses {
		s, err := a.standing(ctx, to, device)
		if err != nil {
			return nil, fmt.Errorf("sqlite: standing of %s: %w", to, err)
		}
		all[to] = s
	}
	return all, nil
}

// standing is how one mailbox stands. Where nobody is there to acknowledge, of a topic or for a device without a place,
// nothing is left to be handled.
func (a *Archive) standing(ctx context.Context, to subject.Address, device string) (s archive.Standing, err error) {
	tokens := to.Tokens()
	var row *sql.Row
	switch {
	case to.Kind != subject.User:
		row = a.read[selectStandingShared].QueryRowContext(ctx, tokens, tokens)
	case device != "":
		row = a.read[selectStandingOf].QueryRowContext(ctx, tokens, to.Tenant, to.ID, tokens, device)
	default:
		row = a.read[selectStanding].QueryRowContext(ctx, tokens, to.Tenant, to.ID, tokens)
	}
	err = row.Scan(&s.Head, &s.Devices, &s.Handled)
	if s.Devices == 0 && (to.Kind != subject.User || device != "") {
		s.Handled = s.Head
	}
	return s, err
}
