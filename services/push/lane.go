package push

import (
	"encoding/json"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// aheadMost is how many live items a lane holds back while the ones before them come from the archive. Beyond it they
// are let go: the archive has them too.
const aheadMost = 64

// item is an entry as it is written. All sessions of an address share one item and its bytes.
type item struct {
	message.Entry
	object []byte // the JSON object of the wire protocol
}

func newItem(to subject.Address, e message.Entry) item {
	if e.Message != nil {
		return item{Entry: e, object: protocol.AppendMessage(nil, e.Message)}
	}
	return item{Entry: e, object: object(protocol.Gap{T: protocol.TGap, Ch: channel(to), From: e.From, To: e.To, Why: e.Why})}
}

// lane is one address of a session: what was sent of it, what was acknowledged, what is known to be missing. It does
// no I/O and knows no clock; its session's lock protects it. It sends exactly the next sequence, always: what is
// below is dropped, what is above waits or is read again.
type lane struct {
	session *session
	to      subject.Address

	next    uint64 // first sequence that was not sent; 0 until the session is open
	acked   uint64 // the cursor: everything up to here was handled
	head    uint64 // highest sequence known to exist
	sent    []sent // sent and not acknowledged, in order
	ahead   []item // live items that wait for a hole to be filled or for room, without holes among themselves
	held    int    // bytes of ahead
	filling bool   // it is in the fill queue or with a worker
	faulted bool   // the last fill failed: the ticker tries again
}

// sent is one item that awaits its acknowledgement.
type sent struct {
	to   uint64
	size int
}

// begin opens the lane behind a cursor.
func (l *lane) begin(cursor, head uint64) {
	l.acked, l.next = cursor, cursor+1
	l.head = max(l.head, head, cursor)
}

// take accepts an item if it holds the next sequence and the session's window has room. Live items that come too
// early wait in ahead as long as they follow each other.
func (l *lane) take(it item, live bool) {
	l.head = max(l.head, it.To)
	switch {
	case l.next == 0 || it.To < l.next:
		return
	case it.From <= l.next && l.send(it):
		l.flush()
	case live:
		l.hold(it)
	}
}

// hold keeps an early item, unless it does not follow the ones that are held or they are too many or too large: then
// it will be read from the archive.
func (l *lane) hold(it item) {
	n := len(l.ahead)
	if n > 0 && l.ahead[n-1].To+1 != it.From {
		return
	}
	if n < aheadMost && l.held+len(it.object) <= l.session.node.cfg.Window/4 {
		l.ahead = append(l.ahead, it)
		l.held += len(it.object)
	}
}

// flush sends what waited, now that the hole before it may be filled.
func (l *lane) flush() {
	for len(l.ahead) > 0 && l.ahead[0].From <= l.next {
		if l.ahead[0].To >= l.next && !l.send(l.ahead[0]) {
			return
		}
		l.held -= len(l.ahead[0].object)
		l.ahead = l.ahead[1:]
	}
	if len(l.ahead) == 0 {
		l.ahead = nil // give the array back: most lanes never have one again
	}
}

// send writes the item that holds l.next, unless the window is full. A gap that began earlier is cut; a message that
// expired while it waited becomes a gap.
func (l *lane) send(it item) bool {
	if e := it.Entry; e.Message != nil && e.Message.Expired(time.Now()) {
		it = newItem(l.to, message.Entry{From: e.From, To: e.To, Why: message.WhyExpired})
	} else if e.From < l.next {
		it = newItem(l.to, message.Entry{From: l.next, To: e.To, Why: e.Why})
	}
	size := max(len(it.object), windowFloor)
	if !l.session.admit(size) {
		return false
	}
	l.sent = append(l.sent, sent{to: it.To, size: size})
	l.next = it.To + 1
	l.session.write(it.object)
	return true
}

// ack raises the cursor to seq and returns the bytes that this frees in the window.
func (l *lane) ack(seq uint64) (freed int) {
	l.acked = seq
	n := 0
	for n < len(l.sent) && l.sent[n].to <= seq {
		freed += l.sent[n].size
		n++
	}
	if l.sent = l.sent[n:]; len(l.sent) == 0 {
		l.sent = nil
	}
	return freed
}

// missing is the range that has to be read from the archive before anything else can be sent; ok is false when
// nothing is missing. upTo 0 means up to the head.
func (l *lane) missing() (after, upTo uint64, ok bool) {
	if l.next == 0 || l.next > l.head {
		return 0, 0, false
	}
	if len(l.ahead) > 0 {
		if l.ahead[0].From <= l.next {
			return 0, 0, false // only room is missing
		}
		upTo = l.ahead[0].From - 1
	}
	return l.next - 1, upTo, true
}

// channel is the `ch` of an address on the wire: absent for a user's own mailbox.
func channel(to subject.Address) string {
	if to.Kind == subject.User {
		return ""
	}
	return to.String()
}

// object is the JSON of one of the protocol's objects.
func object(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // the protocol's types always marshal
		panic(err)
	}
	return b
}
