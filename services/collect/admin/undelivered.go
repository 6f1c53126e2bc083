package admin

import (
	"context"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// rowsUsual and rowsMost are how many rows a page of undelivered messages has, and pageBytes about how many bytes:
	// the answer must fit a NATS message of 1 MiB.
	rowsUsual = 100
	rowsMost  = 1000
	pageBytes = 512 << 10
	// pendingMost is how many rows the archive is asked for at once: without payloads, some hundred bytes each.
	pendingMost = 10_000
	// countMost and countWithin end the counting of a total.
	countMost   = 1_000_000
	countWithin = 2 * time.Second
	// searchWithin is how long rows are looked for that are of the reason asked for; then the page ends, with fewer.
	searchWithin = time.Second
)

// undelivered answers with a page of messages that nobody has acknowledged, and, if asked to, counts them all.
func (d *Desk) undelivered(ctx context.Context, q admin.UndeliveredRequest) (*admin.UndeliveredPage, error) {
	if err := checkFilter(q.Filter); err != nil {
		return nil, err
	}
	limit := q.Limit
	if limit <= 0 {
		limit = rowsUsual
	}
	// As of one moment, so that what expires meanwhile is not in the rows and missing in the total.
	r := d.reasoning(q.Filter)
	now := time.Now()
	page, err := d.listPending(ctx, q, r, now, min(limit, rowsMost))
	if err != nil || !q.Count {
		return page, err
	}
	page.Total, err = d.countPending(ctx, q.Filter, r, now)
	return page, err
}

// listPending makes the page's rows.
func (d *Desk) listPending(ctx context.Context, q admin.UndeliveredRequest, r *reasoning, now time.Time, limit int) (*admin.UndeliveredPage, error) {
	page := &admin.UndeliveredPage{Messages: []admin.Message{}}
	ask := limit + 1 // one more tells whether there is another page
	if q.Reason != "" {
		ask = rowsMost // most may be passed over
	}
	after, size := q.After, 0
	for began := time.Now(); ; {
		rows, err := d.Archive.Pending(ctx, q.Filter, after, now.UnixMilli(), ask)
		if err != nil {
			return nil, err
		}
		reasons, err := r.of(ctx, rows)
		if err != nil {
			return nil, err
		}
		for i, row := range rows {
			if q.Reason == "" || reasons[i] == q.Reason {
				if len(page.Messages) == limit || size > pageBytes {
					page.Next = &after
					return page, nil
				}
				m := told(row)
				m.Reason = reasons[i]
				page.Messages = append(page.Messages, m)
				size += sizeOf(m)
			}
			after = placeOf(row)
		}
		if len(rows) < ask {
			return page, nil
		}
		if time.Since(began) > searchWithin {
			page.Next = &after
			return page, nil
		}
	}
}

// countPending counts all that a filter chooses.
func (d *Desk) countPending(ctx context.Context, f admin.Filter, r *reasoning, now time.Time) (*admin.Total, error) {
	total := &admin.Total{Reasons: make(map[admin.Reason]int)}
	var after admin.Place
	var last subject.Address
	for began, seen := time.Now(), 0; ; {
		rows, err := d.Archive.Pending(ctx, f, after, now.UnixMilli(), pendingMost)
		if err != nil {
			return nil, err
		}
		reasons, err := r.of(ctx, rows)
		if err != nil {
			return nil, err
		}
		for i, row := range rows {
			if f.Reason != "" && reasons[i] != f.Reason {
				continue
			}
			m := row.Message
			if total.Messages++; m.To != last {
				total.Users++
				last = m.To
			}
			if total.Oldest == 0 || m.Archived < total.Oldest {
				total.Oldest = m.Archived
			}
			total.Newest = max(total.Newest, m.Archived)
			if reasons[i] != "" {
				total.Reasons[reasons[i]]++
			}
		}
		if len(rows) < pendingMost {
			return total, nil
		}
		after = placeOf(rows[len(rows)-1])
		if seen += len(rows); seen >= countMost || time.Since(began) > countWithin {
			total.AtLeast = true
			return total, nil
		}
	}
}

// checkFilter refuses a filter that chooses nothing that anybody can mean.
func checkFilter(f admin.Filter) error {
	bad := func(field, message string) error { return problem.New(problem.BadRequest, "%s", message).In(field) }
	switch {
	case f.User != "" && f.Topic != "":
		return bad("topic", "a message goes to a user or to a topic; ask for one of them")
	case f.Device != "" && f.User == "":
		return bad("device", "a device belongs to a user; say whose")
	case f.Until != 0 && f.Until <= f.Since:
		return bad("until", "until is not after since, so nothing lies between them")
	case f.Reason != "" && f.Topic != "":
		return bad("reason", "only what waits for users has a reason; ask for a topic without one")
	}
	switch f.Reason {
	case "", admin.ReasonAway, admin.ReasonHeld, admin.ReasonNobody:
	default:
		return bad("reason", "the reason is away, held or nobody")
	}
	_, _, err := addressOf(f)
	return err
}

