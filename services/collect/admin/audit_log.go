package admin

import (
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
	"github.com/weftpush/weft/shared/subject"
)

const (
	// auditEarly is how much earlier the server's clock may be than the archive's: a message is in the log after it is
	// in the archive.
	auditEarly = time.Minute
	// searchEarly is the same for what is looked up by its subject, where reading more costs little.
	searchEarly = time.Hour
	// auditOlder is how long before the log's age is over a message need no longer be in it.
	auditOlder = 5 * time.Minute
	// auditSlack is how many messages of later archiving are read until what was not met is looked up by its subject. The
	// log has the order of archiving but for what was published again: there all that is under way at once can come first.
	// Reading on costs some 5 µs for each, looking up some 2 ms: where many were not met, more is read.
	auditSlack    = 2000
	auditSlackFor = 200 // more for each row that was not met
	// auditAhead is how many messages that were met before their rows may be kept.
	auditAhead = 100_000
	// auditMost bounds what is read for one chunk of rows.
	auditMost = 20_000
	// auditRest is how much of the log behind the last row is read until it is looked whether the page has to end.
	auditRest = 5000
	// auditLookUps is how many messages that were not met are looked up until it is believed of the others.
	auditLookUps = 50
)

// logged is a message of the log, without what nobody compares.
type logged struct {
	to       subject.Address
	seq      uint64
	id       string
	archived int64
	at       uint64 // the stream's sequence
}

// auditLog goes along a partition's log beside the archive's rows, in the order of the stream. It belongs to a page.
type auditLog struct {
	*auditing
	begun   bool
	kept    int64 // what was archived before need not be in the log
	reading *reading
	ahead   []logged // met before their rows
	read    uint64   // up to this sequence
	till    int64    // what was archived before is compared
	before  auditPlace
}

// open begins where the last reading, or the last page, has ended. A reading does not live longer than one walk: what the
// server has sent ahead must not wait while rows are scanned.
func (l *auditLog) open(ctx context.Context) error {
	stream, err := l.JS.Stream(ctx, fabric.MsgStream(l.partition))
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if age := stream.CachedInfo().Config.MaxAge; age > 0 {
		l.kept = l.now.Add(auditOlder - age).UnixMilli()
	}
	if !l.begun {
		l.begun, l.before, l.till, l.read = true, l.place, l.place.Till, l.place.Log
	}
	at := int64(0)
	if !l.before.Begun && l.read == 0 {
		at = max(0, l.since-auditEarly.Milliseconds())
	}
	l.reading, err = l.auditing.read(ctx, stream.CachedInfo().Config.Name, from(jetstream.ConsumerConfig{}, l.read, at))
	return err
}

func (l *auditLog) close(ctx context.Context) {
	if l.reading != nil {
		l.reading.close(ctx)
		l.reading = nil
	}
}

// stop notes where the next page goes on.
func (l *auditLog) stop() {
	if !l.begun {
		return
	}
	p := &l.place
	p.Begun, p.Read, p.Till, p.Log = true, max(l.read, l.before.Read), l.till, l.read
	for _, e := range l.ahead {
		p.Log = min(p.Log, e.at-1)
	}
}

// next is the next message of the window that the pages before have not compared; false when the log has ended or n have
// been read.
func (l *auditLog) next(ctx context.Context, n *int) (e logged, ok bool, err error) {
	for *n > 0 {
		m, meta, err := l.reading.next(ctx)
		if err != nil || m == nil {
			return e, false, err
		}
		*n--
		l.read = meta.Sequence.Stream
		if e, ok = loggedOf(m, l.read); !ok || e.archived < l.since || l.read <= l.before.Read && e.archived < l.before.Till {
			continue
		}
		return e, true, nil
	}
	return e, false, nil
}

