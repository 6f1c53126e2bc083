package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// patienceWithServices is how long a question is repeated while services start, stop or move.
	patienceWithServices = 30 * time.Second
	// between two tries, and between two answers of several.
	askAgain = 500 * time.Millisecond
	// trickle is how long askEach waits for one more answer after the last: nodes answer from memory.
	trickle = 400 * time.Millisecond
)

// ask sends a question to an endpoint of the operators' services and decodes the answer. The error is a *problem.Problem
// with a sentence that says what to do.
func (k *console) ask(ctx context.Context, endpoint string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode the question to %s: %w", endpoint, err)
	}
	ctx, cancel := context.WithTimeout(ctx, k.at.timeout)
	defer cancel()
	reply, err := k.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject.Admin(endpoint), Data: body})
	if err != nil {
		return k.unanswered(endpoint, err)
	}
	if err := rpc.Refused(reply); err != nil {
		return err
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return fmt.Errorf("decode the answer of %s: %w; is the fabric of another version?", endpoint, err)
	}
	return nil
}

// unanswered is the problem of a question without an answer.
func (k *console) unanswered(endpoint string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped before %s answered: %w", endpoint, err)
	case errors.Is(err, nats.ErrNoResponders):
		return problem.New(problem.Unavailable, "nobody answers on %s at %s: %s; `weft doctor` shows what is missing",
			subject.Admin(endpoint), k.where.name, missing(endpoint))
	case !k.nc.IsConnected():
		return problem.New(problem.Unavailable, "the connection to NATS at %s is lost: %v; `weft doctor` shows what is missing", k.where.name, err)
	}
	return problem.New(problem.Unavailable, "%s at %s did not answer within %s; try again, or wait longer with --timeout",
		subject.Admin(endpoint), k.where.name, k.at.timeout)
}

// askPatiently is ask that tries again for up to 30 s while the services are not there, as when they are rolled, and says so
// once.
func (k *console) askPatiently(ctx context.Context, endpoint string, question, answer any) error {
	began := k.now()
	for told := false; ; told = true {
		err := k.ask(ctx, endpoint, question, answer)
		if err == nil || !retryable(err) || k.now().Sub(began) > patienceWithServices {
			return err
		}
		if !told {
			k.said.clear()
			k.say("waiting: %v", err)
		}
		if err := pause(ctx, askAgain); err != nil {
			return err
		}
	}
}

// askEach sends a question to an endpoint that every instance answers (admin.Nodes, admin.Check) and hands each answer's JSON
// to take. It ends 400 ms after the last answer. That nobody answers is an error, as for ask.
func (k *console) askEach(ctx context.Context, endpoint string, question any, take func([]byte) error) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode the question to %s: %w", endpoint, err)
	}
	inbox := k.nc.NewRespInbox()
	replies, err := k.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("ask %s: %w", endpoint, err)
	}
	defer func() { _ = replies.Unsubscribe() }() // the connection is closed soon
	if err := k.nc.PublishRequest(subject.Admin(endpoint), inbox, body); err != nil {
		return fmt.Errorf("ask %s: %w", endpoint, err)
	}
	wait := k.at.timeout
	for {
		next, cancel := context.WithTimeout(ctx, wait)
		reply, err := replies.NextMsgWithContext(next)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && wait == trickle:
			return nil
		case err != nil:
			return k.unanswered(endpoint, err)
		}
		wait = trickle
		if rpc.Refused(reply) != nil { // one that can't say does not hide those that can
			continue
		}
		if err := take(reply.Data); err != nil {
			return err
		}
	}
}

// missing says which service an endpoint is missing without.
func missing(endpoint string) string {
	if endpoint == "nodes" {
		return "no push node runs there"
	}
	return "no collect runs there, or one that is older than this command"
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
