package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	// replayUsual is how many messages of a page match, and replayMost the most that a caller can ask for.
	replayUsual = 1000
	replayMost  = 10_000
	// replayWithin is after how long a page begins nothing more, and persistFor how long it tries again what cannot be done
	// for the moment: a partition that changes its owner, a session that has no room. All of it ends after workWithin.
	replayWithin = time.Second
	persistFor   = 2500 * time.Millisecond
	workWithin   = answerWithin - 500*time.Millisecond
	// stepMost and stepBytes bound a step, which holds its messages in memory, and a frame to dispatch. A larger message is
	// alone in both.
	stepMost  = 256
	stepBytes = 256 << 10
	// copyMost is the most messages of a step of a forced replay: the copies of one address are archived one after the
	// other, and a slow archive must be through with them within the answer's time.
	copyMost = 32
	// runMost is the most bytes of a replay's id: it becomes a part of the ids of copies.
	runMost = 64
)

// run is one page of a replay. What it did is in page, whose position moves step by step, each time all before it is
// done: after a failure the caller goes on there, and at most one step is done twice.
type run struct {
	*Desk
	q       admin.ReplayRequest
	to      subject.Address // if one is set, the one address that the filter names
	single  bool
	page    *admin.ReplayPage
	limit   int
	began   time.Time
	reasons *reasoning
	borders map[int]int64 // by partition
}

