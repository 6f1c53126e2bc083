// Package mailbox is what the implementations of the archive share: the row stored at one position of a mailbox,
// what a second message with its id is, and how rows become a page without silent jumps.
package mailbox

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
)

// PageRows is the most rows of one page, so that a mailbox of a million expired rows is not one answer.
const PageRows = 5000

// NewEpoch is the epoch of an archive that is being created.
func NewEpoch() string { return rand.Text() }

// Check says whether the caller's facts are possible.
func Check(wanted archive.Facts) error {
	if wanted.Partitions < 1 {
		return fmt.Errorf("archive: %d partitions; there must be at least 1", wanted.Partitions)
	}
	return nil
}

// Agree compares the facts of an existing archive with those that the caller wants.
func Agree(stored, wanted archive.Facts) error {
	if stored.Partitions != wanted.Partitions {
		return fmt.Errorf("%w: it has %d, this service wants %d", archive.ErrPartitions, stored.Partitions, wanted.Partitions)
	}
	return nil
}

// Number makes a sequence storable: both databases hold signed numbers. No mailbox ever gets that far.
func Number(seq uint64) int64 { return int64(min(seq, math.MaxInt64)) }

// Sequence is the reverse of Number.
func Sequence(stored int64) uint64 { return uint64(max(stored, 0)) }

// Row is what is stored at one position of a mailbox.
type Row struct {
	Message *message.Message // its Payload is empty once Why is set
	Hash    [sha256.Size]byte
	Why     message.Why // why the payload is gone; empty while it is there
}

// Met is the outcome for a message that came with the id of this row.
func (r Row) Met(hash [sha256.Size]byte) archive.Outcome {
	if hash == r.Hash {
		return archive.Outcome{Fate: archive.Duplicate, Message: r.Message}
	}
	return archive.Outcome{Fate: archive.Conflict, Message: r.Message}
}

// entry is the row as a reader sees it at the given time.
func (r Row) entry(now time.Time) message.Entry {
	if r.Why != "" {
		return message.Entry{From: r.Message.Seq, To: r.Message.Seq, Why: r.Why}
	}
	return message.EntryOf(r.Message, now)
}

// Page collects rows, given in order, into a history page. A position without a row was deleted by the retention:
// sequences are dense, so nothing else makes a hole below the head.
type Page struct {
	page  history.Page
	last  uint64 // the entries cover everything up to here
	upTo  uint64
	bytes int // of payload that may still be added
	rows  int
	full  bool
	now   time.Time
}

// NewPage begins a page of the entries after < sequence <= upTo (0: to the head).
func NewPage(epoch string, head, after, upTo uint64, maxBytes int, now time.Time) *Page {
	if upTo == 0 || upTo > head {
		upTo = head
	}
	return &Page{page: history.Page{Head: head, Epoch: epoch}, last: after, upTo: upTo, bytes: maxBytes, now: now}
}

// Range is what to ask the database for: the rows after < sequence <= upTo. ok is false if there are none.
func (p *Page) Range() (after, upTo int64, ok bool) {
	return Number(p.last), Number(p.upTo), p.last < p.upTo
}

// Add takes the next row and says whether the page has room for another.
func (p *Page) Add(r Row) bool {
	if r.Message.Seq > p.last+1 {
		p.add(message.Entry{From: p.last + 1, To: r.Message.Seq - 1, Why: message.WhyRetention})
	}
	e := r.entry(p.now)
	if e.Message != nil && len(e.Message.Payload) > p.bytes && len(p.page.Entries) > 0 {
		p.full = true
		return false
	}
	p.add(e)
	p.rows++
	p.full = p.rows == PageRows
	return !p.full
}

// End closes a page after the last row, or after Add said no.
func (p *Page) End() *history.Page {
	if !p.full && p.last < p.upTo {
		p.add(message.Entry{From: p.last + 1, To: p.upTo, Why: message.WhyRetention})
	}
	return &p.page
}

// add appends an entry, joined with the one before it if both are gaps for one reason.
func (p *Page) add(e message.Entry) {
	p.last = e.To
	if e.Message != nil {
		p.bytes -= len(e.Message.Payload)
	} else if n := len(p.page.Entries); n > 0 {
		if before := &p.page.Entries[n-1]; before.Message == nil && before.Why == e.Why {
			before.To = e.To
			return
		}
	}
	p.page.Entries = append(p.page.Entries, e)
}
