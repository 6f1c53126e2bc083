package message

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/weftpush/weft/shared/subject"
)

// The binary form, the same in the log, in frames (dispatch to node) and in pages (archive to node): a version byte,
// then entries until the end. A message on its way to the archive has the sequence 0. Strings and bytes are a uvarint length and the bytes; numbers are uvarints.
//
//	entry   = tag address from body
//	tag     = 1 message | 2 message sent again | 3 gap | 4 message whose publisher asked for receipts
//	message = at expires archived id type content-type trace payload
//	gap     = to why
//
// Reading checks lengths against what is there and allocates nothing by a length that was not checked; payloads
// and strings of a decoded message keep the buffer they came in alive.
const (
	codecVersion = 1

	tagMessage = 1
	tagAgain   = 2
	tagGap     = 3
	tagReceipt = 4
)

// AppendEncoded appends the entries of an encoded form to another, without taking them apart: dispatch makes frames
// of what it reads from the log.
func AppendEncoded(b, encoded []byte) []byte {
	if len(b) > 0 && len(encoded) > 0 {
		encoded = encoded[1:]
	}
	return append(b, encoded...)
}

// ErrCorrupt is the error of bytes that AppendEntry did not make.
var ErrCorrupt = errors.New("message: corrupt entries")

// Addressed is an entry with the address it belongs to.
type Addressed struct {
	To subject.Address
	Entry
}

// AppendEntry appends one entry to b; the first one on an empty b puts the version before it.
func AppendEntry(b []byte, to subject.Address, e Entry) []byte {
	if len(b) == 0 {
		b = append(b, codecVersion)
	}
	m := e.Message
	switch {
	case m == nil:
		b = append(b, tagGap)
	case m.Again:
		b = append(b, tagAgain)
	case m.Receipt:
		b = append(b, tagReceipt)
	default:
		b = append(b, tagMessage)
	}
	b = appendString(b, to.Tokens())
	b = binary.AppendUvarint(b, e.From)
	if m == nil {
		b = binary.AppendUvarint(b, e.To)
		return appendString(b, string(e.Why))
	}
	b = binary.AppendUvarint(b, uint64(m.At))       //nolint:gosec // times after 1970
	b = binary.AppendUvarint(b, uint64(m.Expires))  //nolint:gosec // times after 1970
	b = binary.AppendUvarint(b, uint64(m.Archived)) //nolint:gosec // times after 1970
	b = appendString(b, m.ID)
	b = appendString(b, m.Type)
	b = appendString(b, m.ContentType)
	b = appendString(b, m.Trace)
	b = binary.AppendUvarint(b, uint64(len(m.Payload)))
	return append(b, m.Payload...)
}

// DecodeEntries reads all entries of b. An empty b has none. It returns ErrCorrupt, and nothing else, for anything
// that AppendEntry did not make.
func DecodeEntries(b []byte) ([]Addressed, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if b[0] != codecVersion {
		return nil, fmt.Errorf("%w: version %d", ErrCorrupt, b[0])
	}
	r := reader{rest: b[1:]}
	var entries []Addressed
	for len(r.rest) > 0 {
		e := r.entry()
		if r.failed {
			return nil, fmt.Errorf("%w: entry %d", ErrCorrupt, len(entries)+1)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes the binary form apart; after the first fault everything it returns is zero.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) entry() Addressed {
	tag := r.byte()
	to, err := subject.ParseTokens(string(r.bytes()))
	r.failed = r.failed || err != nil
	from := r.number()
	switch tag {
	case tagGap:
		e := Entry{From: from, To: r.number(), Why: Why(r.bytes())}
		r.failed = r.failed || e.To < e.From || from == 0
		return Addressed{To: to, Entry: e}
	case tagMessage, tagAgain, tagReceipt:
		m := &Message{To: to, Seq: from, Again: tag == tagAgain, Receipt: tag == tagReceipt}
		m.At, m.Expires, m.Archived = r.time(), r.time(), r.time()
		m.ID, m.Type, m.ContentType, m.Trace = string(r.bytes()), string(r.bytes()), string(r.bytes()), string(r.bytes())
		m.Payload = r.bytes()
		return Addressed{To: to, Entry: Entry{From: from, To: from, Message: m}}
	default:
		r.failed = true
		return Addressed{}
	}
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.failed = true
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || size > 1 && r.rest[size-1] == 0 { // cut off, over 64 bits, or longer than AppendUvarint writes it
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) time() int64 {
	n := r.number()
	if n > 1<<62 {
		r.failed = true
		return 0
	}
	return int64(n)
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