// replay does one page.
func (d *Desk) replay(ctx context.Context, q admin.ReplayRequest) (*admin.ReplayPage, error) {
	if err := checkReplay(q); err != nil {
		return nil, err
	}
	to, single, err := addressOf(q.Filter)
	if err != nil {
		return nil, err
	}
	r := &run{
		Desk: d, q: q, to: to, single: single, page: &admin.ReplayPage{Position: q.Position}, limit: replayUsual,
		began: time.Now(), reasons: d.reasoning(q.Filter), borders: make(map[int]int64),
	}
	if q.Limit > 0 {
		r.limit = min(q.Limit, replayMost)
	}
	if r.page.Position.End == 0 {
		r.page.Position.End = r.began.UnixMilli()
		if r.page.Position.Holed, err = r.holed(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.record(ctx); err != nil { // before anything is done: nothing is that nobody can find out about
		return nil, err
	}
	start := r.page.Position
	working, cancel := context.WithTimeout(ctx, workWithin) // what is left of the answer's time is for the record
	defer cancel()
	if err := r.work(working); err != nil {
		if r.page.Position == start {
			return nil, err
		}
		d.Log.Warn("a page of a replay ended early; the next one goes on there", "run", q.Run, "err", err)
	}
	return r.page, r.record(ctx)
}

// checkReplay refuses what is no replay.
func checkReplay(q admin.ReplayRequest) error {
	if err := checkBy(q.By); err != nil {
		return err
	}
	if err := subject.CheckID(q.Run); err != nil || len(q.Run) > runMost {
		return problem.New(problem.BadRequest, "a replay has an id of 1 to %d bytes, the same for all its pages", runMost).In("run")
	}
	return checkFilter(q.Filter)
}

// record keeps what has been done by now: of the pages before, and of this one. A page that is done twice counts once.
func (r *run) record(ctx context.Context) error {
	if r.q.Dry {
		return nil
	}
	filter, err := json.Marshal(struct {
		admin.Filter

		Force bool `json:"force,omitempty"`
	}{r.q.Filter, r.q.Force})
	if err != nil {
		return fmt.Errorf("encode the filter: %w", err)
	}
	now := r.page.ReplayCount
	state := "not finished"
	if r.page.Finished {
		state = "finished"
	}
	at := r.q.Started
	if at == 0 {
		at = r.page.Position.End
	}
	return r.Archive.Record(ctx, admin.Record{
		ID: r.q.Run, At: at, By: r.q.By, Action: "replay", Filter: filter,
		Count: r.q.Done.Sent + r.q.Done.Copied + now.Sent + now.Copied,
		Detail: fmt.Sprintf("%s: %d sent again, %d copied, %d waiting", state, r.q.Done.Sent+now.Sent, r.q.Done.Copied+now.Copied,
			r.q.Done.Waiting+now.Waiting),
	})
}

// work does steps until the page is full, its time is over, or nothing is left.
func (r *run) work(ctx context.Context) error {
	at := &r.page.Position
	partitions := r.Archive.Facts().Partitions
	for !at.Archived {
		if r.over() {
			r.page.ToRead = r.estimate(ctx)
			return nil
		}
		if err := r.archived(ctx); err != nil {
			return err
		}
	}
	for at.Partition < partitions {
		if r.over() {
			r.page.ToRead = r.estimate(ctx)
			return nil
		}
		if r.single && at.Partition != subject.Partition(r.to, partitions) || r.isHoled(at.Partition) {
			at.Partition, at.Sequence = at.Partition+1, 0
			continue
		}
		if err := r.logged(ctx); err != nil {
			return err
		}
	}
	r.page.Finished = true
	return nil
}

// over says whether the page ends.
func (r *run) over() bool { return r.page.Matched >= r.limit || time.Since(r.began) > replayWithin }

// step is how many messages the next step may have.
func (r *run) step() int {
	if r.q.Force && !r.q.Dry {
		return min(copyMost, r.limit-r.page.Matched)
	}
	return min(stepMost, r.limit-r.page.Matched)
}

// inLog is how long a message is surely in its partition's log: what is older is read from the archive, so that nothing
// is passed over that the log forgets while a replay is at work.
const logMargin = time.Hour

// border is the time of archiving (ms since 1970) from which on messages of a partition are read from its log. It is the
// same for all pages of a replay, unless somebody purges the log meanwhile.
func (r *run) border(ctx context.Context, p int) (int64, error) {
	if at, known := r.borders[p]; known {
		return at, nil
	}
	if r.isHoled(p) {
		return r.page.Position.End + 1, nil
	}
	stream, err := r.JS.Stream(ctx, fabric.MsgStream(p))
	if err != nil {
		return 0, fmt.Errorf("look up the log: %w", err)
	}
	border := int64(0)
	if age := stream.CachedInfo().Config.MaxAge; age > logMargin {
		border = r.page.Position.End - (age - logMargin).Milliseconds()
	}
	first, err := oldest(ctx, stream)
	if err != nil {
		return 0, err
	}
	switch {
	case first != nil && stream.CachedInfo().State.FirstSeq > 1: // what has gone may be of the same millisecond
		border = max(border, first.Archived+1)
	case first != nil:
		border = max(border, first.Archived)
	default: // an empty log: everything is in the archive alone
		border = r.page.Position.End + 1
	}
	r.borders[p] = border
	return border, nil
}

// holed are the partitions whose logs do not have all that lies between their first and last sequence, since somebody has
// purged a user, say: what is pending there is read from the archive alone. They are found when a replay begins, for all its
// pages.
func (r *run) holed(ctx context.Context) (string, error) {
	partitions := r.Archive.Facts().Partitions
	holes, errs := make([]bool, partitions), make([]error, partitions)
	eachOf(partitions, ordersAtOnce, func(p int) {
		if r.single && p != subject.Partition(r.to, partitions) {
			return
		}
		stream, err := r.JS.Stream(ctx, fabric.MsgStream(p))
		if err != nil {
			errs[p] = fmt.Errorf("look up the log: %w", err)
			return
		}
		holes[p] = stream.CachedInfo().State.NumDeleted > 0
	})
	var list []string
	for p, holed := range holes {
		if holed {
			list = append(list, strconv.Itoa(p))
		}
	}
	return strings.Join(list, ","), errors.Join(errs...)
}

func (r *run) isHoled(p int) bool {
	return slices.Contains(strings.Split(r.page.Position.Holed, ","), strconv.Itoa(p))
}

// oldest is the first message that is left in a log; nil when there is none.
func oldest(ctx context.Context, stream jetstream.Stream) (*message.Message, error) {
	for next := uint64(1); ; {
		raw, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
		if isGone(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look for the log's first message: %w", err)
		}
		if m := logMessage(raw.Data); m != nil {
			return m, nil
		}
		next = raw.Sequence + 1
	}
}

// logMessage is the message in an entry of a log; nil if there is none, which only somebody else than collect can have put
// there.
func logMessage(data []byte) *message.Message {
	entries, err := message.DecodeEntries(data)
	if err != nil || len(entries) != 1 {
		return nil
	}
	return entries[0].Message
}

// chooses says whether the filter and the time of the replay let a message through, whatever its user has acknowledged.
func (r *run) chooses(m *message.Message) bool {
	f := r.q.Filter
	switch {
	case m.Archived > r.page.Position.End, m.Archived < f.Since, f.Until > 0 && m.Archived >= f.Until:
		return false
	case f.Tenant != "" && m.To.Tenant != f.Tenant, f.Type != "" && m.Type != f.Type:
		return false
	case f.Topic != "":
		return m.To.Kind == subject.Topic && m.To.ID == f.Topic
	default:
		return m.To.Kind == subject.User && (f.User == "" || m.To.ID == f.User)
	}
}

// place is what is to be done with a message.
type place int

const (
	leave place = iota // nothing
	again              // above the cursor: it is sent again
	below              // at or below it: by force it becomes a new message
)

// places says what is to be done with rows of the archive, which are the truth: what it does not have is left alone, as is
// what has expired, was chosen by nobody, or is the copy that a forced replay made.
func (r *run) places(ctx context.Context, rows []archive.Row) ([]place, error) {
	places := make([]place, len(rows))
	seen := make(map[subject.Address]bool)
	var addresses []subject.Address
	for _, row := range rows {
		if to := row.Message.To; !seen[to] {
			seen[to] = true
			addresses = append(addresses, to)
		}
	}
	if len(addresses) == 0 {
		return places, nil
	}
	standing, err := r.Archive.Standing(ctx, addresses, r.q.Device)
	if err != nil {
		return nil, err
	}
	reasons := make([]admin.Reason, len(rows))
	if r.q.Reason != "" {
		if reasons, err = r.reasons.of(ctx, rows); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	for i, row := range rows {
		m := row.Message
		switch {
		case row.Why != "" || m.Expired(now) || !r.chooses(m) || r.q.Reason != "" && reasons[i] != r.q.Reason:
		case m.Seq > standing[m.To].Handled:
			places[i] = again
		case r.q.Force && !m.Again:
			places[i] = below
		}
	}
	return places, nil
}
