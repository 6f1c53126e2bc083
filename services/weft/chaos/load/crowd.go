package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/shared/client"
)

const (
	// connecting is how many members of a crowd connect at once in the beginning. Later they all do as they like.
	connecting = 50
	// sending is how many publishes of a crowd are under way at once.
	sending = 64
	// awaitTick is how often Await looks.
	awaitTick = 5 * time.Millisecond
)

// CrowdOptions say how large a crowd is and where it goes.
type CrowdOptions struct {
	NATS string   // URLs, separated by commas
	Push []string // http:// URLs of the push nodes
	Key  auth.Key // signs the tokens
	Seed uint64
	Size int    // members, each a user with one device
	Name string // begins the names of the users; "crowd" when empty
}

// Crowd is many light devices for drills: they acknowledge everything and come back by themselves, and counts are kept
// of them instead of a history. Make it with NewCrowd, run it with Run, wait for Connected.
type Crowd struct {
	o         CrowdOptions
	members   []*member
	connected chan struct{} // closed when every member has been welcomed once
	first     chan struct{} // has a place for each that may connect for the first time
	owing     atomic.Int64  // messages sent, not refused, and not received
}

// NewCrowd makes a crowd; it does no I/O.
func NewCrowd(o CrowdOptions) (*Crowd, error) {
	if o.Size < 1 || len(o.Push) == 0 || !o.Key.CanSign() {
		return nil, errors.New("a crowd needs members, push nodes, and a key that can sign")
	}
	o.Name = cmp.Or(o.Name, "crowd")
	c := &Crowd{o: o, connected: make(chan struct{}), first: make(chan struct{}, connecting)}
	for i := range o.Size {
		m := &member{crowd: c, user: fmt.Sprintf("%s-%d", o.Name, i+1), welcomed: make(chan struct{})}
		h := fnv.New64a()
		_, _ = h.Write([]byte(m.user))                                     // which does not fail
		m.ring = newRing(o.Push, rand.New(rand.NewPCG(o.Seed, h.Sum64()))) //nolint:gosec // a run has to be the same again
		m.home, m.ring.at = i, i                                           // evenly
		c.members = append(c.members, m)
	}
	return c, nil
}

// Run connects the members, 50 at a time, and keeps them connected until ctx ends; it returns when all have ended.
func (c *Crowd) Run(ctx context.Context) {
	var living sync.WaitGroup
	for _, m := range c.members {
		living.Go(func() { m.live(ctx) })
	}
	living.Go(func() {
		for _, m := range c.members {
			select {
			case <-m.welcomed:
			case <-ctx.Done():
				return
			}
		}
		close(c.connected)
	})
	living.Wait()
}

// Connected is closed when every member has been welcomed.
func (c *Crowd) Connected() <-chan struct{} { return c.connected }

// Send publishes so many messages to each member through the stream door, and returns when all are accepted. A
// member's messages are sent one after the other, also by two calls at once. The error says how many were not
// accepted, and why the first was not.
func (c *Crowd) Send(ctx context.Context, each int) error {
	nc, err := nats.Connect(c.o.NATS, nats.Name("chaos-"+c.o.Name), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		return err
	}
	defer nc.Close()
	publisher := client.NewPublisher(nc)
	var mu sync.Mutex // protects failed and first
	var failed int
	var first error
	places := make(chan struct{}, sending)
	var publishing sync.WaitGroup
	for _, m := range c.members {
		places <- struct{}{}
		publishing.Go(func() {
			defer func() { <-places }()
			for range each {
				if err := m.send(ctx, publisher); err != nil {
					mu.Lock()
					failed++
					first = cmp.Or(first, err)
					mu.Unlock()
				}
			}
		})
	}
	publishing.Wait()
	if failed > 0 {
		return fmt.Errorf("%d messages were not accepted; the first: %w", failed, first)
	}
	return nil
}

