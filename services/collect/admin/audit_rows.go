package admin

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// receiptWithin is how long after an acknowledgement its receipt may be settled: collect does both in one step, and
// does it again until it has succeeded.
const receiptWithin = time.Minute

// audited is what a page knows of one address.
type audited struct {
	standing archive.Standing
	last     uint64 // the sequence of the window's last row so far; 0: none
	there    spans  // the sequences that the archive has, as far as they were looked at
}

// spans are ranges of sequences, apart and in order. Sequences are dense, so that there are few.
type spans [][2]uint64

func (s spans) has(n uint64) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i][1] >= n })
	return i < len(s) && s[i][0] <= n
}

func (s *spans) add(n uint64) {
	all := *s
	i := sort.Search(len(all), func(i int) bool { return all[i][1]+1 >= n })
	switch {
	case i < len(all) && all[i][0] <= n && n <= all[i][1]: // it is there
	case i < len(all) && all[i][1]+1 == n:
		all[i][1] = n
		if i+1 < len(all) && all[i+1][0] == n+1 {
			all[i][1] = all[i+1][1]
			*s = append(all[:i+1], all[i+2:]...)
		}
	case i < len(all) && all[i][0] == n+1:
		all[i][0] = n
	default:
		*s = append(all[:i], append(spans{{n, n}}, all[i:]...)...)
	}
}

// enter takes rows into the books: each has its place in the balance, and between two of an address nothing is missing.
func (a *auditing) enter(ctx context.Context, rows []archive.Row) error {
	if err := a.stand(ctx, rows); err != nil {
		return err
	}
	asked := make(map[subject.Address][]archive.Row)
	for _, r := range rows {
		m := r.Message
		b := a.boxes[m.To]
		if b.last > 0 && m.Seq > b.last+1 {
			if err := a.hole(ctx, m.To, b.last, m.Seq-1); err != nil {
				return err
			}
		}
		b.last = max(b.last, m.Seq)
		b.there.add(m.Seq)
		if err := a.balance(ctx, r, b); err != nil {
			return err
		}
		if m.Receipt && m.Seq <= b.standing.Handled {
			asked[m.To] = append(asked[m.To], r)
		}
	}
	for to, rows := range asked {
		if err := a.checkReceipts(ctx, to, rows); err != nil {
			return err
		}
	}
	return nil
}

// stand learns how the addresses of rows stand, each once in a page.
func (a *auditing) stand(ctx context.Context, rows []archive.Row) error {
	var fresh []subject.Address
	for _, r := range rows {
		if a.boxes[r.Message.To] == nil {
			a.boxes[r.Message.To] = new(audited)
			fresh = append(fresh, r.Message.To)
		}
	}
	standing, err := a.Archive.Standing(ctx, fresh, "")
	if err != nil {
		return err
	}
	for _, to := range fresh {
		a.boxes[to].standing = standing[to]
	}
	return nil
}

// checkCursors names the cursors of an address that are above its head. It reads the head once more, since an archive may
// tell head and cursors one after the other.
func (a *auditing) checkCursors(ctx context.Context, to subject.Address, before archive.Standing) error {
	next, err := a.Archive.Rows(ctx, to, a.boxes[to].last+1, 1)
	if err != nil || len(next) > 0 && next[0].Message.Archived < a.until {
		return err // a later page has the rest of this address, and looks then
	}
	again, err := a.Archive.Standing(ctx, []subject.Address{to}, "")
	if err != nil || before.Handled <= again[to].Head {
		return err
	}
	head, who := again[to].Head, "every device"
	if to.Kind == subject.User {
		devices, err := a.Archive.Devices(ctx, to.Tenant, to.ID)
		if err != nil {
			return err
		}
		var above []string
		for _, d := range devices {
			if d.To == to && d.Cursor > head {
				above = append(above, fmt.Sprintf("%s (%d)", d.Device, d.Cursor))
			}
		}
		who = "device " + strings.Join(above, ", ")
	}
	a.breaks(to, before.Handled, "", "cursor_ahead", func() string {
		return fmt.Sprintf("%s stands above the mailbox's head, which is %d, and would not be given what comes up to there; was an older copy of the archive put back without a new epoch?", who, head)
	})
	return nil
}

