package client

import (
	"context"
	"fmt"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
)

// failedPauses are the pauses before a message is handed once more to a handler that returned an error.
var failedPauses = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}

// Message is one message as a device gets it. It belongs to the handler; nothing of it is used again.
type Message struct {
	Address     string    // `user:42`, `topic:news`, `all`
	Seq         uint64    // in the mailbox of Address, from 1, dense
	ID          string    // the publisher's
	Type        string    // the publisher's word for what happened; may be empty
	ContentType string    // application/json unless the publisher said otherwise
	At          time.Time // when it was accepted
	TraceParent string    // W3C; may be empty
	Data        []byte    // exactly the bytes that were published
	Again       bool      // sent again by an operator
}

// Gap says that the sequences From to To of a mailbox will not come, and why. With message.WhyEpoch the archive was
// restored from a backup and numbers anew; From to To is then what lies before the device's new start.
type Gap struct {
	Address  string
	From, To uint64
	Why      message.Why
}

// Handler takes one message. It is called for one message at a time, and the next one waits. A message is handled
// when it returns nil; after an error it is called with the same message again, after 1, 2, 4, 8 and 16 s. However long
// it takes, the connection is held meanwhile, or made anew. ctx ends when Run has to.
type Handler func(ctx context.Context, m Message) error

// event is a message or a gap on its way from the reader to the handler.
type event struct {
	address  string
	from, to uint64
	message  Message  // where gap is nil
	gap      *Gap     //
	box      *mailbox // the ledger's; nil for a gap that says only that the epoch has changed
}

// eventOf reads a msg or a gap of an address.
func eventOf(address string, o object) (event, error) {
	if o.T == protocol.TGap {
		return event{address: address, from: o.From, to: o.To, gap: &Gap{Address: address, From: o.From, To: o.To, Why: o.Why}}, nil
	}
	data := o.Data64
	if data == nil {
		data = protocol.Data(o.raw)
	}
	if data == nil {
		return event{}, fmt.Errorf("%w: %s %d has no data", ErrProtocol, address, o.Seq)
	}
	if o.ContentType == "" {
		o.ContentType = message.JSON
	}
	return event{address: address, from: o.Seq, to: o.Seq, message: Message{
		Address: address, Seq: o.Seq, ID: o.ID, Type: o.Type, ContentType: o.ContentType,
		At: time.UnixMilli(o.At), TraceParent: o.Trace, Data: data, Again: o.Again,
	}}, nil
}

// deliverAll hands over what is queued until ctx ends. The queue outlives connections: a message that is with the
// handler when its connection ends stays there, and those behind it as well.
func (s *Subscriber) deliverAll(ctx context.Context, handler Handler) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e := <-s.events:
			s.deliver(ctx, e, handler)
		}
	}
}

// deliver does with an event what has to be done: nothing when it is not the next one, else the handler or OnGap, and
// then it is due to be acknowledged. What ctx cuts short is not handled.
func (s *Subscriber) deliver(ctx context.Context, e event, handler Handler) {
	switch {
	case e.gap != nil && e.box == nil:
		s.call(func() { s.options.OnGap(*e.gap) }) // welcome has placed the device already
		return
	case !s.ledger.next(e):
		return
	case e.gap != nil:
		s.call(func() { s.options.OnGap(Gap{Address: e.address, From: e.from, To: e.to, Why: e.gap.Why}) })
	case s.handle(ctx, e.message, handler) != nil:
		return
	}
	s.ledger.handled(e)
}

// call calls one of the callbacks: the connection has some of them called, the handler's goroutine others.
func (s *Subscriber) call(callback func()) {
	s.calling.Lock()
	defer s.calling.Unlock()
	callback()
}

// handle calls the handler until it takes the message or has failed six times; then OnFailed has it, and it counts
// as handled: one message must not stop all that come after it. The error is ctx's, and the message is not handled.
func (s *Subscriber) handle(ctx context.Context, m Message, handler Handler) error {
	err := handler(ctx, m)
	for _, pause := range failedPauses {
		if err == nil {
			return nil
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		err = handler(ctx, m)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		s.call(func() { s.options.OnFailed(m, err) })
	}
	return nil
}
