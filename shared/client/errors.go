package client

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

var (
	// ErrProtocol is the error of a server that broke the protocol: a jump in the sequence without a gap, or an
	// object that can't be read. The connection is given up and made anew.
	ErrProtocol = errors.New("client: the server broke the protocol")
	// ErrStore is the error of a Store that failed. Run ends with it: nothing is acknowledged that is not kept.
	ErrStore = errors.New("client: the store of the cursors failed")

	errDrained = errors.New("client: the node asked for a reconnect")
)

// Closed is how the server ended a connection, or refused to begin one.
type Closed struct {
	Code    protocol.CloseCode
	Problem *problem.Problem // what it said before; nil when it said nothing
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

// refusedHTTP is Closed for a server that answered the handshake with a status instead of a WebSocket.
func refusedHTTP(status int, text string) *Closed {
	refused := func(code protocol.CloseCode, p problem.Code) *Closed {
		return &Closed{Code: code, Problem: problem.New(p, "the server answered %d to the handshake: %s", status, text)}
	}
	switch {
	case status == http.StatusUnauthorized:
		return refused(protocol.CloseToken, problem.Unauthorized)
	case status == http.StatusForbidden:
		return refused(protocol.CloseForbidden, problem.Forbidden)
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return refused(protocol.CloseBackOff, problem.Busy)
	case status >= http.StatusInternalServerError:
		return refused(protocol.CloseDraining, problem.Unavailable)
	default:
		return refused(protocol.CloseProtocol, problem.BadRequest)
	}
}

// fatal says whether it makes no sense to connect again.
func fatal(err error) bool {
	if errors.Is(err, ErrStore) {
		return true
	}
	closed, ok := errors.AsType[*Closed](err)
	return ok && closed.Code.Fatal()
}
