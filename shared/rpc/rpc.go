// Package rpc is how services ask each other over NATS: a request, and an answer that is either JSON or a problem.
package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/problem"
)

// Send sends a request and returns the answer's message. The error is a *problem.Problem: the one that the service
// answered with, or Unavailable when nobody answered before ctx ended. Without responders it fails at once.
func Send(ctx context.Context, nc *nats.Conn, request *nats.Msg) (*nats.Msg, error) {
	reply, err := nc.RequestMsgWithContext(ctx, request)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, problem.New(problem.Unavailable, "nobody answers on %s right now; try again in a moment", request.Subject)
	case err != nil:
		return nil, problem.New(problem.Unavailable, "%s did not answer (%v); try again in a moment", request.Subject, err)
	}
	if err := Refused(reply); err != nil {
		return nil, err
	}
	return reply, nil
}

// Refused is the *problem.Problem that an answer says, nil if it says none.
func Refused(reply *nats.Msg) error {
	if reply.Header.Get(micro.ErrorCodeHeader) == "" {
		return nil
	}
	refusal := new(problem.Problem)
	if err := json.Unmarshal(reply.Data, refusal); err != nil || refusal.Code == "" {
		return problem.New(problem.InternalFault, "the request failed: %s", reply.Header.Get(micro.ErrorHeader))
	}
	return refusal
}

// SendJSON sends question as JSON and returns the answer's message. Errors are those of Send.
func SendJSON(ctx context.Context, nc *nats.Conn, to string, question any) (*nats.Msg, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode the question to %s: %w", to, err)
	}
	return Send(ctx, nc, &nats.Msg{Subject: to, Data: body})
}

// Ask sends question as JSON and decodes the JSON answer into answer. Errors are those of Send.
func Ask(ctx context.Context, nc *nats.Conn, to string, question, answer any) error {
	reply, err := SendJSON(ctx, nc, to, question)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return fmt.Errorf("decode the answer of %s: %w", to, err)
	}
	return nil
}

// Handle is a micro handler that decodes the question, calls answer, and responds with what it returns. A question
// that is not JSON is BadRequest.
func Handle[Q, A any](answer func(Q) (A, error)) micro.HandlerFunc {
	return func(r micro.Request) {
		var question Q
		if err := json.Unmarshal(r.Data(), &question); err != nil {
			Refuse(r, problem.New(problem.BadRequest, "the request is not the JSON it should be: %v", err))
			return
		}
		a, err := answer(question)
		if err != nil {
			Refuse(r, err)
			return
		}
		if err := r.RespondJSON(a); err != nil { // over the server's max_payload, say: a refusal still fits
			Refuse(r, err)
		}
	}
}

// Refusal is a problem as the answer of a request that did not come through a micro endpoint.
func Refusal(p *problem.Problem) *nats.Msg {
	body, _ := json.Marshal(p) //nolint:errchkjson // three strings and a bool
	return &nats.Msg{Data: body, Header: nats.Header{
		micro.ErrorCodeHeader: {strconv.Itoa(p.Status())},
		micro.ErrorHeader:     {p.Message},
	}}
}

// Refuse responds with the problem in err's chain, as JSON and as the error headers of NATS micro services.
func Refuse(r micro.Request, err error) {
	p := problem.From(err)
	body, _ := json.Marshal(p) //nolint:errchkjson // three strings and a bool
	// micro sends nothing at all without a description. The only error left is a closed connection: the caller sees a
	// time-out and asks again.
	_ = r.Error(strconv.Itoa(p.Status()), cmp.Or(p.Message, string(p.Code)), body)
}
