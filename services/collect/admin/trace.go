package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// traceMost is how many addresses an answer shows; traceNamed is how many are searched where one is named.
	traceMost  = 100
	traceNamed = 10_000
	// tracesAtOnce is how many addresses are looked at at the same time.
	tracesAtOnce = 4
	// traceQuarantine is how many of the newest entries of the quarantine are searched, and traceSearch for how long.
	traceQuarantine = 20_000
	traceSearch     = 500 * time.Millisecond
	// traceLater is how many later messages of an address the log may have before one that was published again.
	traceLater = 200
)

// trace answers what became of the messages with an id.
func (d *Desk) trace(ctx context.Context, q admin.TraceRequest) (*admin.TraceAnswer, error) {
	to, err := checkTrace(&q)
	if err != nil {
		return nil, err
	}
	rows, copies, more, err := d.lookUp(ctx, q, to)
	if err != nil {
		return nil, err
	}
	aside, searched, err := d.searchQuarantine(ctx, q)
	if err != nil {
		return nil, err
	}
	answer := &admin.TraceAnswer{Traces: make([]admin.Traced, len(rows)), More: more}
	failed := make([]error, len(rows))
	eachOf(len(rows), tracesAtOnce, func(i int) {
		answer.Traces[i], failed[i] = d.tracing(ctx, rows[i], copies, aside)
	})
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	answer.Traces = append(answer.Traces, onlyAside(answer.Traces, aside)...)
	if len(answer.Traces) == 0 {
		return nil, problem.New(problem.NotFound, "no message of the tenant %s has the id %q%s: neither in the archive, which keeps %s, nor among %s in quarantine; mind the tenant and the spelling, and ask again in a moment if it was sent just now",
			q.Tenant, q.ID, at(q.To), lasting(d.Policy.Retention), searched).In("id")
	}
	return answer, nil
}

func at(to string) string {
	if to == "" {
		return ""
	}
	return " at " + to
}

