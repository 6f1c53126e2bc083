// Package admin answers operators: the NATS micro service `weft-admin` on weft.admin.*, one in each collect. What is
// asked and answered is in shared/admin. Nothing is held between two requests, so any collect answers the next page.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// answerWithin is how long one answer may take; what is not done by then is refused as unavailable, or ends its page.
const answerWithin = 4 * time.Second

// waitsWithin is how long whoever asked for a change may take to say that he still waits for it.
const waitsWithin = time.Second

// Deps are what a desk works with; all of it belongs to the collect it is in.
type Deps struct {
	Instance string // the collect's
	NATS     *nats.Conn
	JS       jetstream.JetStream
	Archive  archive.Archive
	Table    *route.Table
	Log      *slog.Logger
	Policy   archive.Policy
	Replicas int          // that the collect asks of streams
	Owns     func() []int // the partitions it owns right now
	// Concurrently makes a handler return at once and bounds how many are at work.
	Concurrently func(micro.HandlerFunc) micro.HandlerFunc
}

// Desk is where a collect answers operators. It holds no state: its methods may run at the same time, in this process
// and in others.
type Desk struct{ Deps }

// New makes a desk. It does no I/O.
func New(d Deps) *Desk { return &Desk{Deps: d} }

// endpoint is one thing that can be asked.
type endpoint struct {
	name    string
	handle  micro.HandlerFunc
	options []micro.EndpointOpt
}

// Serve opens the endpoints until the service it returns is stopped. Handlers that still work end soon after ctx.
func (d *Desk) Serve(ctx context.Context) (micro.Service, error) {
	m, err := micro.AddService(d.NATS, micro.Config{
		Name: "weft-admin", Version: "0.1.0", Description: "answers operators",
		Metadata: map[string]string{"instance": d.Instance},
	})
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	for _, e := range d.endpoints(ctx) {
		options := append([]micro.EndpointOpt{micro.WithEndpointSubject(subject.Admin(e.name))}, e.options...)
		if err := m.AddEndpoint(strings.ReplaceAll(e.name, ".", "-"), d.Concurrently(e.handle), options...); err != nil {
			return nil, errors.Join(fmt.Errorf("admin: %s: %w", e.name, err), m.Stop())
		}
	}
	return m, nil
}

func (d *Desk) endpoints(ctx context.Context) []endpoint {
	everyone := []micro.EndpointOpt{micro.WithEndpointQueueGroupDisabled()} // each collect answers
	return []endpoint{
		{name: admin.Undelivered, handle: answer(ctx, d, d.undelivered)},
		{name: admin.Replay, handle: d.awaited(ctx, answer(ctx, d, d.replay))},
		{name: admin.Trace, handle: answer(ctx, d, d.trace)},
		{name: admin.User, handle: answer(ctx, d, d.user)},
		{name: admin.Kick, handle: d.awaited(ctx, answer(ctx, d, d.kick))},
		{name: admin.Drain, handle: d.awaited(ctx, answer(ctx, d, d.drain))},
		{name: admin.Audit, handle: answer(ctx, d, d.audit)},
		{name: admin.Records, handle: answer(ctx, d, d.records)},
		{name: admin.QuarantineList, handle: answer(ctx, d, d.listQuarantine)},
		{name: admin.QuarantineShow, handle: answer(ctx, d, d.showQuarantined)},
		{name: admin.QuarantineReplay, handle: d.awaited(ctx, answer(ctx, d, d.replayQuarantined))},
		{name: admin.QuarantineDrop, handle: d.awaited(ctx, answer(ctx, d, d.dropQuarantined))},
		{name: admin.Check, handle: answer(ctx, d, d.check), options: everyone},
	}
}

// awaited keeps a handler from changing what nobody waits for any more. It asks who asked, so no clocks are compared.
func (d *Desk) awaited(ctx context.Context, handle micro.HandlerFunc) micro.HandlerFunc {
	return func(r micro.Request) {
		if r.Headers().Get(admin.HeaderWaits) != "" {
			ctx, cancel := context.WithTimeout(ctx, waitsWithin)
			defer cancel()
			if _, err := d.NATS.RequestWithContext(ctx, admin.Waits(r.Reply()), nil); err != nil {
				d.Log.Warn("a change was not made, since nobody waits for it any more", "on", r.Subject(), "err", err)
				rpc.Refuse(r, problem.New(problem.Unavailable, "whoever asked for the change does not say that he still waits for it, so it was not made; try again"))
				return
			}
		}
		handle(r)
	}
}

// answer is a handler that has answerWithin to answer. Errors that are no problem are logged, and told as unavailable:
// what they are about is the archive, JetStream or Redis.
func answer[Q, A any](ctx context.Context, d *Desk, do func(context.Context, Q) (A, error)) micro.HandlerFunc {
	return rpc.Handle(func(q Q) (A, error) {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		a, err := do(ctx, q)
		if err == nil {
			return a, nil
		}
		if p, told := errors.AsType[*problem.Problem](err); told {
			return a, p
		}
		d.Log.Warn("an operator's request failed", "question", fmt.Sprintf("%T", q), "err", err)
		return a, problem.New(problem.Unavailable, "the request failed for now (%v); try again in a moment", err)
	})
}
