package dispatch

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// batchMost and batchBytes bound a batch. Frames of 8 to 32 messages already cost a quarter of the server's CPU
	// per message (design section 9); more only helps when there is a backlog.
	batchMost  = 256
	batchBytes = 512 << 10
	// frameMost is the largest frame, in bytes, unless one message alone is larger: a NATS message may have 1 MiB.
	frameMost = 900 << 10
)

// routed is one message of the log on its way: the form it has there goes into frames unchanged.
type routed struct {
	delivery jetstream.Msg
	to       subject.Address
	seq      uint64
	encoded  []byte
}

// term is the time in which this process owns a partition. Everything in it belongs to one goroutine.
type term struct {
	*Service
	partition int
	log       chan jetstream.Msg // what comes while a batch is routed makes up the next one
	out       *outbox
	trials    int // so many messages to come are on trial
}

// own is one term.
func (s *Service) own(ctx context.Context, p int) error {
	t := &term{Service: s, partition: p, log: make(chan jetstream.Msg, batchMost), out: newOutbox(s), trials: 1}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return partition.Read(ctx, s.js, fabric.MsgStream(p), fabric.DispatchConsumer, t.log)
	})
	group.Go(func() error { return t.replays(ctx) })
	group.Go(func() error {
		defer t.out.running.Wait()
		for {
			select {
			case <-ctx.Done():
				return nil
			case msg := <-t.log:
				t.take(ctx, msg)
			}
		}
	})
	return group.Wait()
}

// gather adds to a first message what is there already. It waits for nothing.
func (t *term) gather(first jetstream.Msg) []routed {
	batch := t.decode(nil, first)
	for size := len(first.Data()); len(batch) < batchMost && size < batchBytes; {
		select {
		case msg := <-t.log:
			batch = t.decode(batch, msg)
			size += len(msg.Data())
		default:
			return batch
		}
	}
	return batch
}

// decode adds a message of the log to a batch. Only collect writes there: what can't be read is no message, and is
// acknowledged with the batch.
func (s *Service) decode(batch []routed, msg jetstream.Msg) []routed {
	entries, err := message.DecodeEntries(msg.Data())
	if err == nil && len(entries) != 1 {
		err = fmt.Errorf("%d entries in one message", len(entries))
	}
	if err != nil {
		s.faults.Note("read the log", err)
		return append(batch, routed{delivery: msg})
	}
	return append(batch, routed{delivery: msg, to: entries[0].To, seq: entries[0].From, encoded: msg.Data()})
}

// route does a batch: look up, send, acknowledge. It never fails: a node that could not be told is told to sweep when
// it answers again, and one that is gone will find the messages in the archive.
func (s *Service) route(ctx context.Context, batch []routed, out *outbox) {
	heads := make(map[subject.Address]uint64, len(batch))
	for _, r := range batch {
		if r.encoded != nil {
			heads[r.to] = max(heads[r.to], r.seq)
		}
	}
	nodes := s.lookUp(ctx, heads)
	if ctx.Err() == nil { // else the next owner routes it
		out.put(ctx, batch, nodes, frames(batch, nodes))
	}
}

// lookUp finds the nodes of each address, and raises the heads once more, in one round trip. While Redis can't be
// relied on every address goes to every node: to those that are known, who answer, and to everyone, since a node may
// have come meanwhile. More work, and nobody waits; nodes drop what they had.
func (s *Service) lookUp(ctx context.Context, heads map[subject.Address]uint64) map[subject.Address][]string {
	if len(heads) == 0 {
		return nil
	}
	told := make(map[subject.Address][]string, len(heads))
	if s.cache.usable() {
		asking, cancel := context.WithTimeout(ctx, lookUpTimeout)
		defer cancel()
		var err error
		if told, err = s.table.Lookup(asking, heads); err == nil || ctx.Err() != nil {
			return told
		}
		s.faults.Note("look routes up", err)
		s.cache.fail()
	}
	s.cache.owe(heads, false)
	all := s.peers.all()
	for to := range heads {
		told[to] = union(all, told[to])
	}
	return told
}

// union is all with what is in more besides.
func union(all, more []string) []string {
	list := slices.Clip(all)
	for _, id := range more {
		if !slices.Contains(all, id) {
			list = append(list, id)
		}
	}
	return list
}

// frames makes one frame for each node, or a few where one would be too large, keeping the batch's order.
func frames(batch []routed, nodes map[subject.Address][]string) map[string][][]byte {
	all := make(map[string][][]byte)
	for _, r := range batch {
		for _, node := range nodes[r.to] {
			list := all[node]
			if n := len(list); n == 0 || len(list[n-1])+len(r.encoded) > frameMost {
				list = append(list, nil)
			}
			last := len(list) - 1
			list[last] = message.AppendEncoded(list[last], r.encoded)
			all[node] = list
		}
	}
	return all
}