// lasting is a time for which messages are kept, in days where it is some.
func lasting(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

// checkTrace completes the request; to is the address that it names, or zero.
func checkTrace(q *admin.TraceRequest) (to subject.Address, err error) {
	if q.ID == "" {
		return to, problem.New(problem.BadRequest, "say the message's id").In("id")
	}
	q.Tenant = cmp.Or(q.Tenant, subject.DefaultTenant)
	if err := subject.CheckID(q.Tenant); err != nil {
		return to, err
	}
	if q.To != "" {
		to, err = subject.ParseAddress(q.Tenant, q.To)
	}
	return to, err
}

// lookUp finds the rows with the id, those of users first, and the copies that forced replays made of them.
func (d *Desk) lookUp(ctx context.Context, q admin.TraceRequest, to subject.Address) (rows, copies []archive.Row, more bool, err error) {
	limit := traceMost + 1
	if q.To != "" {
		limit = traceNamed
	}
	rows, copies, err = d.Archive.Find(ctx, q.Tenant, q.ID, limit)
	if err != nil {
		return nil, nil, false, err
	}
	if q.To != "" {
		rows = slices.DeleteFunc(rows, func(r archive.Row) bool { return r.Message.To != to })
	}
	if len(rows) > traceMost {
		return rows[:traceMost], copies, true, nil
	}
	return rows, copies, false, nil
}

// searchQuarantine finds entries with the id among the newest, and says in words how many it looked at.
func (d *Desk) searchQuarantine(ctx context.Context, q admin.TraceRequest) (aside []admin.Quarantined, searched string, err error) {
	stream, err := d.JS.Stream(ctx, fabric.QuarantineStream)
	if err != nil {
		return nil, "", err
	}
	filter := admin.QuarantineRequest{Tenant: q.Tenant, To: q.To}
	if s := stream.CachedInfo().State; s.LastSeq-min(s.FirstSeq, s.LastSeq) >= traceQuarantine {
		filter.After = s.LastSeq - traceQuarantine
	}
	began, seen, all := time.Now(), 0, filter.After == 0
	_, err = d.eachQuarantined(ctx, filter, func(e admin.Quarantined) bool {
		if seen++; e.ID == q.ID {
			aside = append(aside, e)
		}
		if time.Since(began) > traceSearch {
			all = false
			return false
		}
		return true
	})
	if all {
		return aside, "what is", err
	}
	return aside, fmt.Sprintf("the %d messages that were looked at", seen), err
}

// onlyAside are the traces of what is in quarantine and at none of the addresses that were traced.
func onlyAside(traced []admin.Traced, aside []admin.Quarantined) []admin.Traced {
	var more []admin.Traced
	for _, e := range aside {
		if slices.ContainsFunc(traced, func(t admin.Traced) bool { return t.Message.Tenant == e.Tenant && t.Message.To == e.To }) {
			continue
		}
		to := e.To
		if to == "" {
			to = e.Subject
		}
		more = append(more, admin.Traced{
			Message: admin.Message{Tenant: e.Tenant, To: to, ID: e.ID, At: e.At, Size: e.Size},
			State:   string(message.StateQuarantined), Steps: []admin.Step{stepAside(e)},
		})
	}
	return more
}

func stepAside(e admin.Quarantined) admin.Step {
	return admin.Step{What: "quarantined", At: e.At, Detail: fmt.Sprintf("%s: %s (number %d)", e.Reason, e.Message, e.Number)}
}

// tracing is the trace of one message at one address.
func (d *Desk) tracing(ctx context.Context, r archive.Row, copies []archive.Row, aside []admin.Quarantined) (admin.Traced, error) {
	m := r.Message
	t := admin.Traced{Message: told(r)}
	p := subject.Partition(m.To, d.Archive.Facts().Partitions)
	ledger, err := d.Archive.Steps(ctx, m.To, m.Seq)
	if err != nil {
		return t, err
	}
	logged, err := d.stepLogged(ctx, r, p)
	if err != nil {
		return t, err
	}
	t.Steps = append(t.Steps, admin.Step{What: "accepted", At: m.At},
		admin.Step{What: "archived", At: m.Archived, Detail: fmt.Sprintf("partition %d, sequence %d", p, m.Seq)})
	t.Steps = append(append(t.Steps, logged...), stepRouted(ledger))
	devices, acked, pending, err := d.stepsOfDevices(ctx, r, ledger)
	if err != nil {
		return t, err
	}
	t.Steps = append(t.Steps, devices...)
	t.Steps = append(t.Steps, stepsOfEnd(r)...)
	for _, s := range ledger.States {
		t.Steps = append(t.Steps, admin.Step{What: "receipt", At: s.At, Device: s.Device, Detail: string(s.State)})
	}
	for _, e := range aside {
		if e.Tenant == m.To.Tenant && e.To == m.To.String() {
			t.Steps = append(t.Steps, stepAside(e))
		}
	}
	for _, c := range copies {
		if c.Message.To == m.To && strings.HasPrefix(c.Message.ID, m.ID+"~") {
			t.Copies = append(t.Copies, placeOf(c))
		}
	}
	t.State = stateOf(r, acked, pending)
	inOrder(t.Steps)
	return t, nil
}

// inOrder sorts steps by time; those without a time come last, in the order that they have.
func inOrder(steps []admin.Step) {
	slices.SortStableFunc(steps, func(a, b admin.Step) int {
		if (a.At == 0) != (b.At == 0) {
			return cmp.Compare(b.At, a.At)
		}
		return cmp.Compare(a.At, b.At)
	})
}

// stateOf is what became of a message in one word.
func stateOf(r archive.Row, acked, pending int) string {
	switch {
	case acked > 0 && pending > 0:
		return "partly"
	case acked > 0:
		return "delivered"
	case r.Why == message.WhyExpired || r.Why == "" && r.Message.Expired(time.Now()):
		return "expired"
	case r.Why == message.WhySuperseded:
		return "superseded"
	case r.Why != "":
		return "deleted"
	default:
		return "pending"
	}
}

// stepsOfEnd tell that a message will not be shown any more.
func stepsOfEnd(r archive.Row) []admin.Step {
	switch {
	case r.Message.Expired(time.Now()):
		return []admin.Step{{What: "expired", At: r.Message.Expires, Detail: "who has not acknowledged it is not shown it any more"}}
	case r.Why == message.WhyRetention:
		return []admin.Step{{What: "deleted", Detail: "older than the archive keeps; its place is kept, since it is the last of its address"}}
	case r.Why != "":
		return []admin.Step{{What: "deleted", Detail: string(r.Why)}}
	default:
		return nil
	}
}

// stepRouted tells when and where a message was routed. A report may join what was routed within a second, with the time
// of its end; who has acknowledged the message before had it by then.
func stepRouted(s archive.Steps) admin.Step {
	if s.Routed == nil {
		return admin.Step{What: "routed", Detail: "not reported"}
	}
	step := admin.Step{What: "routed", At: s.Routed.At, Node: strings.Join(s.Routed.Nodes, ", ")}
	for _, a := range s.Acked {
		step.At = min(step.At, a.At)
	}
	if len(s.Routed.Nodes) == 0 {
		step.Detail = "no node had the address"
	}
	return step
}

// stepLogged finds a message in the log, from when it was archived on. What is older than the log keeps, or was let
// expire before it was logged, has no step.
func (d *Desk) stepLogged(ctx context.Context, r archive.Row, p int) ([]admin.Step, error) {
	m, name := r.Message, fabric.MsgStream(p)
	c := from(jetstream.ConsumerConfig{FilterSubject: subject.Msg(p, m.To)}, 0, max(1, m.Archived-auditEarly.Milliseconds()))
	var steps []admin.Step
	later := 0
	err := d.walk(ctx, name, c, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) (more bool, err error) {
		e, ok := loggedOf(msg, meta.Sequence.Stream)
		if ok && e.seq == m.Seq && e.id == m.ID {
			steps = []admin.Step{{What: "logged", At: meta.Timestamp.UnixMilli(), Detail: fmt.Sprintf("%s, sequence %d", name, e.at)}}
			return false, nil
		}
		if ok && e.seq > m.Seq {
			later++
		}
		return later < traceLater, nil
	})
	if err != nil || steps != nil {
		return steps, err
	}
	stream, err := d.JS.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	if age := stream.CachedInfo().Config.MaxAge; r.Why != "" || m.Expired(time.Now()) || age > 0 && time.Since(time.UnixMilli(m.Archived)) > age {
		return nil, nil
	}
	return []admin.Step{{What: "logged", Detail: "not found in " + name}}, nil
}

