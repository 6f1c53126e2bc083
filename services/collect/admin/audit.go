package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// auditYoung is how old a message must be to be judged: what is younger may be under way from the archive to the log,
	// whose leader takes up to 7 s to be elected after a kill.
	auditYoung = 12 * time.Second
	// auditRows is about how many rows a page compares, auditChunk how many at once, and auditWithin ends a page early.
	auditRows   = 50_000
	auditChunk  = 2500
	auditWithin = 1500 * time.Millisecond
	// auditBoxes is about how many addresses a page has at most: each may be asked about once more at its end. auditAtOnce is
	// how many of these questions are asked at the same time.
	auditBoxes  = 4000
	auditAtOnce = 8
	// ownerWithin is how long a partition's owner may take to say that the log has what it archived.
	ownerWithin = time.Second
	// auditNames is how many breaks a page names when nothing else is said, and auditNamesMost how many it may: the answer
	// must fit a NATS message of 1 MiB.
	auditNames     = 100
	auditNamesMost = 1000
)

// auditPlace is how far an audit of one partition has come: AuditPage.Next, as JSON. The quarantine comes first, then
// the rows of the archive in their order with the log beside them, then what the log has behind the last row.
type auditPlace struct {
	Until      int64  `json:"until"` // fixed by the first page
	Quarantine uint64 `json:"quarantine,omitempty"`
	Counted    bool   `json:"counted,omitempty"` // the quarantine is done
	Mark       string `json:"mark,omitempty"`    // archive.Inquiry.Scan's
	Scanned    bool   `json:"scanned,omitempty"` // the rows are done

	Begun bool   `json:"begun,omitempty"` // the log was looked at; else it begins by time
	Log   uint64 `json:"log,omitempty"`   // its sequence behind which the next page reads
	Read  uint64 `json:"read,omitempty"`  // its highest sequence that was read: what was archived before Till is done up to here
	Till  int64  `json:"till,omitempty"`
}

// auditing is one page of an audit.
type auditing struct {
	*Desk
	partition    int
	since, until int64     // ms since 1970, of archiving; until is not included
	now          time.Time // as of which messages have expired
	names        int       // breaks that may be named
	rows, chunk  int       // of the page, and of what is compared at once
	began        time.Time
	place        auditPlace
	page         *admin.AuditPage
	boxes        map[subject.Address]*audited
	broken       map[admin.Place]bool // so that a message that two rules find is one
	log          *auditLog
	ended        bool // the partition is done
	stalled      bool // the owner did not say that the log has what it archived
}

// audit compares the books of a partition, a page at a time. A page takes some 2 s at most, and its memory is bounded
// by the rows that it compares.
func (d *Desk) audit(ctx context.Context, q admin.AuditRequest) (*admin.AuditPage, error) {
	a, err := d.auditing(q, time.Now())
	if err != nil {
		return nil, err
	}
	return a.run(ctx, q)
}