// loggedOf reads a message of the log; what is none is dispatch's to complain of.
func loggedOf(m jetstream.Msg, at uint64) (logged, bool) {
	entries, err := message.DecodeEntries(m.Data())
	if err != nil || len(entries) != 1 || entries[0].Message == nil {
		return logged{}, false
	}
	e := entries[0].Message
	return logged{to: e.To, seq: e.Seq, id: strings.Clone(e.ID), archived: e.Archived, at: at}, true
}

// chunk is what is compared at once.
type chunk struct {
	rows  map[logPlace]*compared
	unmet int // rows that must be in the log
	upTo  int64
}

type logPlace struct {
	to  subject.Address
	seq uint64
}

type compared struct {
	*message.Message
	must, met bool
	other     string // an id that the log has in its place
}

// compare meets rows with their messages in the log, and looks at each message of the log that no row has met.
func (l *auditLog) compare(ctx context.Context, rows []archive.Row) error {
	if len(rows) == 0 {
		return nil
	}
	if err := l.open(ctx); err != nil { // it also tells what must be there
		return err
	}
	c := chunk{rows: make(map[logPlace]*compared, len(rows)), upTo: rows[len(rows)-1].Message.Archived}
	order := make([]*compared, 0, len(rows))
	for _, r := range rows {
		m := r.Message
		row := &compared{Message: m, must: r.Why == "" && m.Archived >= l.kept && !m.Expired(l.now)}
		if c.rows[logPlace{m.To, m.Seq}] = row; row.must {
			c.unmet++
		}
		order = append(order, row)
	}
	if _, err := l.meet(ctx, &c, auditMost); err != nil {
		return err
	}
	l.till = c.upTo
	return l.unmet(ctx, order)
}

// rest looks at what the log has of the window behind the last row, and says whether that was all.
func (l *auditLog) rest(ctx context.Context) (all bool, err error) {
	if len(l.boxes) > 0 && l.late() {
		return false, nil
	}
	for first := true; !all; first = false {
		if !first && l.late() {
			return false, nil
		}
		if err = l.open(ctx); err != nil {
			return false, err
		}
		if all, err = l.meet(ctx, &chunk{upTo: l.until}, auditRest); err != nil {
			return false, err
		}
		l.till = l.until
	}
	return true, nil
}

// meet goes along the log until all rows of a chunk are met and what comes was archived later, or until it is
// unlikely that they will be, or until n messages were read; then it is not done.
func (l *auditLog) meet(ctx context.Context, c *chunk, n int) (done bool, err error) {
	defer l.close(ctx)
	ahead := l.ahead
	l.ahead = nil
	for _, e := range ahead {
		if _, err := l.take(ctx, c, e); err != nil {
			return false, err
		}
	}
	if len(l.ahead) >= auditAhead {
		n = 0
	}
	for later := 0; later < auditSlack+auditSlackFor*c.unmet; {
		e, ok, err := l.next(ctx, &n)
		if err != nil {
			return false, err
		}
		if !ok {
			return l.reading.left == 0, nil
		}
		isLater, err := l.take(ctx, c, e)
		if err != nil {
			return false, err
		}
		if later++; !isLater {
			later = 0
		} else if c.unmet == 0 && len(c.rows) > 0 && e.archived > c.upTo {
			return true, nil
		}
	}
	return true, nil
}

// take compares one message of the log, or keeps it for later.
func (l *auditLog) take(ctx context.Context, c *chunk, e logged) (later bool, err error) {
	if row := c.rows[logPlace{e.to, e.seq}]; row != nil {
		if row.ID != e.id {
			row.other = e.id
			return false, nil
		}
		if !row.met {
			l.page.Logged++
		}
		if row.must && !row.met {
			c.unmet--
		}
		row.met = true
		return false, nil
	}
	if e.archived >= l.until {
		return true, nil
	}
	if e.archived >= c.upTo {
		l.ahead = append(l.ahead, e)
		return true, nil
	}
	l.page.Logged++
	return false, l.checkLogged(ctx, e)
}

