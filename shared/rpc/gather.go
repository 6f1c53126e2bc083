package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/problem"
)

// Gather asks everybody who listens on a subject, and returns what has been answered when nobody has said anything for
// quiet, or when ctx ends. Nobody at all is no error, and not waited for. Answers that are refusals, or that can't be read,
// are passed over.
func Gather[A any](ctx context.Context, nc *nats.Conn, to string, question any, quiet time.Duration) ([]A, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode the question to %s: %w", to, err)
	}
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask on %s: %w", to, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails on a connection that is closed
	if err := nc.PublishRequest(to, inbox, body); err != nil {
		return nil, problem.New(problem.Unavailable, "%s can't be asked (%v); try again", to, err)
	}
	var answers []A
	for {
		waiting, cancel := context.WithTimeout(ctx, quiet)
		reply, err := sub.NextMsgWithContext(waiting)
		cancel()
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return answers, nil
		case err != nil && waiting.Err() != nil:
			return answers, nil // that is how it ends
		case err != nil:
			return answers, problem.New(problem.Unavailable, "%s can't be asked (%v); try again", to, err)
		}
		var a A
		if Refused(reply) == nil && json.Unmarshal(reply.Data, &a) == nil {
			answers = append(answers, a)
		}
	}
}