// stepsOfDevices tell who has acknowledged a message, and who has not.
func (d *Desk) stepsOfDevices(ctx context.Context, r archive.Row, s archive.Steps) (steps []admin.Step, acked, pending int, err error) {
	m := r.Message
	if m.To.Kind != subject.User {
		return d.stepsOfShared(ctx, r)
	}
	inTime := slices.DeleteFunc(slices.Clone(s.Acked), func(a archive.Acked) bool { // what comes later passes over it
		return m.Expires != 0 && a.At >= m.Expires
	})
	for _, a := range inTime {
		steps = append(steps, admin.Step{What: "acknowledged", At: a.At, Node: a.Node, Device: a.Device})
	}
	acked = len(inTime)
	devices, err := d.Archive.Devices(ctx, m.To.Tenant, m.To.ID)
	if err != nil {
		return nil, 0, 0, err
	}
	where := d.where(ctx, m.To)
	gone := r.Why != "" || m.Expired(time.Now())
	for _, device := range devices {
		known := slices.ContainsFunc(inTime, func(a archive.Acked) bool { return a.Device == device.Device })
		switch {
		case device.To != m.To || known || device.Start >= m.Seq:
		case device.Cursor >= m.Seq && gone: // it passed over it
		case device.Cursor >= m.Seq:
			acked++
			steps = append(steps, admin.Step{What: "acknowledged", Device: device.Device, Detail: "it is not known when"})
		case gone:
			pending++
		default:
			pending++
			node, detail := where.of(device.Device)
			steps = append(steps, admin.Step{What: "pending", Device: device.Device, Node: node, Detail: detail})
		}
	}
	return steps, acked, pending, nil
}

// stepsOfShared counts the devices of a topic, or of all: there are too many to name.
func (d *Desk) stepsOfShared(ctx context.Context, r archive.Row) (steps []admin.Step, acked, pending int, err error) {
	m := r.Message
	standing, err := d.Archive.Standing(ctx, []subject.Address{m.To}, "")
	if err != nil {
		return nil, 0, 0, err
	}
	all := standing[m.To].Devices
	if m.To.Kind == subject.Topic && standing[m.To].Handled < m.Seq {
		filter := admin.Filter{Tenant: m.To.Tenant, Topic: m.To.ID}
		rows, err := d.Archive.Pending(ctx, filter, admin.Place{Address: m.To.Tokens(), Seq: m.Seq - 1}, time.Now().UnixMilli(), 1)
		if err != nil {
			return nil, 0, 0, err
		}
		if len(rows) > 0 && rows[0].Message.Seq == m.Seq {
			pending = rows[0].Devices
		}
	}
	if acked = all - pending; all == 0 {
		return []admin.Step{{What: "acknowledged", Detail: "nobody has subscribed so far"}}, 0, 0, nil
	}
	steps = []admin.Step{{What: "acknowledged", Detail: fmt.Sprintf("by %d of %d devices, or they came later; the slowest is at %d", acked, all, standing[m.To].Handled)}}
	return steps, acked, pending, nil
}
