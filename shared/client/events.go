package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	lifecycle "github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/subject"
)

// eventStream keeps the lifecycle events; shared/fabric makes it.
const eventStream = "WEFT_EVENT"

// The events.
const (
	Online      = lifecycle.Online
	Offline     = lifecycle.Offline
	Undelivered = lifecycle.Undelivered
)

// EventFilter says which events are read. The zero EventFilter is all that the default tenant still has.
type EventFilter struct {
	Tenant string         // DefaultTenant when empty
	What   lifecycle.What // Online, Offline or Undelivered only; empty for all
	After  uint64         // go on behind this Position; 0 for the oldest that is kept
	Since  time.Time      // those stored from this moment on; only where After is 0
}

// Event is a lifecycle event as the fabric published it.
type Event struct {
	lifecycle.Event

	Position uint64 // for EventFilter.After: of the stream, so not dense
}

// Events reads what the fabric tells of users, in order, and goes on as it comes, until ctx ends or the loop is left: who
// came online and who went offline, and which message has waited for so long that an e-mail or a mobile push may take
// over. Of one user online and offline alternate, and Turn grows by 1. An event that comes twice, as after a crash, has the
// same ID. They are kept for 24 h. A program that keeps the Position of the last one it has dealt with goes on behind it after
// a restart; several that share the work read the stream WEFT_EVENT by a durable consumer of their own (nats/README.md).
//
// It goes on behind the last one as Receipts does, and ends for the same errors. Only ErrEventsGone does not end it: it
// comes with an otherwise empty Event before the next one when events may be gone, because After is older than what is
// kept, or of a stream that was made anew.
func (p *Publisher) Events(ctx context.Context, filter EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		r, err := p.events(filter)
		if err == nil {
			r.gone = func(after uint64) bool {
				return yield(Event{Event: lifecycle.Event{Tenant: r.tenant}, Position: after}, ErrEventsGone)
			}
			r.take = func(position uint64, data []byte) bool {
				e := Event{Position: position}
				// What can't be read is of a later version, or somebody else's.
				return json.Unmarshal(data, &e.Event) != nil || yield(e, nil)
			}
			err = r.readAll(ctx)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errLeft) {
			yield(Event{}, err)
		}
	}
}

// events is a reader of what a filter lets through.
func (p *Publisher) events(f EventFilter) (*reader, error) {
	r := &reader{stream: eventStream, what: "events", tenant: f.Tenant, since: f.Since, after: f.After}
	if r.tenant == "" {
		r.tenant = subject.DefaultTenant
	}
	if err := subject.CheckID(r.tenant); err != nil {
		return nil, err
	}
	what := string(f.What)
	if what == "" {
		what = "*"
	}
	r.filter = subject.Event(r.tenant, what)
	return r, p.connect(r)
}
