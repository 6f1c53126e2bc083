package client

import (
	"fmt"
	"strings"
	"sync"

	"github.com/weftpush/weft/shared/protocol"
)

const (
	// ackMost is how many handled messages are saved and acknowledged at once at the latest.
	ackMost = 64
	// topicPrefix begins the address of a topic.
	topicPrefix = "topic:"
)

// ledger is how far a device is in each mailbox: what it has read, handled, saved and acknowledged. It outlives
// connections and knows nothing of them, nor of the store. The connection's goroutines read and acknowledge; the one of
// the handler handles; the saver saves.
type ledger struct {
	mu      sync.Mutex // protects what follows
	epoch   string     // of the archive that numbered the messages; empty before the first welcome
	own     string     // address of the user's own mailbox; empty before the first welcome
	boxes   map[string]*mailbox
	wanted  map[string]bool // topic → whether the server has ever taken it, or it was among Options
	pending *change         // of wanted, that the server has not answered
	counted int             // messages and gaps handled and not saved

	due     chan struct{} // something is to be saved or acknowledged
	full    chan struct{} // so much that it can't wait
	ackable chan struct{} // something that was saved is to be acknowledged
	retopic chan struct{} // wanted has changed
}

// mailbox is how far a device is in one address: said ≤ saved ≤ handled ≤ read, and said ≤ sent ≤ read.
type mailbox struct {
	read    uint64 // queued for the handler
	handled uint64 // taken by the handler
	saved   uint64 // in the store, so that it may be acknowledged
	// Of the present session:
	open bool   // the session has it
	left bool   // it is a topic that the session is to be without; what comes of it is not read
	sent uint64 // the highest that this session has sent: an acknowledgement above it would break the protocol
	said uint64 // what the server knows, by the hello or an acknowledgement
}

// at is a mailbox of which everything up to seq is history.
func at(seq uint64) *mailbox {
	return &mailbox{read: seq, handled: seq, saved: seq, sent: seq, said: seq}
}

func newLedger(s State, topics []string) *ledger {
	l := &ledger{
		epoch: s.Epoch, boxes: make(map[string]*mailbox, len(s.Cursors)), wanted: make(map[string]bool, len(topics)),
		due: make(chan struct{}, 1), full: make(chan struct{}, 1), ackable: make(chan struct{}, 1), retopic: make(chan struct{}, 1),
	}
	for address, cursor := range s.Cursors {
		l.boxes[address] = at(cursor)
	}
	for _, topic := range topics {
		l.wanted[topic] = true
	}
	return l
}

// wants says whether messages of an address are for the handler: all but those of topics that were left.
func (l *ledger) wants(address string) bool {
	topic, isTopic := strings.CutPrefix(address, topicPrefix)
	_, wanted := l.wanted[topic]
	return !isTopic || wanted
}

// hello fills in the topics and, as far as they are saved, the cursors. A cursor of a topic that is not wanted any
// more stays in the ledger and is not said.
func (l *ledger) hello(h *protocol.FromClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Epoch, h.Cursors = l.epoch, make(map[string]uint64, len(l.boxes))
	for address, box := range l.boxes {
		if l.wants(address) {
			box.said = box.saved // a hello's cursor is an acknowledgement
			h.Cursors[address] = box.saved
		}
	}
	for topic := range l.wanted {
		h.Topics = append(h.Topics, topic)
	}
}

// begin takes a welcome. A cursor that is known stays: the hello that named it decides. An address without one, and
// every address of another epoch, begins where the server says.
func (l *ledger) begin(w protocol.Welcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.Epoch != l.epoch {
		l.epoch, l.boxes = w.Epoch, make(map[string]*mailbox, len(w.Mailboxes))
	}
	l.own = "user:" + w.User
	l.have(w.Mailboxes)
}

// retopiced takes the answer to `sub` or `unsub`: all mailboxes that the session has now.
func (l *ledger) retopiced(s protocol.Subscribed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have(s.Mailboxes)
}