// checkEnds looks, at the end of a page, whether what follows the last row of each address is there, up to the head.
// In this way each hole is found once, from the row below it.
func (a *auditing) checkEnds(ctx context.Context) error {
	var open []subject.Address
	for to, b := range a.boxes {
		if b.last > 0 && b.standing.Handled > b.standing.Head {
			if err := a.checkCursors(ctx, to, b.standing); err != nil {
				return err
			}
		}
		if b.last > 0 && b.last < b.standing.Head {
			open = append(open, to)
		}
	}
	ends, failed := make([]uint64, len(open)), make([]error, len(open))
	eachOf(len(open), auditAtOnce, func(i int) { // boxes are only read meanwhile
		ends[i], failed[i] = a.end(ctx, open[i])
	})
	if err := errors.Join(failed...); err != nil {
		return err
	}
	for i, to := range open {
		if b := a.boxes[to]; ends[i] > b.last {
			if err := a.hole(ctx, to, b.last, ends[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// end is the last sequence behind an address's last row of which the archive has nothing; that row's own, if the next is there.
func (a *auditing) end(ctx context.Context, to subject.Address) (uint64, error) {
	b := a.boxes[to]
	next, err := a.Archive.Rows(ctx, to, b.last+1, 1)
	if err != nil || len(next) == 0 {
		return b.standing.Head, err
	}
	return next[0].Message.Seq - 1, nil
}

// hole names the messages behind a row, up to a sequence, that the archive has lost. A purge by age takes the oldest
// first, so what it has taken has no row below it: neither the row that was read a moment ago.
func (a *auditing) hole(ctx context.Context, to subject.Address, below, upTo uint64) error {
	rows, err := a.Archive.Rows(ctx, to, below, 1)
	if err != nil || len(rows) == 0 || rows[0].Message.Seq != below {
		return err
	}
	named := min(upTo-below, uint64(a.names-len(a.page.Breaks))) //nolint:gosec // never negative
	wanted := make(map[uint64]bool)
	for seq := below + 1; seq <= below+named; seq++ {
		wanted[seq] = true
	}
	lost, err := a.log.find(ctx, to, wanted, rows[0].Message.Archived)
	if err != nil {
		return err
	}
	for seq := below + 1; seq <= below+named; seq++ {
		a.breaks(to, seq, firstOf(lost[seq]), "not_in_archive", func() string {
			if len(lost[seq]) > 0 {
				return lostSentence
			}
			return "the archive has lost it, and the log does not have it either, so nothing tells its id; what lies around it is there: find out who deletes from the archive, and restore a backup if it is needed"
		})
	}
	a.page.Balance.Accepted += int(upTo - below) //nolint:gosec // a number of messages
	a.page.Broken += int(upTo - below - named)   //nolint:gosec // a number of messages
	return nil
}

// lostSentence is for what the archive lacks and the log has.
const lostSentence = "the log has it and the archive does not, so nobody who was away can be given it; find out who deletes from the archive, and publish it again with another id, from the log: its payload is there until the log's age is over"

func firstOf(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[0]
}

// checkReceipts looks for acknowledgements without a receipt that was asked for.
func (a *auditing) checkReceipts(ctx context.Context, to subject.Address, rows []archive.Row) error {
	settled, err := a.Archive.SettledOf(ctx, to, rows[0].Message.Seq, rows[len(rows)-1].Message.Seq)
	if err != nil {
		return err
	}
	type at struct {
		seq    uint64
		device string
	}
	has := make(map[at]bool, len(settled))
	for _, s := range settled {
		has[at{s.Message.Seq, s.Device}] = true
	}
	devices, err := a.Archive.Devices(ctx, to.Tenant, to.ID)
	if err != nil {
		return err
	}
	for _, r := range rows {
		for _, d := range devices {
			if d.To != to || !owes(d, r.Message) || has[at{r.Message.Seq, d.Device}] {
				continue
			}
			if err := a.checkReceipt(ctx, r.Message, d.Device); err != nil {
				return err
			}
		}
	}
	return nil
}

// owes says whether a device has acknowledged a message that was sent after it was known.
func owes(d archive.Device, m *message.Message) bool {
	return d.Cursor >= m.Seq && d.Start < m.Seq && d.Known <= m.Archived
}

// checkReceipt names a message whose receipt for a device is missing, if the acknowledgement is not of just now.
func (a *auditing) checkReceipt(ctx context.Context, m *message.Message, device string) error {
	steps, err := a.Archive.Steps(ctx, m.To, m.Seq)
	if err != nil {
		return err
	}
	for _, acked := range steps.Acked {
		if acked.Device != device || acked.At > a.now.Add(-receiptWithin).UnixMilli() {
			continue
		}
		a.breaks(m.To, m.Seq, m.ID, "receipt_missing", func() string {
			return fmt.Sprintf("its publisher asked for receipts, device %s acknowledged it at %s, and no receipt is stored; tell the publisher yourself, and look in collect's log for what failed then", device, clock(acked.At))
		})
	}
	return nil
}

// breaks counts a break, each message once, and names it while there is room.
func (a *auditing) breaks(to subject.Address, seq uint64, id, what string, sentence func() string) {
	place := admin.Place{Address: to.Tokens(), Seq: seq}
	if a.broken[place] {
		return
	}
	a.broken[place] = true
	a.page.Broken++
	if len(a.page.Breaks) < a.names {
		a.page.Breaks = append(a.page.Breaks, admin.Break{Tenant: to.Tenant, To: to.String(), Seq: seq, ID: id, What: what, Message: sentence()})
	}
}

// clock is a time as a sentence says it.
func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05.000 UTC") }
