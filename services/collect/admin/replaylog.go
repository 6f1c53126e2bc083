package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// earlyBy is how much earlier, by its own clock, the log may hold a message than the archive's time says, and lateBy
	// how much later than the end of a replay the log is read: clocks differ, and what was archived is logged a moment later.
	earlyBy = time.Minute
	lateBy  = time.Minute
	// lateness is how long after its archiving a message is logged that may be in the log a second time: what was published
	// again by a new owner within the log's window of 2 minutes is not, whatever clocks differ by.
	lateness = time.Minute
	// rowsAtOnce is how many rows of an address are asked for at once.
	rowsAtOnce = 1000
)

// isGone says whether a stream has no such message.
func isGone(err error) bool { return errors.Is(err, jetstream.ErrMsgNotFound) }

// loggedMessage is a message as the log has it.
type loggedMessage struct {
	*message.Message

	sequence uint64 // of the stream
	late     bool   // it may be there a second time
}

// logged reads on in the log of the position's partition, step by step, until the page is over or the log is done.
func (r *run) logged(ctx context.Context) error {
	at := &r.page.Position
	border, err := r.border(ctx, at.Partition)
	if err != nil {
		return err
	}
	log, err := r.read(ctx, fabric.MsgStream(at.Partition), r.part(at.Sequence))
	if err != nil {
		return err
	}
	defer log.close(ctx)
	for log.left > 0 {
		if r.over() {
			return nil
		}
		chosen, read, last, ended, err := r.stepOfLog(ctx, log, border)
		if err != nil && read == 0 {
			return err
		}
		if err := r.doLogged(ctx, log.stream, read, chosen); err != nil {
			return err
		}
		if at.Sequence = max(at.Sequence, last); err != nil {
			return err
		}
		if ended {
			break
		}
	}
	at.Partition, at.Sequence = at.Partition+1, 0
	return nil
}

// part is a consumer for the replay's part of the log behind a sequence.
func (r *run) part(behind uint64) jetstream.ConsumerConfig {
	at := r.page.Position
	var c jetstream.ConsumerConfig
	if r.single {
		c.FilterSubject = subject.Msg(at.Partition, r.to)
	}
	begin := int64(0)
	if at.From > 0 {
		begin = max(1, at.From-earlyBy.Milliseconds())
	}
	return from(c, behind, begin)
}

// stepOfLog reads a step's messages: those that the filter chooses, how many it looked at, and the last one's sequence in the
// stream. ended says that what follows was logged too late to belong to the replay.
func (r *run) stepOfLog(ctx context.Context, log *reading, border int64) (chosen []loggedMessage, read int, last uint64, ended bool, err error) {
	most, size := r.step(), 0
	for log.left > 0 && len(chosen) < most && size < stepBytes && read < scanMost {
		delivery, meta, err := log.next(ctx)
		if err != nil || delivery == nil {
			return chosen, read, last, false, err
		}
		if meta.Timestamp.UnixMilli() > r.page.Position.End+lateBy.Milliseconds() {
			return chosen, read, meta.Sequence.Stream, true, nil
		}
		read, last = read+1, meta.Sequence.Stream
		m := logMessage(delivery.Data())
		if m == nil || m.Archived < border || !r.chooses(m) {
			continue
		}
		late := meta.Timestamp.UnixMilli()-m.Archived > lateness.Milliseconds()
		chosen, size = append(chosen, loggedMessage{Message: m, sequence: last, late: late}), size+len(m.Payload)
	}
	return chosen, read, last, false, nil
}

// doLogged does with messages of the log what is to be done.
func (r *run) doLogged(ctx context.Context, stream jetstream.Stream, read int, chosen []loggedMessage) error {
	chosen, err := r.once(ctx, stream, chosen)
	if err != nil {
		return err
	}
	rows := make([]archive.Row, len(chosen))
	for i, m := range chosen {
		rows[i] = archive.Row{Message: m.Message, Size: len(m.Payload)}
	}
	places, err := r.places(ctx, rows)
	if err != nil {
		return err
	}
	messages := make([]*message.Message, len(chosen))
	for i, m := range chosen {
		if places[i] != leave {
			messages[i] = m.Message
		}
	}
	if err := r.confirm(ctx, messages); err != nil {
		return err
	}
	if r.q.Dry {
		for i, m := range messages {
			if m == nil {
				places[i] = leave
			}
		}
		r.rehearse(read, rows, places)
		return nil
	}
	return r.do(ctx, read, messages, places)
}