// have notes which mailboxes the session has. What is new to it begins behind the cursor that was named, or where the
// server says.
func (l *ledger) have(mailboxes map[string]protocol.Mailbox) {
	for address, box := range l.boxes {
		if _, has := mailboxes[address]; !has {
			box.open, box.left = false, false
		}
	}
	for address, place := range mailboxes {
		box := l.boxes[address]
		switch {
		case box == nil:
			box = at(max(place.Next, 1) - 1)
			l.boxes[address] = box
		case !box.open:
			box.sent = box.said
		}
		box.open, box.left = true, box.left || !l.wants(address)
		if topic, isTopic := strings.CutPrefix(address, topicPrefix); isTopic && !box.left {
			l.wanted[topic] = true
		}
	}
	if mailboxes != nil && l.differs() {
		signal(l.retopic)
	}
	l.settle()
}

// end notes that there is no session.
func (l *ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have(nil)
}

// address is the name of the mailbox that an object's `ch` means.
func (l *ledger) address(ch string) string {
	if ch != "" {
		return ch
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.own
}

// read takes an event of the present session and says whether it is news, that is to be queued: what was queued on an
// earlier connection is not. A jump is ErrProtocol.
func (l *ledger) read(e *event) (news bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	box := l.boxes[e.address]
	switch {
	case box == nil || !box.open:
		return false, fmt.Errorf("%w: %s is not a mailbox of this session", ErrProtocol, e.address)
	case e.from == 0 || e.to < e.from:
		return false, fmt.Errorf("%w: %s has no sequences %d to %d", ErrProtocol, e.address, e.from, e.to)
	case e.from > box.sent+1:
		return false, fmt.Errorf("%w: %s jumps from %d to %d without a gap", ErrProtocol, e.address, box.sent, e.from)
	}
	box.sent = max(box.sent, e.to)
	if min(box.handled, box.sent) > box.said {
		signal(l.due) // it was handled before this session sent it
	}
	if e.to <= box.read || box.left {
		return false, nil
	}
	e.box, e.from, box.read = box, max(e.from, box.read+1), e.to
	return true, nil
}

// unread takes back that an event was queued: it has to come again.
func (l *ledger) unread(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.box != nil {
		e.box.read = min(e.box.read, e.from-1)
	}
}

// next says whether a queued event is the one to be handled now. It is not when it has been handled, or when its topic
// was left or its epoch ended while it was queued: then it comes again, or never.
func (l *ledger) next(e event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.box == l.boxes[e.address] && l.wants(e.address) && e.to > e.box.handled && e.from <= e.box.handled+1
}

// handled notes that everything up to an event has been handled. After a change of the epoch its mailbox is nobody's, and
// that says nothing of the new numbers.
func (l *ledger) handled(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.box.handled, e.box.read = e.to, max(e.box.read, e.to)
	l.counted++
	signal(l.due)
	if l.counted >= ackMost {
		signal(l.full)
	}
}

// take returns the state to save, and false if it is the one that was saved last.
func (l *ledger) take() (State, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	drop(l.due)
	drop(l.full)
	l.counted = 0
	news := false
	cursors := make(map[string]uint64, len(l.boxes))
	for address, box := range l.boxes {
		cursors[address] = box.handled
		news = news || box.handled > box.saved
	}
	return State{Epoch: l.epoch, Cursors: cursors}, news
}

// saved notes that a state is in the store. What it holds may be acknowledged.
func (l *ledger) saved(s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, cursor := range s.Cursors {
		if box := l.boxes[address]; box != nil && s.Epoch == l.epoch {
			box.saved = cursor
		}
	}
	signal(l.ackable)
}

// acks are the acknowledgements that the server is to be told now.
func (l *ledger) acks() []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var acks []any
	for address, box := range l.boxes {
		seq := min(box.saved, box.sent)
		if !box.open || seq <= box.said {
			continue
		}
		box.said = seq
		ack := protocol.FromClient{T: protocol.TAck, Seq: seq}
		if address != l.own {
			ack.Ch = address
		}
		acks = append(acks, ack)
	}
	return acks
}

// signal leaves one token in c, where there may be one already.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drop(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}
