// Package problem is what Weft says when it refuses something: one stable code and one sentence that tells the
// sender what to do. The same problem appears as an HTTP error, as the answer of a NATS request, as a quarantine
// entry with its receipt, and as an `error` object on the wire.
package problem

import (
	"errors"
	"fmt"
	"net/http"
)

// Code is stable across releases: programs compare it, people search for it.
type Code string

// The codes. Each belongs to one HTTP status; Unavailable, Busy and Draining are worth a retry, the others are not.
const (
	BadRequest     Code = "bad_request"     // the request itself can't be read
	BadAddress     Code = "bad_address"     // unknown kind, missing id
	BadEncoding    Code = "bad_encoding"    // a subject token is not the one legal encoding of an id
	IDTooLong      Code = "id_too_long"     // an id over subject.MaxID bytes
	Empty          Code = "empty"           // a message without payload
	TooLarge       Code = "too_large"       // a payload over the limit
	BadJSON        Code = "bad_json"        // the content type says JSON, the bytes do not
	BadHeader      Code = "bad_header"      // a Weft header whose value can't be read
	Unsupported    Code = "unsupported"     // a part of the contract that this version does not do
	Conflict       Code = "conflict"        // the id is taken by a message with another body
	Poison         Code = "poison"          // a message that makes a stage fail again and again
	Unauthorized   Code = "unauthorized"    // no token, or one that does not verify
	TokenExpired   Code = "token_expired"   // a token that was good once
	Forbidden      Code = "forbidden"       // a good token without the right
	NotFound       Code = "not_found"       // no such path or thing
	Unavailable    Code = "unavailable"     // nobody can do it right now: retry
	Busy           Code = "busy"            // too much at once: retry
	BadFrame       Code = "bad_frame"       // a wire object that can't be read
	UnknownFrame   Code = "unknown_frame"   // a wire object with a `t` that nobody knows
	NotUTF8        Code = "not_utf8"        // a text message that is not UTF-8
	HelloExpected  Code = "hello_expected"  // the first object was not `hello` (or `auth`), or none came in time
	AckAhead       Code = "ack_ahead"       // an acknowledgement above what was sent
	CursorAhead    Code = "cursor_ahead"    // a hello cursor above the head
	NotSubscribed  Code = "not_subscribed"  // an address that the session does not have
	TooSlow        Code = "too_slow"        // a session that does not read or does not acknowledge
	Silent         Code = "silent"          // a session that missed two heartbeats
	Replaced       Code = "replaced"        // a newer connection of the same device exists
	Draining       Code = "draining"        // the node is going away: connect again
	Kicked         Code = "kicked"          // an operator closed the session; it says itself whether to connect again
	InternalFault  Code = "internal"        // a fault of ours
	WrongPartition Code = "wrong_partition" // the fabric was created with another number of partitions
)

var statuses = map[Code]int{
	BadRequest: http.StatusBadRequest, BadAddress: http.StatusUnprocessableEntity, BadEncoding: http.StatusUnprocessableEntity,
	IDTooLong: http.StatusUnprocessableEntity, Empty: http.StatusUnprocessableEntity, TooLarge: http.StatusRequestEntityTooLarge,
	BadJSON: http.StatusUnprocessableEntity, BadHeader: http.StatusUnprocessableEntity, Unsupported: http.StatusUnprocessableEntity,
	Conflict: http.StatusConflict, Unauthorized: http.StatusUnauthorized, TokenExpired: http.StatusUnauthorized,
	Forbidden: http.StatusForbidden, NotFound: http.StatusNotFound, Unavailable: http.StatusServiceUnavailable, Busy: http.StatusTooManyRequests,
	Draining: http.StatusServiceUnavailable, Kicked: http.StatusServiceUnavailable, Poison: http.StatusUnprocessableEntity,
	BadFrame: http.StatusBadRequest, UnknownFrame: http.StatusBadRequest, NotUTF8: http.StatusBadRequest, HelloExpected: http.StatusBadRequest,
	AckAhead: http.StatusConflict, CursorAhead: http.StatusConflict, NotSubscribed: http.StatusConflict, Replaced: http.StatusConflict,
	TooSlow: http.StatusRequestTimeout, Silent: http.StatusRequestTimeout,
}

// Problem is an error that may leave the process. It travels as the JSON object {code, message, field, retry}.
type Problem struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`         // one sentence for a person: what was wrong and what to do
	Field   string `json:"field,omitempty"` // the header, member or parameter that was wrong
	Retry   bool   `json:"retry,omitempty"` // the same request may succeed later
}

// New makes a problem; Retry follows from the code.
func New(code Code, format string, args ...any) *Problem {
	p := &Problem{Code: code, Message: fmt.Sprintf(format, args...)}
	switch code {
	case Unavailable, Busy, Draining, Kicked:
		p.Retry = true
	default:
	}
	return p
}

// ForGood says that whoever gets the problem is not to come again by himself, and returns the problem.
func (p *Problem) ForGood() *Problem {
	p.Retry = false
	return p
}

// In names the field that was wrong and returns the problem.
func (p *Problem) In(field string) *Problem {
	p.Field = field
	return p
}

// Error is the sentence with the code in front.
func (p *Problem) Error() string { return string(p.Code) + ": " + p.Message }

// Is makes errors.Is compare by code, so that a test or a caller can ask for a kind of problem.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Code == p.Code
}

// Status is the HTTP status of the code; a code that is not listed is a fault of ours: 500.
func (p *Problem) Status() int {
	if p.Code == Kicked && !p.Retry {
		return http.StatusForbidden
	}
	if s, ok := statuses[p.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// From finds the Problem in err's chain. An error without one becomes InternalFault with a sentence that gives
// nothing away: what really happened belongs into the log, not on the wire.
func From(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	return New(InternalFault, "something failed on our side; try again, and tell the operator if it goes on")
}