// confirm sets to nil what the archive does not have as the log has it: it was removed, or emptied.
func (r *run) confirm(ctx context.Context, messages []*message.Message) error {
	of := make(map[subject.Address][]int)
	for i, m := range messages {
		if m != nil {
			of[m.To] = append(of[m.To], i)
		}
	}
	for to, list := range of {
		first, last := messages[list[0]].Seq, messages[list[0]].Seq
		for _, i := range list {
			first, last = min(first, messages[i].Seq), max(last, messages[i].Seq)
		}
		have := make(map[uint64]string, len(list)) // id by sequence
		for first <= last {
			most := int(min(last-first+1, rowsAtOnce))
			rows, err := r.Archive.Rows(ctx, to, first, most)
			if err != nil {
				return err
			}
			for _, row := range rows {
				if first = row.Message.Seq + 1; row.Why == "" {
					have[row.Message.Seq] = row.Message.ID
				}
			}
			if len(rows) < most {
				break
			}
		}
		for _, i := range list {
			if m := messages[i]; have[m.Seq] != m.ID {
				r.Log.Warn("the log has a message that the archive does not have so; it is not sent", "to", m.To, "seq", m.Seq, "id", m.ID)
				messages[i] = nil
			}
		}
	}
	return nil
}

// spot is a message's place in its mailbox.
type spot struct {
	to  subject.Address
	seq uint64
}

// once leaves out what the replay's part of the log has had before: a new owner publishes again what may be missing, and
// what the log had for longer than its window of duplicates is in it twice.
func (r *run) once(ctx context.Context, stream jetstream.Stream, chosen []loggedMessage) ([]loggedMessage, error) {
	seen := make(map[spot]bool, len(chosen))
	late := make(map[string]bool) // subjects
	for _, m := range chosen {
		if m.late {
			late[subject.Msg(r.page.Position.Partition, m.To)] = true
		}
	}
	if len(late) > 0 {
		if err := r.earlier(ctx, stream, late, chosen, seen); err != nil {
			return nil, err
		}
	}
	var some []loggedMessage
	for _, m := range chosen {
		at := spot{m.To, m.Seq}
		if !seen[at] {
			some = append(some, m)
		}
		seen[at] = true
	}
	return some, nil
}

// earlier notes in seen which of the late messages the replay's part of the log has before the chosen ones. It reads what
// a few addresses have there from when the first of them was archived on, and only after a partition had no owner for minutes.
func (r *run) earlier(ctx context.Context, stream jetstream.Stream, late map[string]bool, chosen []loggedMessage, seen map[spot]bool) error {
	wanted := make(map[spot]bool)
	begin := int64(math.MaxInt64)
	for _, m := range chosen {
		if m.late {
			wanted[spot{m.To, m.Seq}] = true
			begin = min(begin, m.Archived)
		}
	}
	begin = max(begin, r.page.Position.From)
	c := from(jetstream.ConsumerConfig{}, 0, max(1, begin-earlyBy.Milliseconds()))
	for s := range late {
		c.FilterSubjects = append(c.FilterSubjects, s)
	}
	log, err := r.read(ctx, stream.CachedInfo().Config.Name, c)
	if err != nil {
		return err
	}
	defer log.close(ctx)
	for {
		delivery, meta, err := log.next(ctx)
		if err != nil {
			return fmt.Errorf("look for what the log has twice: %w", err)
		}
		if delivery == nil {
			return nil
		}
		if meta.Sequence.Stream >= chosen[0].sequence {
			return nil
		}
		if m := logMessage(delivery.Data()); m != nil && wanted[spot{m.To, m.Seq}] {
			seen[spot{m.To, m.Seq}] = true
		}
	}
}

// estimate is about how many messages are left to look at in the logs.
func (r *run) estimate(ctx context.Context) int {
	at := r.page.Position
	partitions := r.Archive.Facts().Partitions
	left := make([]int, partitions)
	eachOf(partitions, ordersAtOnce, func(p int) {
		if p < at.Partition && at.Archived || r.single && p != subject.Partition(r.to, partitions) || r.isHoled(p) {
			return
		}
		var options []jetstream.StreamInfoOpt
		if r.single {
			options = append(options, jetstream.WithSubjectFilter(subject.Msg(p, r.to)))
		}
		stream, err := r.JS.Stream(ctx, fabric.MsgStream(p))
		if err != nil {
			return // a bar that is wrong for a moment
		}
		info := stream.CachedInfo()
		if len(options) > 0 {
			if info, err = stream.Info(ctx, options...); err != nil {
				return
			}
		}
		left[p] = r.estimateOf(info, at.Archived && p == at.Partition, subject.Msg(p, r.to))
	})
	sum := 0
	for _, n := range left {
		sum += n
	}
	return sum
}

// estimateOf is about how many messages of one log are left: as if they had come evenly.
func (r *run) estimateOf(info *jetstream.StreamInfo, begun bool, single string) int {
	s, at := info.State, r.page.Position
	n := float64(s.Msgs)
	if r.single {
		n = float64(s.Subjects[single])
	}
	part := 1.0
	switch first, last := s.FirstTime.UnixMilli(), s.LastTime.UnixMilli(); {
	case s.Msgs == 0:
		return 0
	case begun && at.Sequence > 0:
		part = float64(s.LastSeq-min(s.LastSeq, at.Sequence)) / float64(s.LastSeq-s.FirstSeq+1)
	case at.From > first && last > first:
		part = float64(max(0, last-at.From)) / float64(last-first)
	}
	return int(n * min(part, 1))
}
