package push

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// ackEvery is how often acknowledgements go out. The client holds its own cursor meanwhile, so losing up to this
	// much costs a repetition that the client drops, never a message.
	ackEvery = 50 * time.Millisecond
	// sharedEvery is how often the cursors of topics and `all` go out: a message to everyone must not make one write
	// a device.
	sharedEvery = time.Minute
	// ackBatch is the most cursors in one message of WEFT_ACK: even ids of 128 characters that JSON escapes make no
	// more than 2.7 KB each, which stays under the 1 MiB of a NATS message.
	ackBatch = 300
	// ackTimeout bounds one attempt to hand a batch over.
	ackTimeout = 5 * time.Second
	// raiseTimeout bounds what Redis may take for one batch.
	raiseTimeout = time.Second
)

// cursorKey names a cursor.
type cursorKey struct {
	user   subject.Address
	device string
	to     subject.Address
}

// acknowledger collects what sessions acknowledged and hands it over in batches: to Redis, where the next session of
// the device looks first, and to the stream WEFT_ACK, from which collect raises the cursors of the archive. Later
// acknowledgements of one cursor replace earlier ones, so what is held is bounded by the devices, not by the messages.
type acknowledger struct {
	node  string
	epoch string // of the archive whose numbers these are
	js    jetstream.JetStream
	table *route.Table
	fault *service.Faults

	mu     sync.Mutex // protects the maps
	own    map[cursorKey]heard
	shared map[cursorKey]heard
	going  map[cursorKey]heard // what flush is handing over
}

// heard is an acknowledgement, and when it came (ms since 1970). Of several that were merged it is the highest, with its
// own time: no message below it can have been acknowledged later, so nothing is ever reported before its client said it.
type heard struct {
	seq uint64
	at  int64
}

// highest is the higher of two; of equals the one that came first.
func highest(a, b heard) heard {
	if b.seq > a.seq || b.seq == a.seq && b.at < a.at {
		return b
	}
	return a
}

func newAcknowledger(node, epoch string, js jetstream.JetStream, table *route.Table, fault *service.Faults) *acknowledger {
	return &acknowledger{
		node: node, epoch: epoch, js: js, table: table, fault: fault,
		own: make(map[cursorKey]heard), shared: make(map[cursorKey]heard), going: make(map[cursorKey]heard),
	}
}

// add notes an acknowledgement. It never waits.
func (a *acknowledger) add(user subject.Address, device string, to subject.Address, seq uint64) {
	a.keep(cursorKey{user: user, device: device, to: to}, heard{seq, time.Now().UnixMilli()})
}

func (a *acknowledger) keep(key cursorKey, h heard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if key.to.Kind == subject.User {
		a.own[key] = highest(a.own[key], h)
	} else {
		a.shared[key] = highest(a.shared[key], h)
	}
}

// waiting is what a device has acknowledged of some addresses and Redis may not have yet.
func (a *acknowledger) waiting(user subject.Address, device string, addresses []subject.Address) map[subject.Address]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	cursors := make(map[subject.Address]uint64)
	for _, to := range addresses {
		key := cursorKey{user: user, device: device, to: to}
		if seq := max(a.own[key].seq, a.shared[key].seq, a.going[key].seq); seq > 0 {
			cursors[to] = seq
		}
	}
	return cursors
}

// hasten lets the shared cursors of lanes that ended go out with the next batch.
func (a *acknowledger) hasten(s *session, lanes []*lane) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range lanes {
		key := cursorKey{user: s.user, device: s.device, to: l.to}
		if h, ok := a.shared[key]; ok {
			delete(a.shared, key)
			a.own[key] = highest(a.own[key], h)
		}
	}
}

// run hands acknowledgements over until ctx ends, and then what is left.
func (a *acknowledger) run(ctx context.Context) error {
	beat := time.NewTicker(ackEvery)
	defer beat.Stop()
	last := time.Now()
	for {
		select {
		case now := <-beat.C:
			all := now.Sub(last) >= sharedEvery
			if all {
				last = now
			}
			a.flush(ctx, all)
		case <-ctx.Done():
			a.flush(context.WithoutCancel(ctx), true)
			return nil
		}
	}
}

// flush hands over what is there; a batch that WEFT_ACK did not take stays for the next time.
func (a *acknowledger) flush(ctx context.Context, all bool) {
	batch := a.takeAll(all)
	defer a.gone()
	cache := true // until Redis fails once: while it hangs, it must not hold every part of a large batch up
	for len(batch) > 0 {
		n := min(len(batch), ackBatch)
		cache = cache && a.raise(ctx, batch[:n])
		if err := a.hand(ctx, batch[:n]); err != nil {
			a.fault.Note("hand acknowledgements over", err)
			for _, c := range batch {
				a.keep(c.cursorKey, c.heard)
			}
			return
		}
		batch = batch[n:]
	}
}

// record hands cursors over at once, and returns when that is durable: nobody else holds them.
func (a *acknowledger) record(ctx context.Context, cursors []ackedCursor) error {
	for part := range slices.Chunk(cursors, ackBatch) {
		a.raise(ctx, part)
		if err := a.hand(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

type ackedCursor struct {
	cursorKey
	heard
}

func (a *acknowledger) takeAll(all bool) []ackedCursor {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.own, a.going = a.going, a.own
	if all {
		for key, h := range a.shared {
			a.going[key] = highest(a.going[key], h)
		}
		clear(a.shared)
	}
	batch := make([]ackedCursor, 0, len(a.going))
	for key, h := range a.going {
		batch = append(batch, ackedCursor{key, h})
	}
	return batch
}

// gone notes that what flush took is handed over, or was put back.
func (a *acknowledger) gone() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.going)
}

// raise raises cursors in Redis, and says whether that went well.
func (a *acknowledger) raise(ctx context.Context, batch []ackedCursor) bool {
	ctx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	cursors := make([]route.Cursor, len(batch))
	for i, c := range batch {
		cursors[i] = route.Cursor{User: c.user, Device: c.device, Address: c.to, Seq: c.seq}
	}
	err := a.table.RaiseCursors(ctx, cursors)
	if err != nil {
		a.fault.Note("raise cursors in Redis", err) // a cache: the stream is what counts
	}
	return err == nil
}

// hand gives a batch to the stream.
func (a *acknowledger) hand(ctx context.Context, batch []ackedCursor) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	record := make([]history.Cursor, len(batch))
	for i, c := range batch {
		record[i] = history.Cursor{Tenant: c.user.Tenant, User: c.user.ID, Device: c.device, Address: c.to.Tokens(), Seq: c.seq, At: c.at}
	}
	body, err := json.Marshal(record)
	if err != nil {
		return err
	}
	_, err = a.js.PublishMsg(ctx, &nats.Msg{
		Subject: subject.Ack(a.node), Data: body, Header: nats.Header{history.HeaderEpoch: {a.epoch}},
	})
	return err
}
