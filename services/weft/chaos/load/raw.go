package load

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/protocol"
)

// raw is a device on connections of its own making: wire truth. Each session takes the next door (see doors). It
// records every message as it comes, and acknowledges it at once.
type raw struct {
	*device

	ring *ring
	door int // that the next session takes, among doors; the raw devices of neighbours begin with different ones
	// What it remembers:
	epoch   string
	cursors map[string]uint64
	forget  atomic.Bool // the next hello is to be without cursors; set by mischief
	// unanswered is when a hello got no answer: its session may replace a later one.
	unanswered time.Time
}

func newRaw(d *device, random *rand.Rand) *raw {
	return &raw{device: d, ring: newRing(d.load.o.Push, random), door: d.number / 2, cursors: make(map[string]uint64)}
}

// stint is one connection; mischief ends its context to make the device leave. It returns errGone when the server does
// not want to see the device again.
func (r *raw) stint(ctx context.Context) error {
	began := time.Now()
	err := r.hold(ctx)
	if ctx.Err() == nil && r.final(err) {
		return errors.Join(errGone, err)
	}
	if ctx.Err() == nil {
		_ = wait(ctx, r.ring.move(err, time.Since(began)))
	}
	return nil
}

// final says whether the server wants no more of this device. One that was replaced by a session of its own, which it
// had given up, comes back.
func (r *raw) final(err error) bool {
	refusal, ok := errors.AsType[*refusal](err)
	if !ok || !refusal.code.Fatal() {
		return false
	}
	if refusal.code == protocol.CloseReplaced && !r.unanswered.IsZero() && time.Since(r.unanswered) < ownReplaced {
		r.unanswered = time.Time{}
		return false
	}
	return true
}

// hold makes a connection and reads it to its end.
func (r *raw) hold(ctx context.Context) error {
	token, err := r.token()
	if err != nil {
		return err
	}
	hello := protocol.FromClient{T: protocol.THello, Device: r.id, Topics: topics[:], Client: "weft-chaos"}
	if !r.forget.Swap(false) {
		hello.Epoch, hello.Cursors = r.epoch, r.cursors
	}
	door := doors[r.door%len(doors)]
	r.door++
	v := visit{dial: r.dial, url: r.ring.url(), other: r.ring.any(), token: token, hello: hello, kind: r.ring.random.IntN(math.MaxInt)}
	w, err := door.open(ctx, v)
	if err != nil {
		if _, answered := errors.AsType[*refusal](err); !answered && !errors.Is(err, errUnsaid) {
			r.unanswered = time.Now()
		}
		return err
	}
	r.welcome(door.name, w.greeting(), hello.Cursors != nil)
	defer context.AfterFunc(ctx, w.bye)()
	defer w.close()
	for {
		objects, err := w.next()
		if err == nil {
			err = r.take(w, objects)
		}
		if err != nil {
			r.offline(ctx, err)
			return err
		}
	}
}

// welcome begins a session. A cursor that the hello named stays.
func (r *raw) welcome(door string, w protocol.Welcome, said bool) {
	if w.Epoch != r.epoch || !said {
		r.epoch, r.cursors = w.Epoch, make(map[string]uint64)
	}
	for address, m := range w.Mailboxes {
		if _, known := r.cursors[address]; !known {
			r.cursors[address] = max(m.Next, 1) - 1
		}
	}
	r.online(door, w.Node)
}

// take records what came together and acknowledges it.
func (r *raw) take(w link, objects []object) error {
	now := r.load.o.Log.Now()
	handled := make(map[string]uint64)
	for i := range objects {
		o := &objects[i]
		address := o.Ch
		if address == "" {
			address = r.Addresses[0]
		}
		switch o.T {
		case protocol.TMsg:
			r.got(now, address, o.Seq, o.ID, o.data())
			handled[address] = max(handled[address], o.Seq)
		case protocol.TGap:
			r.load.o.Log.Gap(record.Gap{Device: r.Name, At: now, To: address, From: o.From, Until: o.To, Why: o.Why})
			handled[address] = max(handled[address], o.To)
		case protocol.TDrain:
			w.leaveWithin(time.Duration(r.ring.random.Int64N(max(o.Within, 1))) * time.Millisecond)
		}
	}
	var acks []protocol.FromClient
	for address, seq := range handled {
		ack := protocol.FromClient{T: protocol.TAck, Seq: seq}
		if address != r.Addresses[0] {
			ack.Ch = address
		}
		r.cursors[address] = max(r.cursors[address], seq)
		acks = append(acks, ack)
	}
	if len(acks) == 0 {
		return nil
	}
	return w.acknowledge(acks)
}
