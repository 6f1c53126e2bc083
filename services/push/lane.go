package push

import (
	"encoding/json"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// aheadMost is how many items a lane holds back while the ones before them come from the archive, or until there
	// is room in the window. Beyond it they are let go: the archive has them too.
	aheadMost = 64
	// objectRoom is about what the names, numbers and quotes of a `msg` object take, in bytes.
	objectRoom = 128
)

// item is an entry as it is written. All sessions of an address share one item and its bytes. It keeps nothing of the
// entry's message, whose strings would hold on to the whole frame they came in.
type item struct {
	from, to uint64
	why      message.Why // of a gap; empty for a message
	expires  int64       // ms since 1970; 0 is never
	object   []byte      // the JSON object of the wire protocol
}

func newItem(to subject.Address, e message.Entry) item {
	m := e.Message
	if m == nil {
		return gapItem(to, e.From, e.To, e.Why)
	}
	room := objectRoom + len(m.Payload) + len(m.ID) + len(m.Type) + len(m.Trace) + len(to.ID)
	if !m.IsJSON() {
		room += len(m.Payload)/3 + len(m.ContentType)
	}
	return item{from: e.From, to: e.To, expires: m.Expires, object: protocol.AppendMessage(make([]byte, 0, room), m)}
}

func gapItem(to subject.Address, from, upTo uint64, why message.Why) item {
	gap := protocol.Gap{T: protocol.TGap, Ch: channel(to), From: from, To: upTo, Why: why}
	return item{from: from, to: upTo, why: why, object: object(gap)}
}

// expired says whether a message must not be shown any more.
func (it *item) expired() bool { return it.expires != 0 && it.expires <= time.Now().UnixMilli() }

// lane is one address of a session: what was sent of it, what was acknowledged, what is known to be missing. It does
// no I/O, and asks the clock only whether a message has expired; its session's lock protects it. It sends exactly the next sequence, always: what is
// below is dropped, what is above waits or is read again.
type lane struct {
	session *session
	to      subject.Address

	next    uint64      // first sequence that was not sent; 0 until the session is open
	acked   uint64      // the cursor: everything up to here was handled
	head    uint64      // highest sequence known to exist
	sent    []sent      // sent and not acknowledged, in order
	ahead   []item      // items that wait for a hole to be filled or for room, without holes among themselves
	held    int         // bytes of ahead
	filling bool        // it is in the fill queue or with a worker
	faulted bool        // the last fill failed: the ticker tries again
	again   *repetition // nil until a replay comes
}

// sent is one item that awaits its acknowledgement.
type sent struct {
	to   uint64
	size int
}

// place sets where the lane will begin: behind a cursor, once its session opens it.
func (l *lane) place(cursor, head uint64) {
	l.acked, l.head = cursor, max(l.head, head)
}

// open lets the lane send. What came before was dropped and is read from the archive.
func (l *lane) open() { l.next = l.acked + 1 }

// take sends an item if it holds the next sequence and the session's window has room. One that comes too early waits
// in ahead.
func (l *lane) take(it item) {
	l.head = max(l.head, it.to)
	switch {
	case l.next == 0 || it.to < l.next:
		return
	case it.from <= l.next && l.send(it):
		l.flush()
	default:
		l.hold(it)
	}
}

// refill takes a page that was read for the lane. What the window has no room for is held in place of what came
// later: it is needed first, and reading it again for each acknowledgement would cost a read a message.
func (l *lane) refill(page []item, head uint64) {
	l.head = max(l.head, head)
	for i, it := range page {
		switch {
		case l.next == 0 || it.to < l.next:
		case it.from > l.next:
			return // the page has nothing to say about what is next
		case l.send(it):
			l.flush()
		default:
			l.forget()
			for _, it := range page[i:] {
				l.hold(it)
			}
			return
		}
	}
}

// hold keeps an item for later, unless it does not follow the ones that are held or they are too many or too large:
// then it will be read from the archive.
func (l *lane) hold(it item) {
	n := len(l.ahead)
	if n > 0 && l.ahead[n-1].to+1 != it.from {
		return
	}
	size := len(it.object)
	if n < aheadMost && l.held+size <= l.session.node.cfg.Window/4 && l.session.room(size) {
		l.ahead = append(l.ahead, it)
		l.held += size
		l.session.held += size
	}
}

// forget lets go of what was held.
func (l *lane) forget() {
	l.session.held -= l.held
	l.ahead, l.held = nil, 0
}

// flush sends what waited, now that the hole before it may be filled.
func (l *lane) flush() {
	for len(l.ahead) > 0 && l.ahead[0].from <= l.next {
		if l.ahead[0].to >= l.next && !l.send(l.ahead[0]) {
			return
		}
		l.held -= len(l.ahead[0].object)
		l.session.held -= len(l.ahead[0].object)
		l.ahead = l.ahead[1:]
	}
	if len(l.ahead) == 0 {
		l.ahead = nil // give the array back: most lanes never have one again
	}
}

// send writes the item that holds l.next, unless the window is full. A gap that began earlier is cut; a message that
// expired while it waited becomes a gap.
func (l *lane) send(it item) bool {
	if it.expired() {
		it = gapItem(l.to, it.from, it.to, message.WhyExpired)
	} else if it.from < l.next {
		it = gapItem(l.to, l.next, it.to, it.why)
	}
	size := max(len(it.object), windowFloor)
	if !l.session.admit(size) {
		return false
	}
	l.sent = append(l.sent, sent{to: it.to, size: size})
	l.next = it.to + 1
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
		if l.ahead[0].from <= l.next {
			return 0, 0, false // only room is missing
		}
		upTo = l.ahead[0].from - 1
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
