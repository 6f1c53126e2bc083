package dispatch

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/partition"
)

// errDeadly is that a message is left out because every process that looked into it died.
var errDeadly = errors.New("every process that looked into it has died; it is left to be read from the archive")

// take routes a message of the log and what came with it. The term's first message is on trial: if it kills this
// process the next owner knows. Where owners have died before, messages are routed singly, each on trial, until the one
// that kills is found. That one is acknowledged without being looked into: it is in the archive, its head is raised, and
// the next sweep of each node delivers it.
func (t *term) take(ctx context.Context, msg jetstream.Msg) {
	if t.trials == 0 {
		t.route(ctx, t.gather(msg), t.out)
		return
	}
	t.trials--
	trial, err := t.Service.trials.Begin(ctx, t.partition, msg, nil)
	if err != nil { // the bucket is no reason to stop
		t.faults.Note("put a message on trial", err)
		t.route(ctx, t.gather(msg), t.out)
		return
	}
	defer trial.Survived()
	if trial.Deaths >= partition.Suspicious {
		t.trials = max(t.trials, batchMost)
	}
	switch {
	case trial.Deaths >= partition.Deadly:
		t.faults.Note("route a message", errDeadly)
		if err := msg.Ack(); err != nil {
			t.faults.Note("acknowledge", err)
		}
	case t.trials > 0:
		t.route(ctx, t.decode(nil, msg), t.out)
	default:
		t.route(ctx, t.gather(msg), t.out)
	}
}