// run does the page.
func (a *auditing) run(ctx context.Context, q admin.AuditRequest) (*admin.AuditPage, error) {
	defer a.log.close(ctx)
	if q.After == "" {
		if err := a.countIncoming(ctx); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{a.countQuarantine, a.compareRows, a.compareRest} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	a.page.Addresses = len(a.boxes)
	if !a.ended {
		next, err := json.Marshal(a.place)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		a.page.Next = string(next)
	}
	return a.page, nil
}

// auditing begins a page, as of a time.
func (d *Desk) auditing(q admin.AuditRequest, now time.Time) (*auditing, error) {
	partitions := d.Archive.Facts().Partitions
	if q.Partition < 0 || q.Partition >= partitions {
		return nil, problem.New(problem.BadRequest, "there is no partition %d; the fabric has 0 to %d", q.Partition, partitions-1).In("partition")
	}
	a := &auditing{
		Desk: d, partition: q.Partition, since: q.Since, now: now, names: min(q.Most, auditNamesMost), began: time.Now(),
		rows: auditRows, chunk: auditChunk,
		page:  &admin.AuditPage{Partitions: partitions},
		boxes: make(map[subject.Address]*audited), broken: make(map[admin.Place]bool),
	}
	if q.Most <= 0 {
		a.names = auditNames
	}
	if q.After != "" {
		if err := json.Unmarshal([]byte(q.After), &a.place); err != nil || a.place.Until == 0 {
			return nil, problem.New(problem.BadRequest, "%q is no place where a page has ended; hand back `next` as it came, or begin anew", q.After).In("after")
		}
	} else {
		a.place.Until = now.Add(-auditYoung).UnixMilli()
		if q.Until > 0 {
			a.place.Until = min(a.place.Until, q.Until)
		}
	}
	a.until = a.place.Until
	a.log = &auditLog{auditing: a}
	return a, nil
}

// late says whether the page has to end.
func (a *auditing) late() bool { return time.Since(a.began) > auditWithin }

// countIncoming counts what was accepted and is not archived yet.
func (a *auditing) countIncoming(ctx context.Context) error {
	stream, err := a.JS.Stream(ctx, fabric.InStream(a.partition))
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	a.page.Incoming = int(stream.CachedInfo().State.Msgs) //nolint:gosec // a stream never has so many
	return nil
}

// countQuarantine counts what came in for the partition and was set aside in the window.
func (a *auditing) countQuarantine(ctx context.Context) error {
	if a.place.Counted {
		return nil
	}
	came := strings.TrimSuffix(subject.InFilter(a.partition), ">")
	c := from(jetstream.ConsumerConfig{HeadersOnly: true}, a.place.Quarantine, a.since)
	a.place.Counted = true
	return a.walk(ctx, fabric.QuarantineStream, c, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (more bool, err error) {
		if meta.Timestamp.UnixMilli() >= a.until {
			return false, nil
		}
		if a.place.Counted = !a.late(); !a.place.Counted {
			return false, nil
		}
		a.place.Quarantine = meta.Sequence.Stream
		if strings.HasPrefix(m.Headers().Get(quarantine.HeaderSubject), came) {
			a.page.Balance.Accepted++
			a.page.Balance.Quarantined++
		}
		return true, nil
	})
}

// compareRows goes over the archive's rows, some thousand at a time, with the log beside them.
func (a *auditing) compareRows(ctx context.Context) error {
	for rows := 0; a.place.Counted && !a.place.Scanned && !a.late() && rows < a.rows && len(a.boxes) < auditBoxes; {
		chunk, mark, err := a.Archive.Scan(ctx, a.partition, a.since, a.until, a.place.Mark, a.chunk)
		if err != nil {
			return err
		}
		if err := a.enter(ctx, chunk); err != nil {
			return err
		}
		if err := a.log.compare(ctx, chunk); err != nil {
			return err
		}
		rows += len(chunk)
		a.place.Mark, a.place.Scanned = mark, mark == ""
	}
	return a.checkEnds(ctx)
}

// compareRest goes over what the log has of the window behind the last row.
func (a *auditing) compareRest(ctx context.Context) (err error) {
	if a.place.Scanned {
		a.ended, err = a.log.rest(ctx)
	}
	a.log.stop()
	return err
}

// balance puts one row where it belongs.
func (a *auditing) balance(ctx context.Context, r archive.Row, b *audited) error {
	n := &a.page.Balance
	n.Accepted++
	m := r.Message
	handled := m.To.Kind == subject.User && m.Seq <= b.standing.Handled
	expired := r.Why == message.WhyExpired || r.Why == "" && m.Expired(a.now)
	if expired && handled {
		var err error
		if handled, err = a.inTime(ctx, r); err != nil {
			return err
		}
	}
	switch {
	case handled:
		n.Delivered++
	case expired:
		n.Expired++
	case r.Why == message.WhySuperseded:
		n.Superseded++
	case r.Why != "": // deleted, or older than the archive keeps
		n.Deleted++
	case m.To.Kind != subject.User:
		n.Delivered++
	default:
		n.Pending++
	}
	return nil
}

// published says whether the log has been given all that was archived until now: the partition's owner works on one batch
// after the other and ends each with the log, so an answer to a request that stood behind them tells it, though it is a
// refusal. Without an answer, or while the owner says that something does not take its work, what is not in the log is under
// way, for as long as that lasts; without an owner the next one publishes it.
func (a *auditing) published(ctx context.Context) bool {
	if a.stalled {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, ownerWithin)
	defer cancel()
	_, err := rpc.Send(ctx, a.NATS, &nats.Msg{Subject: subject.Collect(a.partition)})
	refusal, told := errors.AsType[*problem.Problem](err)
	a.stalled = !told || refusal.Retry
	return !a.stalled
}

// inTime says whether a device acknowledged a message before it expired: later cursors pass over it.
func (a *auditing) inTime(ctx context.Context, r archive.Row) (bool, error) {
	steps, err := a.Archive.Steps(ctx, r.Message.To, r.Message.Seq)
	if err != nil {
		return false, err
	}
	for _, acked := range steps.Acked {
		if acked.At < r.Message.Expires {
			return true, nil
		}
	}
	return false, nil
}