// checkLogged looks whether the archive has a message of the log.
func (l *auditLog) checkLogged(ctx context.Context, e logged) error {
	b := l.boxes[e.to]
	if b == nil {
		standing, err := l.Archive.Standing(ctx, []subject.Address{e.to}, "")
		if err != nil {
			return err
		}
		b = &audited{standing: standing[e.to]}
		l.boxes[e.to] = b
	}
	if b.there.has(e.seq) {
		return nil
	}
	rows, err := l.Archive.Rows(ctx, e.to, e.seq, 100)
	if err != nil {
		return err
	}
	for _, r := range rows {
		b.there.add(r.Message.Seq)
	}
	if len(rows) == 0 || rows[0].Message.Seq != e.seq {
		return l.lost(ctx, e, b)
	}
	if id := rows[0].Message.ID; id != e.id {
		l.differs(e.to, e.seq, id, e.id)
	}
	return nil
}

// lost names a message of the log that the archive does not have, unless it is found from the row below it, or
// was purged: the oldest are, when the archive does not keep them any longer.
func (l *auditLog) lost(ctx context.Context, e logged, b *audited) error {
	below, err := l.rowBelow(ctx, e.to, e.seq)
	if err != nil {
		return err
	}
	if below != nil && below.Archived >= l.since && below.Archived < l.until && e.seq <= b.standing.Head {
		return nil // hole
	}
	border := min(l.now.Add(-l.Policy.Retention).UnixMilli(), l.now.Add(-l.Policy.MinAge).UnixMilli()+1)
	if below == nil && e.archived < border && e.seq < b.standing.Head {
		return nil
	}
	if l.broken[placeAt(e.to, e.seq)] {
		return nil
	}
	if earlier, err := l.isBefore(ctx, e); err != nil || earlier {
		return err // it was named from there, perhaps by a page before
	}
	l.page.Balance.Accepted++
	l.breaks(e.to, e.seq, e.id, "not_in_archive", func() string { return lostSentence })
	return nil
}

// isBefore says whether the log has a message earlier as well: it was published again.
func (l *auditLog) isBefore(ctx context.Context, e logged) (before bool, err error) {
	c := from(jetstream.ConsumerConfig{FilterSubject: subject.Msg(l.partition, e.to)}, 0, max(1, l.since-auditEarly.Milliseconds()))
	err = l.walk(ctx, fabric.MsgStream(l.partition), c, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (more bool, err error) {
		same, ok := loggedOf(m, meta.Sequence.Stream)
		before = ok && same.at < e.at && same.seq == e.seq && same.id == e.id
		return !before && meta.Sequence.Stream < e.at, nil
	})
	return before, err
}

// rowBelow is the highest row below a sequence, nil if there is none.
func (l *auditLog) rowBelow(ctx context.Context, to subject.Address, seq uint64) (below *message.Message, err error) {
	low, high := uint64(1), seq // a row is sought in low <= sequence < high
	for low < high {
		middle := low + (high-low)/2
		rows, err := l.Archive.Rows(ctx, to, middle, 1)
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 && rows[0].Message.Seq < high {
			below = rows[0].Message
			low = below.Seq + 1
		} else {
			high = middle
		}
	}
	return below, nil
}

// differs names two messages in one place.
func (l *auditLog) differs(to subject.Address, seq uint64, archived, inLog string) {
	l.breaks(to, seq, archived, "not_the_same", func() string {
		return fmt.Sprintf("the log has the message %q in its place, so devices may have been given either; see with `weft trace` who has which, and publish the other one again with another id", inLog)
	})
}