// addressOf is the one address that a filter names, if it does.
func addressOf(f admin.Filter) (to subject.Address, one bool, err error) {
	for _, id := range []string{f.Tenant, f.User, f.Topic} {
		if id == "" {
			continue
		}
		if err := subject.CheckID(id); err != nil {
			return to, false, err
		}
	}
	to = subject.Address{Tenant: f.Tenant, Kind: subject.User, ID: f.User}
	if f.Topic != "" {
		to.Kind, to.ID = subject.Topic, f.Topic
	}
	return to, to.Tenant != "" && to.ID != "", nil
}

// reasoning finds out why messages were not acknowledged.
type reasoning struct {
	desk   *Desk
	filter admin.Filter
	known  map[subject.Address]admin.Reason // of users, some of those that were asked about last
	away   bool                             // Redis does not answer: no reason is known
}

func (d *Desk) reasoning(f admin.Filter) *reasoning {
	return &reasoning{desk: d, filter: f, known: make(map[subject.Address]admin.Reason)}
}

// reasonsAtOnce is how many users are looked up in one go, and reasonsKept how many reasons are remembered.
const (
	reasonsAtOnce = 1000
	reasonsKept   = 20_000
)

// of returns the reason of each row; empty where it is not known. Without Redis none is, which is an error only when a
// reason was asked for.
func (r *reasoning) of(ctx context.Context, rows []archive.Row) ([]admin.Reason, error) {
	reasons := make([]admin.Reason, len(rows))
	if len(r.known) > reasonsKept {
		clear(r.known)
	}
	var users []subject.Address
	for i, row := range rows {
		to := row.Message.To
		if _, known := r.known[to]; known || to.Kind != subject.User || i > 0 && rows[i-1].Message.To == to {
			continue
		}
		users = append(users, to)
	}
	for len(users) > 0 && !r.away {
		n := min(len(users), reasonsAtOnce)
		if err := r.learn(ctx, users[:n]); err != nil {
			return nil, err
		}
		users = users[n:]
	}
	for i, row := range rows {
		reasons[i] = r.known[row.Message.To]
	}
	return reasons, nil
}

// learn looks users up: in Redis whether they are connected, and of the others in the archive whether they ever were.
func (r *reasoning) learn(ctx context.Context, users []subject.Address) error {
	connected, err := r.desk.Table.Devices(ctx, users)
	if err != nil {
		r.away = true
		r.desk.Log.Warn("Redis does not say who is connected", "err", err)
		if r.filter.Reason != "" {
			return problem.New(problem.Unavailable, "Redis does not answer, so nobody knows who is connected; ask without a reason, or try again in a moment")
		}
		return nil
	}
	var absent []subject.Address
	for i, devices := range connected {
		_, held := devices[r.filter.Device]
		switch {
		case devices == nil: // unknown
		case held, r.filter.Device == "" && len(devices) > 0:
			r.known[users[i]] = admin.ReasonHeld
		default:
			absent = append(absent, users[i])
		}
	}
	if len(absent) == 0 {
		return nil
	}
	standing, err := r.desk.Archive.Standing(ctx, absent, "")
	if err != nil {
		return err
	}
	for _, user := range absent {
		if r.known[user] = admin.ReasonAway; standing[user].Devices == 0 {
			r.known[user] = admin.ReasonNobody
		}
	}
	return nil
}

// told is a row as operators see it.
func told(row archive.Row) admin.Message {
	m := row.Message
	return admin.Message{
		Tenant: m.To.Tenant, To: m.To.String(), Seq: m.Seq, ID: m.ID, Type: m.Type, At: m.At, Archived: m.Archived, Expires: m.Expires,
		Size: row.Size, Again: m.Again, Receipt: m.Receipt, Why: row.Why, Devices: row.Devices,
	}
}

// sizeOf is about how many bytes a message takes in an answer: each byte of a string can take six in JSON.
func sizeOf(m admin.Message) int { return 6*(len(m.ID)+len(m.Type)+len(m.Tenant)+len(m.To)) + 200 }

func placeOf(row archive.Row) admin.Place {
	return admin.Place{Address: row.Message.To.Tokens(), Seq: row.Message.Seq}
}
