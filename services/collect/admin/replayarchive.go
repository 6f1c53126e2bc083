package admin

import (
	"context"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// scanMost is how many rows are asked for at once to find those that the log does not keep.
const scanMost = 2000

// archived does some of the archive's part: what the log does not keep any more. Where nothing is forced, all that is
// pending is looked at, without payloads, which also tells where the log has to be read from.
func (r *run) archived(ctx context.Context) error {
	switch {
	case !r.q.Force:
		return r.archivedPending(ctx)
	case r.single:
		return r.archivedOf(ctx)
	default:
		return r.archivedScan(ctx)
	}
}

// archivedPending looks at the next pending rows.
func (r *run) archivedPending(ctx context.Context) error {
	at := &r.page.Position
	rows, err := r.Archive.Pending(ctx, r.q.Filter, at.Place, time.Now().UnixMilli(), scanMost)
	if err != nil {
		return err
	}
	for first := 0; first < len(rows); {
		if r.over() {
			return nil
		}
		old, end, from, err := r.older(ctx, rows, first)
		if err != nil {
			return err
		}
		if err := r.doRows(ctx, old); err != nil {
			return err
		}
		if at.From == 0 || from > 0 && from < at.From {
			at.From = from
		}
		at.Place, first = placeOf(rows[end-1]), end
	}
	if len(rows) == scanMost {
		return nil
	}
	*at = admin.ReplayPosition{End: at.End, Holed: at.Holed, From: at.From, Archived: true}
	if at.From == 0 { // nothing is pending in any log
		at.Partition = r.Archive.Facts().Partitions
	}
	return nil
}

// older takes rows from the first on for one step: those that the log does not keep. It returns where the next step
// begins, and the oldest time of archiving of those that are in the log.
func (r *run) older(ctx context.Context, rows []archive.Row, first int) (old []archive.Row, end int, from int64, err error) {
	size := 0
	for end = first; end < len(rows); end++ {
		m := rows[end].Message
		border, err := r.border(ctx, subject.Partition(m.To, r.Archive.Facts().Partitions))
		if err != nil {
			return nil, 0, 0, err
		}
		switch {
		case m.Archived > r.page.Position.End:
			continue
		case m.Archived >= border:
			if from == 0 || m.Archived < from {
				from = m.Archived
			}
			continue
		}
		if len(old) > 0 && (len(old) >= r.step() || size+rows[end].Size > stepBytes) {
			break
		}
		old = append(old, rows[end])
		size += rows[end].Size
	}
	return old, end, from, nil
}

// archivedOf looks at the next rows of the only address.
func (r *run) archivedOf(ctx context.Context) error {
	at := &r.page.Position
	rows, err := r.Archive.Rows(ctx, r.to, at.Place.Seq+1, r.step())
	if err != nil {
		return err
	}
	old, end, _, err := r.older(ctx, rows, 0)
	if err != nil {
		return err
	}
	if err := r.doRows(ctx, old); err != nil {
		return err
	}
	if len(old) < end || len(rows) == 0 { // the rest is in the log
		r.toLog()
		return nil
	}
	at.Place = placeOf(rows[end-1])
	return nil
}

// archivedScan looks at the next rows of a partition.
func (r *run) archivedScan(ctx context.Context) error {
	at := &r.page.Position
	border, err := r.border(ctx, at.Partition)
	if err != nil {
		return err
	}
	if r.q.Until > 0 {
		border = min(border, r.q.Until)
	}
	var next string
	if border > r.q.Since {
		var rows []archive.Row
		rows, next, err = r.Archive.Scan(ctx, at.Partition, r.q.Since, border, at.Mark, r.step())
		if err != nil {
			return err
		}
		if err := r.doRows(ctx, rows); err != nil {
			return err
		}
	}
	if at.Mark = next; next == "" {
		if at.Partition++; at.Partition == r.Archive.Facts().Partitions {
			r.toLog()
		}
	}
	return nil
}

// toLog ends the archive's part of a forced replay.
func (r *run) toLog() {
	at := &r.page.Position
	*at = admin.ReplayPosition{End: at.End, Holed: at.Holed, From: r.q.Since, Archived: true}
}

// doRows does with rows what is to be done, with the payloads that the archive has.
func (r *run) doRows(ctx context.Context, rows []archive.Row) error {
	places, err := r.places(ctx, rows)
	if err != nil {
		return err
	}
	if r.q.Dry {
		r.rehearse(len(rows), rows, places)
		return nil
	}
	var wanted []archive.Row
	var kinds []place
	for i, row := range rows {
		if places[i] != leave {
			wanted, kinds = append(wanted, row), append(kinds, places[i])
		}
	}
	messages, err := r.payloads(ctx, wanted)
	if err != nil {
		return err
	}
	return r.do(ctx, len(rows), messages, kinds)
}

// payloads reads the messages of rows whole, in their order; nil for one that has none by now.
func (r *run) payloads(ctx context.Context, rows []archive.Row) ([]*message.Message, error) {
	found := make(map[admin.Place]*message.Message, len(rows))
	for first := 0; first < len(rows); {
		to, end := rows[first].Message.To, first+1
		for end < len(rows) && rows[end].Message.To == to && rows[end].Message.Seq == rows[end-1].Message.Seq+1 {
			end++
		}
		after, upTo := rows[first].Message.Seq-1, rows[end-1].Message.Seq
		for after < upTo {
			page, err := r.Archive.Read(ctx, to, after, upTo, stepBytes, time.Now())
			if err != nil {
				return nil, err
			}
			if len(page.Entries) == 0 {
				break
			}
			for _, e := range page.Entries {
				if after = e.To; e.Message != nil {
					found[admin.Place{Address: to.Tokens(), Seq: e.From}] = e.Message
				}
			}
		}
		first = end
	}
	messages := make([]*message.Message, len(rows))
	for i, row := range rows {
		messages[i] = found[placeOf(row)]
	}
	return messages, nil
}

// sampleMost is how many messages a dry page shows.
const sampleMost = 5

// rehearse counts what would be done.
func (r *run) rehearse(looked int, rows []archive.Row, places []place) {
	count := admin.ReplayCount{Read: looked}
	for i, row := range rows {
		switch places[i] {
		case leave:
			continue
		case again:
			count.Sent++
		case below:
			count.Copied++
		}
		at, page := row.Message.Archived, r.page
		if page.Oldest == 0 || at < page.Oldest {
			page.Oldest = at
		}
		page.Newest = max(page.Newest, at)
		if len(page.Sample) < sampleMost {
			page.Sample = append(page.Sample, told(row))
		}
	}
	count.Matched = count.Sent + count.Copied
	r.page.ReplayCount = sum(r.page.ReplayCount, count)
}
