// Package load is what the judge of faults puts on a fabric: writers that publish through every door, devices that
// receive and misbehave, and the crowd, thousands of light clients for the drills. It knows only the public doors
// (NATS, HTTP, WebSocket), and records what it saw with package record.
//
// Everything random comes from the seed, with a generator for each actor, so that actors do not disturb each other.
package load

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/subject"
)

// Options say how much is put on which fabric.
type Options struct {
	NATS    string   // URLs, separated by commas
	Push    []string // http:// URLs of the push nodes
	Collect []string // http:// URLs of the collects
	Key     auth.Key // signs the tokens
	Log     *record.Log
	Seed    uint64

	Users    int           // each with two devices: one on the Go client, one raw
	Writers  int           // each writes to every user, and the first two to the topics and to all
	Rate     float64       // operations a second in all; 0 for as many as there is room for
	Mischief time.Duration // the mean pause between two misbehaviours of a device; 0 for none
	Keep     time.Duration // how long the other end of a dead connection sees nothing: more than two heartbeats
	TTL      time.Duration // what the last user gets expires after this; 0 for never
}

// Load is the writers and the devices. Make it with New, run it with Run, wait for Connected; then publish.
type Load struct {
	o       Options
	owed    *owed
	network *network
	devices []*device
	writers []*writer

	acked     atomic.Int64  // operations that were acknowledged
	last      atomic.Int64  // when a device last got something, by the log's clock
	connected chan struct{} // closed when all devices have been welcomed
	calm      chan struct{} // closed when devices are to misbehave no more
	calming   sync.Once
}

// New makes a load; it does no I/O.
func New(o Options) (*Load, error) {
	if o.Users < 1 || o.Writers < 1 || len(o.Push) == 0 || len(o.Collect) == 0 || o.Log == nil || !o.Key.CanSign() {
		return nil, errors.New("the load needs users, writers, push nodes, collects, a log, and a key that can sign")
	}
	l := &Load{o: o, owed: newOwed(), network: newNetwork(o.Keep), connected: make(chan struct{}), calm: make(chan struct{})}
	for u := range o.Users {
		user := fmt.Sprintf("u%d", u+1)
		for _, id := range []string{"app", "raw"} {
			d := &device{load: l, id: id, number: len(l.devices), welcome: make(chan struct{})}
			d.Device = record.Device{Name: user + "/" + id, User: user, App: id == "app", Addresses: append([]string{"user:" + user}, shared()...)}
			for _, address := range d.Addresses {
				l.owed.add(address, d.number)
			}
			l.devices = append(l.devices, d)
		}
	}
	for w := range o.Writers {
		l.writers = append(l.writers, l.newWriter(fmt.Sprintf("w%d", w+1), w < sharing))
	}
	return l, nil
}

// shared are the addresses that every device has.
func shared() []string {
	list := []string{string(subject.All)}
	for _, topic := range topics {
		list = append(list, "topic:"+topic)
	}
	return list
}

// random is the generator of an actor.
func (o *Options) random(actor string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(actor))                   // which does not fail
	return rand.New(rand.NewPCG(o.Seed, h.Sum64())) //nolint:gosec // a run has to be the same again
}

// Devices are the devices, for the first line of the history.
func (l *Load) Devices() []record.Device {
	list := make([]record.Device, len(l.devices))
	for i, d := range l.devices {
		list[i] = d.Device
	}
	return list
}

// Run runs the devices until ctx ends, and returns when all have.
func (l *Load) Run(ctx context.Context) {
	var living sync.WaitGroup
	for _, d := range l.devices {
		living.Go(func() { l.live(ctx, d) })
	}
	living.Go(func() {
		for _, d := range l.devices {
			select {
			case <-d.welcome:
			case <-ctx.Done():
				return
			}
		}
		close(l.connected)
	})
	living.Wait()
	l.network.close()
}

// live is the life of a device, and its mischief once all devices have been welcomed.
func (l *Load) live(ctx context.Context, d *device) {
	var s stinter
	var forget func()
	random := l.o.random(d.Name)
	if d.App {
		s = &app{device: d, random: random}
	} else {
		r := newRaw(d, random)
		s, forget = r, func() { r.forget.Store(true) }
	}
	ctx, end := context.WithCancel(ctx)
	var mischief sync.WaitGroup
	if l.o.Mischief > 0 {
		mischief.Go(func() {
			select {
			case <-l.connected:
				d.misbehave(ctx, l.o.random(d.Name+" mischief"), forget)
			case <-ctx.Done():
			}
		})
	}
	d.live(ctx, s)
	end()
	mischief.Wait()
}

// Connected is closed when every device has been welcomed on all its addresses: what is published from then on is owed
// to all of them.
func (l *Load) Connected() <-chan struct{} { return l.connected }

// InFlight is how many messages were sent, and not refused, that some device has yet to get which is not away on
// purpose: those that a fault can touch. It takes some µs for each message that is owed.
func (l *Load) InFlight() int { return l.owed.flying() }

// Owed is how many messages were sent, and not refused, that some device, connected or away, has yet to get. It is
// cheap.
func (l *Load) Owed() int { return l.owed.count() }

// Acked is how many operations were acknowledged so far.
func (l *Load) Acked() int { return int(l.acked.Load()) }

// Calm ends all misbehaviour: who is away comes back, who is slow is quick again.
func (l *Load) Calm() { l.calming.Do(func() { close(l.calm) }) }

const (
	// settleMost bounds Settle; settleQuiet is how long nothing may come while something is owed.
	settleMost  = 90 * time.Second
	settleQuiet = 30 * time.Second
	// settleMore is how long it waits for what should not come: a message the second time.
	settleMore = 2 * time.Second
	settleTick = 50 * time.Millisecond
)

// Settle calms the devices and waits until each has got what it is owed, or nothing has come for 30 s, at most 90 s. It
// returns how many messages are still owed. Call it when Publish has returned and all faults are healed.
func (l *Load) Settle(ctx context.Context) int {
	l.Calm()
	ctx, cancel := context.WithTimeout(ctx, settleMost)
	defer cancel()
	began := l.o.Log.Now()
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	for l.Owed() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return l.Owed()
		}
		if quiet := l.o.Log.Now() - max(began, l.last.Load()); quiet > settleQuiet.Microseconds() {
			break
		}
	}
	_ = wait(ctx, settleMore)
	return l.Owed()
}
