// Package message is what travels through Weft: the message itself, how it is read from the headers that publishers
// set, and the binary form in which the services hand it to each other.
package message

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/weftpush/weft/shared/subject"
)

// JSON is the content type of a message that names none.
const JSON = "application/json"

// Message is one message to one address. The doors fill everything but Seq and Archived, which the archive gives.
// It is never changed after it was archived, so services and sessions share it without copying.
type Message struct {
	To          subject.Address
	Seq         uint64 // position in the mailbox, from 1, dense
	ID          string // unique per tenant and address
	Type        string // the publisher's word for what happened; may be empty
	ContentType string
	Trace       string // W3C traceparent; may be empty
	At          int64  // when it was accepted, ms since 1970
	Expires     int64  // ms since 1970; 0 is never
	Archived    int64  // when the archive took it, ms since 1970
	Again       bool   // sent again by an operator: `re` on the wire
	Receipt     bool   // its publisher asked for receipts; only to users, never of what is sent again
	Payload     []byte // opaque
}

// Hash identifies the body: type, content type and payload. Two messages with one id and one hash are one message.
func (m *Message) Hash() [sha256.Size]byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(m.Type), []byte(m.ContentType)} {
		h.Write(binary.AppendUvarint(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Write(m.Payload)
	return [sha256.Size]byte(h.Sum(nil))
}

// Expired says whether the message must not be shown any more at the given time.
func (m *Message) Expired(now time.Time) bool { return m.Expires != 0 && m.Expires <= now.UnixMilli() }

// Why says why a range of sequences is not shown.
type Why string

// The reasons of a gap.
const (
	WhyExpired     Why = "expired"     // outlived its TTL
	WhySuperseded  Why = "superseded"  // a later message has the same collapse key
	WhyDeleted     Why = "deleted"     // removed on request
	WhyQuarantined Why = "quarantined" // could not be processed
	WhyRetention   Why = "retention"   // older than the archive keeps
	WhyEpoch       Why = "epoch"       // the archive was restored; the numbering began anew
)

// Entry is what a mailbox holds at the positions From to To: one message (From == To == Message.Seq), or a gap with
// its reason. A mailbox read in entries has no silent jumps: each entry's From is the last one's To plus 1.
type Entry struct {
	From, To uint64
	Message  *Message // nil for a gap
	Why      Why      // of a gap
}

// EntryOf is the entry of one message: a gap if it has expired.
func EntryOf(m *Message, now time.Time) Entry {
	if m.Expired(now) {
		return Entry{From: m.Seq, To: m.Seq, Why: WhyExpired}
	}
	return Entry{From: m.Seq, To: m.Seq, Message: m}
}
