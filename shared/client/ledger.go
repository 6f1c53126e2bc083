package client

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/weftpush/weft/shared/protocol"
)

// ackMost is how many handled messages are acknowledged at once at the latest.
const ackMost = 64

// ledger is what a device has handled, address by address, and what of it the server has not been told. It knows
// nothing of connections. The deliverer writes it; the acknowledger takes from it.
type ledger struct {
	mu      sync.Mutex // protects what follows
	state   State
	own     string            // address of the user's own mailbox; empty before the first welcome
	open    map[string]bool   // the mailboxes of the present session
	unsaid  map[string]uint64 // handled and not acknowledged
	counted int               // messages and gaps behind unsaid

	due  chan struct{} // something is to be acknowledged
	full chan struct{} // so much that it can't wait
}

func newLedger(s State) *ledger {
	cursors := maps.Clone(s.Cursors)
	if cursors == nil {
		cursors = make(map[string]uint64)
	}
	return &ledger{
		state: State{Epoch: s.Epoch, Cursors: cursors}, unsaid: make(map[string]uint64),
		due: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

// resume is the epoch and the cursors for a hello with these topics. A cursor of a topic that is not wanted any more
// stays in the ledger and is not said.
func (l *ledger) resume(topics []string) (epoch string, cursors map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := make(map[string]bool, len(topics))
	for _, topic := range topics {
		wanted[topic] = true
	}
	cursors = maps.Clone(l.state.Cursors)
	maps.DeleteFunc(cursors, func(address string, _ uint64) bool {
		topic, isTopic := strings.CutPrefix(address, "topic:")
		return isTopic && !wanted[topic]
	})
	return l.state.Epoch, cursors
}

// begin takes a welcome. A cursor that is known stays: the hello that named it decides. An address without one, and
// every address of another epoch, begins where the server says. What was not acknowledged on the last connection
// needs no acknowledgement on this one: the hello's cursor was one.
func (l *ledger) begin(w protocol.Welcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.Epoch != l.state.Epoch {
		l.state = State{Epoch: w.Epoch, Cursors: make(map[string]uint64)}
	}
	l.own = "user:" + w.User
	l.open = make(map[string]bool, len(w.Mailboxes))
	for address, mailbox := range w.Mailboxes {
		l.open[address] = true
		if _, known := l.state.Cursors[address]; !known {
			l.state.Cursors[address] = max(mailbox.Next, 1) - 1
		}
	}
	clear(l.unsaid)
	l.counted = 0
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

// place says whether the sequences from to to of an address are news. They are not when all have been handled; a
// jump is ErrProtocol.
func (l *ledger) place(address string, from, to uint64) (news bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	handled := l.state.Cursors[address]
	switch {
	case !l.open[address]:
		return false, fmt.Errorf("%w: %s is not a mailbox of this session", ErrProtocol, address)
	case from == 0 || to < from:
		return false, fmt.Errorf("%w: %s has no sequences %d to %d", ErrProtocol, address, from, to)
	case to <= handled:
		return false, nil
	case from > handled+1:
		return false, fmt.Errorf("%w: %s jumps from %d to %d without a gap", ErrProtocol, address, handled, from)
	}
	return true, nil
}

// handled notes that everything of an address up to seq has been handled.
func (l *ledger) handled(address string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Cursors[address] = seq
	l.unsaid[address] = seq
	l.counted++
	signal(l.due)
	if l.counted >= ackMost {
		signal(l.full)
	}
}

// take returns the acknowledgements that are to be sent, and the state that has to be saved before.
func (l *ledger) take() ([]any, State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	acks := make([]any, 0, len(l.unsaid))
	for address, seq := range l.unsaid {
		ack := protocol.FromClient{T: protocol.TAck, Seq: seq}
		if address != l.own {
			ack.Ch = address
		}
		acks = append(acks, ack)
	}
	clear(l.unsaid)
	l.counted = 0
	drop(l.due)
	drop(l.full)
	return acks, State{Epoch: l.state.Epoch, Cursors: maps.Clone(l.state.Cursors)}
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
