package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// patienceWithServices is how long a question is repeated while services start, stop or move.
	patienceWithServices = 30 * time.Second
	// askAgain is the time between two tries.
	askAgain = 500 * time.Millisecond
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
	reply, err := k.request(ctx, &nats.Msg{Subject: subject.Admin(endpoint), Data: body})
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

// request sends a question, and says for as long as it waits for the answer that it does.
func (k *console) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	m.Reply, m.Header = k.nc.NewInbox(), nats.Header{admin.HeaderWaits: {"yes"}}
	replies, err := k.nc.SubscribeSync(m.Reply)
	if err != nil {
		return nil, err
	}
	defer func() { _ = replies.Unsubscribe() }() // fails on a connection that is closed
	waits, err := k.nc.Subscribe(admin.Waits(m.Reply), func(asked *nats.Msg) { _ = asked.Respond(nil) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = waits.Unsubscribe() }()
	if err := k.nc.PublishMsg(m); err != nil {
		return nil, err
	}
	return replies.NextMsgWithContext(ctx)
}

// silence is the problem of a question that may have been heard, and may still be: nobody knows whether what it asked for is
// done.
type silence struct{ *problem.Problem }

func (s silence) Unwrap() error { return s.Problem }

// unanswered is the problem of a question without an answer.
func (k *console) unanswered(endpoint string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped before %s answered: %w", endpoint, err)
	case errors.Is(err, nats.ErrNoResponders):
		return problem.New(problem.Unavailable, "nobody answers on %s at %s: no collect runs there, or an older one; `weft doctor` shows what is missing",
			subject.Admin(endpoint), k.where.name)
	case !k.nc.IsConnected():
		return silence{problem.New(problem.Unavailable, "the connection to NATS at %s is lost: %v; `weft doctor` shows what is missing", k.where.name, err)}
	}
	return silence{problem.New(problem.Unavailable, "%s at %s did not answer within %s; `weft doctor` shows what is missing; or wait longer with --timeout",
		subject.Admin(endpoint), k.where.name, k.at.timeout)}
}

// askPatiently is ask that tries again for up to 30 s while the services are not there, as when they are rolled, and says so
// once.
func (k *console) askPatiently(ctx context.Context, endpoint string, question, answer any) error {
	return k.patiently(ctx, func() error { return k.ask(ctx, endpoint, question, answer) })
}

// askWhole is askPatiently for a change: an answer that is under way when ctx ends is waited for, since nobody would know
// otherwise what was done.
func (k *console) askWhole(ctx context.Context, endpoint string, question, answer any) error {
	return k.patiently(ctx, func() error { return k.ask(context.WithoutCancel(ctx), endpoint, question, answer) })
}

// patiently repeats what fails with a problem that may pass, for up to 30 s.
func (k *console) patiently(ctx context.Context, try func() error) error {
	began := k.now()
	for told := false; ; told = true {
		err := try()
		if err == nil || !retryable(err) || k.now().Sub(began) > patienceWithServices {
			return err
		}
		if !told {
			k.said.clear()
			k.say("waiting: %v", err)
		}
		if pause(ctx, askAgain) != nil {
			return fmt.Errorf("stopped while this went on: %w", err)
		}
	}
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
