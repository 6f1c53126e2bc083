package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// Of a Publisher.
var (
	// ErrUnknown is in the chain of a publish's error when the message may have been taken all the same: an answer was
	// waited for in vain. Publish it again with the same id. An error without it says that it was not taken, and never
	// will be.
	ErrUnknown = errors.New("client: it is not known whether the message was taken; publish it again with the same id")
	// ErrNotSent is in the chain of an error of PublishMany when the message was not sent, since ctx had ended or an
	// earlier one of its address may have to be published again: it must not overtake that one.
	ErrNotSent = errors.New("client: the message was not sent")
	// ErrReceiptsGone is what Receipts yields when facts may be gone that are older than the fabric keeps them. The loop
	// may go on; every other error is its last.
	ErrReceiptsGone = errors.New("client: receipts behind the position may be gone; they are kept for 24 h")
	// ErrEventsGone says the same of Events.
	ErrEventsGone = errors.New("client: events behind the position may be gone; they are kept for 24 h")
)

// Of a Subscriber.
var (
	// ErrProtocol is the error of a server that broke the protocol: a jump in the sequence without a gap, or an
	// object that can't be read. The connection is given up and made anew.
	ErrProtocol = errors.New("client: the server broke the protocol")
	// ErrStore is the error of a Store that failed. Run ends with it: nothing is acknowledged that is not kept.
	ErrStore = errors.New("client: the store of the cursors failed")
	// ErrEnded is the error of a second Run, and of a change of topics that was not confirmed before Run ended.
	ErrEnded = errors.New("client: the subscriber has ended")

	// errLeft is a loop that was left.
	errLeft = errors.New("client: the loop was left")
	// errMissed is a consumer that has lost something on the way.
	errMissed = errors.New("client: a message of the stream was lost on the way")
	// errHeld is a cursor file that somebody else has.
	errHeld    = errors.New("another process or Store uses it; give each device a file of its own")
	errDrained = errors.New("client: the node asked for a reconnect")
	// errUnanswered is a hello that got no answer: the node may still open its session, late.
	errUnanswered = errors.New("client: no answer to hello")
)

// Closed is how the server ended a connection, or refused to begin one: the error of Dial and Run, and of a Status. Its
// chain has the Problem, so that errors.Is(err, problem.New(problem.Replaced, "")) asks for a reason and errors.AsType
// finds the sentence, the field and whether it is worth a retry. Code.Fatal() says whether Run ends with it.
type Closed struct {
	Code    protocol.CloseCode
	Problem *problem.Problem // what it said before; nil when it said nothing
	// RetryAfter is how long it asked not to be asked again; 0 when it did not say.
	RetryAfter time.Duration
}

// Error is the server's sentence where there is one.
func (c *Closed) Error() string {
	if c.Problem == nil {
		return fmt.Sprintf("the server closed the connection (%d)", c.Code)
	}
	return fmt.Sprintf("the server closed the connection (%d): %s", c.Code, c.Problem.Error())
}

// Unwrap makes errors.Is and errors.As find the Problem.
func (c *Closed) Unwrap() error {
	if c.Problem == nil {
		return nil
	}
	return c.Problem
}

// refusedHTTP is Closed for a server that answered the handshake with a status instead of a WebSocket. A body that is
// a problem as JSON speaks for itself.
func refusedHTTP(response *http.Response, body string, now time.Time) *Closed {
	status := response.StatusCode
	code, kind := protocol.CloseProtocol, problem.BadRequest
	switch {
	case status == http.StatusUnauthorized:
		code, kind = protocol.CloseToken, problem.Unauthorized
	case status == http.StatusForbidden:
		code, kind = protocol.CloseForbidden, problem.Forbidden
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		code, kind = protocol.CloseBackOff, problem.Busy
	case status >= http.StatusInternalServerError:
		code, kind = protocol.CloseDraining, problem.Unavailable
	}
	said := new(problem.Problem)
	if err := json.Unmarshal([]byte(body), said); err != nil || said.Code == "" {
		said = problem.New(kind, "the server answered %d to the handshake: %s", status, body)
	}
	return &Closed{Code: code, Problem: said, RetryAfter: retryAfter(response.Header.Get("Retry-After"), now)}
}

// retryAfter reads the header: seconds or a date. What can't be read is 0.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// fatal says whether it makes no sense to connect again.
func fatal(err error) bool {
	if errors.Is(err, ErrStore) {
		return true
	}
	closed, ok := errors.AsType[*Closed](err)
	return ok && closed.Code.Fatal()
}