// Await waits until every message that was sent has been received, or ctx ends: then the error says how many were not.
func (c *Crowd) Await(ctx context.Context) error {
	tick := time.NewTicker(awaitTick)
	defer tick.Stop()
	for c.owing.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d messages did not arrive: %w", c.owing.Load(), ctx.Err())
		}
	}
	return nil
}

// Owing is how many messages were sent, and not refused, that have not been received.
func (c *Crowd) Owing() int { return int(c.owing.Load()) }

// Cut resets the connections of all members at once and returns when: a storm of reconnects follows.
func (c *Crowd) Cut() time.Time {
	moment := time.Now()
	for _, m := range c.members {
		m.cut()
	}
	return moment
}

// Spread sends the members home: to the nodes where they began, evenly. It resets all connections, as Cut does.
func (c *Crowd) Spread() time.Time {
	for _, m := range c.members {
		m.wish.Store(&m.home)
	}
	return c.Cut()
}

// Gather sends all members to one node, the first of Push being 0. It resets all connections, as Cut does.
func (c *Crowd) Gather(node int) time.Time {
	for _, m := range c.members {
		m.wish.Store(&node)
	}
	return c.Cut()
}

// Place is where a member is connected.
type Place struct {
	User   string
	Node   string    // the last that welcomed it
	Since  time.Time // when it did
	Online bool
	Why    error // the last connection ended; nil if it never did
}

// Places are the members' places, always in the same order.
func (c *Crowd) Places() []Place {
	places := make([]Place, len(c.members))
	for i, m := range c.members {
		places[i] = m.placed()
	}
	return places
}

// Reconnects are how many members were welcomed in each second since a moment. It is empty when none was.
func (c *Crowd) Reconnects(since time.Time) []int {
	var seconds []int
	for _, m := range c.members {
		for _, at := range m.openings() {
			if at.Before(since) {
				continue
			}
			second := int(at.Sub(since) / time.Second)
			for len(seconds) <= second {
				seconds = append(seconds, 0)
			}
			seconds[second]++
		}
	}
	return seconds
}

// Spread is how long messages took.
type Spread struct {
	Messages      int // that were received
	P50, P99, Max time.Duration
	Last          time.Time // when the last one was received
}

// Delays are of the messages that were received after a moment, by the members that of chooses by their place in
// Places (nil chooses all). A message's delay counts from its sending or from the moment, whichever is later: from the
// kill of a node, say.
func (c *Crowd) Delays(since time.Time, of func(member int) bool) Spread {
	var s Spread
	var delays []time.Duration
	for i, m := range c.members {
		if of != nil && !of(i) {
			continue
		}
		m.mu.Lock()
		for _, n := range m.notes {
			if !n.got.After(since) {
				continue
			}
			from := n.sent
			if from.Before(since) {
				from = since
			}
			delays = append(delays, n.got.Sub(from))
			if n.got.After(s.Last) {
				s.Last = n.got
			}
		}
		m.mu.Unlock()
	}
	if s.Messages = len(delays); s.Messages == 0 {
		return s
	}
	slices.Sort(delays)
	at := func(q float64) time.Duration { return delays[min(int(q*float64(len(delays))), len(delays)-1)] }
	s.P50, s.P99, s.Max = at(0.50), at(0.99), at(1)
	return s
}

// Counts are what must all be zero in the end, when Await has returned.
type Counts struct {
	Lost     int // accepted and not received
	Doubled  int // received again after it was acknowledged by a hello, or twice in one session
	Jumped   int // received before the one before it, without a gap
	Mistaken int // not the message that was sent to the member under that number
	Gone     int // members that a node refused for good
}

// Counts adds up what the members saw.
func (c *Crowd) Counts() Counts {
	var sum Counts
	for _, m := range c.members {
		m.mu.Lock()
		sum.Doubled += m.counts.Doubled
		sum.Jumped += m.counts.Jumped
		sum.Mistaken += m.counts.Mistaken
		sum.Gone += m.counts.Gone
		for _, n := range m.notes {
			if n.accepted && n.got.IsZero() {
				sum.Lost++
			}
		}
		m.mu.Unlock()
	}
	return sum
}
