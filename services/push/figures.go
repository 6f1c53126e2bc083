package push

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// counts are what a node has done since it started. Messages are counted by the batch that a writer takes, so that
// counting costs them nothing.
type counts struct {
	opened atomic.Uint64 // sessions
	sent   atomic.Uint64 // messages and gaps given to transports
	acked  atomic.Uint64 // acknowledgements that raised a cursor
	frames atomic.Uint64 // taken from dispatch
	filled atomic.Uint64 // pages that lanes asked for
}

// listen subscribes to the node's subjects and opens its micro service; stop ends both.
func (n *Service) listen() (stop func(), err error) {
	unsubscribe, err := n.subscribe()
	if err != nil {
		return nil, err
	}
	m, err := n.serveFigures()
	if err != nil {
		unsubscribe()
		return nil, err
	}
	return func() {
		_ = m.Stop() // fails on a connection that is gone
		unsubscribe()
	}, nil
}

// serveFigures opens the micro service weft-push, by which operators find the nodes. Every node answers.
func (n *Service) serveFigures() (micro.Service, error) {
	m, err := micro.AddService(n.nc, micro.Config{
		Name: "weft-push", Version: "0.1.0", Description: "holds the connections",
		Metadata: map[string]string{"instance": n.id, "listen": n.listener.Addr().String()},
	})
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	answer := rpc.Handle(func(struct{}) (admin.NodeAnswer, error) { return n.figures(), nil })
	err = m.AddEndpoint(admin.Nodes, answer, micro.WithEndpointSubject(subject.Admin(admin.Nodes)), micro.WithEndpointQueueGroupDisabled())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("push: %s: %w", subject.Admin(admin.Nodes), err), m.Stop())
	}
	return m, nil
}

// figures is what the node says of itself. It looks at every session: some 10 ms with 100,000.
func (n *Service) figures() admin.NodeAnswer {
	host, _ := os.Hostname() // empty where it is unknown
	sessions := n.all()
	answer := admin.NodeAnswer{
		Node: n.id, Host: host, PID: os.Getpid(), Listen: n.listener.Addr().String(),
		Started: n.started.UnixMilli(), Now: time.Now().UnixMilli(), Draining: n.Refuses(),
		Sessions: len(sessions), Users: int(n.hub.users.Load()),
		Opened: n.counts.opened.Load(), Sent: n.counts.sent.Load(), Acked: n.counts.acked.Load(),
		Frames: n.counts.frames.Load(), Filled: n.counts.filled.Load(),
		Memory: memory(), Tasks: runtime.NumGoroutine(),
	}
	for _, s := range sessions {
		s.mu.Lock()
		answer.Unacked += int64(s.unacked)
		s.mu.Unlock()
	}
	return answer
}

// memory is how much Go holds from the system, in bytes.
func memory() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