// unmet looks up, by their subjects, the rows that were not met on the way, and names those that the log should have.
func (l *auditLog) unmet(ctx context.Context, rows []*compared) error {
	wanted := make(map[subject.Address]map[uint64]bool)
	var order []*compared
	for _, r := range rows {
		if r.other != "" {
			l.differs(r.To, r.Seq, r.ID, r.other)
		}
		if !r.must || r.met || r.other != "" {
			continue
		}
		if wanted[r.To] == nil {
			wanted[r.To] = make(map[uint64]bool)
		}
		wanted[r.To][r.Seq] = true
		order = append(order, r)
	}
	// The owner is asked before the log is: what he has published by then is found.
	named := len(order) > 0 && l.published(ctx)
	misses, hits := 0, 0
	found := make(map[subject.Address]map[uint64][]string)
	for _, r := range order {
		ids, done := found[r.To]
		if !done && (hits > 0 || misses < auditLookUps) {
			var err error
			if ids, err = l.find(ctx, r.To, wanted[r.To], r.Archived); err != nil {
				return err
			}
			found[r.To] = ids
		}
		switch there := ids[r.Seq]; {
		case slices.Contains(there, r.ID):
			hits++
			l.page.Logged++
		case len(there) > 0:
			l.differs(r.To, r.Seq, r.ID, there[0])
		case !named:
			misses++
			l.page.UnderWay++
		default:
			misses++
			if err := l.notLogged(ctx, r.Message); err != nil {
				return err
			}
		}
	}
	return nil
}

// find looks for messages of one address in all of the log that was written since the first of them was archived, and
// returns the ids that it has in their places.
func (l *auditLog) find(ctx context.Context, to subject.Address, wanted map[uint64]bool, archived int64) (map[uint64][]string, error) {
	found := make(map[uint64][]string)
	if len(wanted) == 0 {
		return found, nil
	}
	highest := uint64(0)
	for seq := range wanted {
		highest = max(highest, seq)
	}
	stream, err := l.JS.Stream(ctx, fabric.MsgStream(l.partition))
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if _, err := stream.GetLastMsgForSubject(ctx, subject.Msg(l.partition, to)); errors.Is(err, jetstream.ErrMsgNotFound) {
		return found, nil
	}
	c := from(jetstream.ConsumerConfig{FilterSubject: subject.Msg(l.partition, to)}, 0, max(1, archived-searchEarly.Milliseconds()))
	later := 0
	err = l.walk(ctx, fabric.MsgStream(l.partition), c, func(m jetstream.Msg, meta *jetstream.MsgMetadata) (more bool, err error) {
		e, ok := loggedOf(m, meta.Sequence.Stream)
		if ok && wanted[e.seq] {
			found[e.seq] = append(found[e.seq], e.id)
		}
		if later++; ok && e.seq <= highest {
			later = 0
		}
		return len(found) < len(wanted) && later < auditSlack, nil
	})
	return found, err
}

// notLogged names a message that is archived and not in the log, with what became of it all the same.
func (l *auditLog) notLogged(ctx context.Context, m *message.Message) error {
	if len(l.page.Breaks) >= l.names {
		l.breaks(m.To, m.Seq, m.ID, "not_in_log", func() string { return "" })
		return nil
	}
	steps, err := l.Archive.Steps(ctx, m.To, m.Seq)
	if err != nil {
		return err
	}
	l.breaks(m.To, m.Seq, m.ID, "not_in_log", func() string {
		return fmt.Sprintf("the archive has it and the log %s does not; %s", fabric.MsgStream(l.partition), became(steps))
	})
	return nil
}

// became says what happened to a message, and what is left to do.
func became(s archive.Steps) string {
	routed := "it was never reported as routed"
	if s.Routed != nil {
		routed = "it was routed at " + clock(s.Routed.At)
	}
	if len(s.Acked) > 0 {
		return fmt.Sprintf("%s, and device %s acknowledged it at %s: find out who deletes from the log", routed, s.Acked[0].Device, clock(s.Acked[0].At))
	}
	return routed + ", and nobody has acknowledged it: devices get it from the archive when they connect or a sweep finds it, within 10 minutes; find out who deletes from the log"
}

func placeAt(to subject.Address, seq uint64) admin.Place {
	return admin.Place{Address: to.Tokens(), Seq: seq}
}
