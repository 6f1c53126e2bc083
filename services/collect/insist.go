package collect

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/problem"
)

const (
	// answerWithin is how long a request may wait for its batch before it is refused: a publisher at the request door
	// hears within a second that something is down, and at once while it is known to be.
	answerWithin = 700 * time.Millisecond
	// retryAfter is how long collect waits before it tries again what failed on the archive or on NATS. With the
	// longest that an attempt takes it is below the 2 s within which delivery goes on after an outage.
	retryAfter = 250 * time.Millisecond
)

// attempt does something that may hang, and serves the request door meanwhile: once the batch's time is over, or while
// it is known that something is down, requests are refused, those of the batch and those that come. do runs in a
// goroutine that attempt waits for; it must not touch what attempt does: the requests of the batch and t.away.
func (t *term) attempt(ctx context.Context, step string, batch []intake, do func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	late := time.NewTimer(time.Until(t.answerBy))
	defer late.Stop()
	for {
		door := t.door
		if t.away {
			t.refuse(batch)
		} else {
			door = nil
		}
		select {
		case err := <-done:
			if err == nil {
				t.away = false
			} else {
				t.trial.Survived() // whatever is on trial failed, and did not kill
			}
			return err
		case <-late.C:
			t.away, t.why = true, step+": no answer yet"
		case msg := <-door:
			t.refuse([]intake{{request: msg}})
		}
	}
}

// rest waits before the next attempt. While something is down, requests are refused meanwhile.
func (t *term) rest(ctx context.Context, d time.Duration) {
	wake := time.NewTimer(d)
	defer wake.Stop()
	for {
		door := t.door
		if !t.away {
			door = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-wake.C:
			return
		case msg := <-door:
			t.refuse([]intake{{request: msg}})
		}
	}
}

// insist does a step for a batch until it succeeds or ctx ends; only then it returns an error. Once it has failed
// requests are refused: a publisher at the request door is never left waiting for something that is known to be down.
func (t *term) insist(ctx context.Context, step string, batch []intake, do func(context.Context) error) error {
	for {
		err := t.attempt(ctx, step, batch, do)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			t.letGo(batch)
			return ctx.Err()
		}
		t.down(step, err, batch)
		t.rest(ctx, retryAfter)
	}
}

// down takes in that a step failed because something does not answer.
func (t *term) down(step string, err error, batch []intake) {
	t.away, t.why = true, step+": "+cause(err)
	t.refuse(batch)
	t.faults.Note(step, err)
}

// cause is what a publisher may know of a failure: what JetStream itself said, such as that its disk is full.
func cause(err error) string {
	if said, ok := errors.AsType[*jetstream.APIError](err); ok {
		return said.Description
	}
	return "no answer"
}

// refuse tells those who wait at the request door that they must ask again. Their messages stay in the batch: a part
// of it may be in the archive, and what is there must come into the log.
func (t *term) refuse(batch []intake) {
	for i := range batch {
		if in := &batch[i]; in.request != nil {
			in.answer(nil, problem.New(problem.Unavailable, "%s; try again in a moment", t.why))
			in.request = nil
		}
	}
}

// letGo refuses requests because the term ends.
func (t *term) letGo(batch []intake) {
	t.why = "the partition goes to another owner"
	t.refuse(batch)
}

// refuseWaiting refuses the requests that nobody works on yet.
func (t *term) refuseWaiting() {
	for {
		select {
		case msg := <-t.door:
			t.letGo([]intake{{request: msg}})
		default:
			return
		}
	}
}
