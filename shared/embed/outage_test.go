package embed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
)

// traffic flows through one partition: a publisher that repeats what was not acknowledged, two owners who read, and a
// stage that sees nothing left out and when something new came.
type traffic struct {
	t       *testing.T
	mu      sync.Mutex // protects the rest
	high    uint64     // stream sequence up to which everything was seen
	acked   uint64     // and up to which the publisher has acknowledgements
	last    time.Time  // when high rose
	longest time.Duration
	owners  int
	most    int
	owner   string // who began last
}

func (f *traffic) take(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		f.t.Error(err)
		return
	}
	_ = m.Ack() // what is not acknowledged comes again
	f.mu.Lock()
	defer f.mu.Unlock()
	switch seq := meta.Sequence.Stream; {
	case seq > f.high+1:
		f.t.Errorf("message %d came, but %d is missing", seq, f.high+1)
		f.high = seq
	case seq == f.high+1:
		f.high = seq
		f.longest = max(f.longest, time.Since(f.last))
		f.last = time.Now()
	}
}

// work reads the partition while it is owned.
func (f *traffic) work(js jetstream.JetStream, id string) partition.Work {
	return func(ctx context.Context, p int) error {
		f.own(1, id)
		defer f.own(-1, "")
		out := make(chan jetstream.Msg, 100)
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return partition.Read(ctx, js, fabric.InStream(p), fabric.CollectConsumer, out) })
		group.Go(func() error {
			for {
				select {
				case m := <-out:
					f.take(m)
				case <-ctx.Done():
					return nil
				}
			}
		})
		return group.Wait()
	}
}

func (f *traffic) own(n int, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owners += n
	if id != "" {
		f.owner = id
	}
	f.most = max(f.most, f.owners)
}

// publish publishes every 10 ms until ctx ends, and tries each message until it is acknowledged.
func (f *traffic) publish(ctx context.Context, js jetstream.JetStream) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		trying, cancel := context.WithTimeout(ctx, time.Second)
		ack, err := js.Publish(trying, alice, []byte(`1`), jetstream.WithMsgID(fmt.Sprint(n)), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			n++
			f.mu.Lock()
			f.acked = max(f.acked, ack.Sequence)
			f.mu.Unlock()
		}
	}
}

// mark begins a measurement, and what returns the longest time without a new message since.
func (f *traffic) mark() func() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.longest, f.last = 0, time.Now()
	return func() time.Duration {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.longest
	}
}

// flows waits until n new messages have come through.
func (f *traffic) flows(n uint64) {
	f.t.Helper()
	f.mu.Lock()
	from := f.high
	f.mu.Unlock()
	eventually(f.t, fmt.Sprint(n, " more messages come through"), func(context.Context) (bool, string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.high >= from+n, fmt.Sprintf("%d since %d, %d owners, accepted up to %d", f.high-from, from, f.owners, f.acked)
	})
}

// leader is the member that leads a stream.
func (c *crew) leader(js jetstream.JetStream, stream string) *member {
	c.t.Helper()
	var found *member
	eventually(c.t, "a leader of "+stream, func(ctx context.Context) (bool, string) {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false, err.Error()
		}
		cluster := s.CachedInfo().Cluster
		current := 0
		for _, replica := range cluster.Replicas {
			if replica.Current && !replica.Offline {
				current++
			}
		}
		for _, m := range c.members {
			if m.Name == cluster.Leader {
				found = m
			}
		}
		return found != nil && current == 2, fmt.Sprintf("leader %q, %d others up to date", cluster.Leader, current)
	})
	return found
}

// Whatever happens to the servers of a cluster, one after the other or most of them, traffic flows again within 10 s of
// it, or of their return, by itself and with nothing left out.
func TestTrafficOutlivesServers(t *testing.T) {
	c := startCrew(t, 1)
	dial := func() jetstream.JetStream { return asJetStream(t, connectAsService(t, c.urls())) }
	admin := dial()
	create(t, admin, fabric.Facts{Epoch: "e1", Partitions: 1}, 3)
	checkReplicas(t, admin, 3)
	f := &traffic{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	leave := make(map[string]context.CancelFunc)
	for _, id := range []string{"a", "b"} {
		js := dial()
		staying, stop := context.WithCancel(ctx)
		leave[id] = stop
		config := partition.Config{Stage: "collect", Instance: id, Partitions: 1, Log: slog.New(slog.DiscardHandler)}
		running.Go(func() {
			if err := partition.Own(staying, js, config, f.work(js, id)); err != nil {
				t.Error(err)
			}
		})
	}
	publisher := dial()
	running.Go(func() { f.publish(ctx, publisher) })
	f.flows(100)

	bound := func(what string, took time.Duration) {
		t.Logf("%s: nothing came for %s", what, took)
		if took > 15*time.Second { // 10 s, on a machine that has nothing else to do
			t.Errorf("%s: nothing came for %s", what, took)
		}
	}
	for _, stream := range []string{fabric.InStream(0), "KV_" + fabric.OwnersBucket} {
		m := c.leader(admin, stream)
		longest := f.mark()
		c.kill(m)
		f.flows(200)
		bound("the leader of "+stream+" killed", longest())
		c.start(m)
	}

	m, longest := c.leader(admin, fabric.InStream(0)), f.mark()
	c.signal(m, syscall.SIGSTOP)
	<-time.After(15 * time.Second)
	f.flows(200)
	bound("the leader paused for 15 s", longest())
	longest = f.mark()
	c.signal(m, syscall.SIGCONT)
	f.flows(500)
	bound("it went on", longest())

	c.leader(admin, fabric.InStream(0))
	for _, m := range c.members[:2] {
		c.kill(m)
	}
	<-time.After(5 * time.Second)
	for _, m := range c.members[:2] {
		c.start(m)
	}
	begun := time.Now()
	f.flows(500)
	bound("two of three killed, and back after 5 s", time.Since(begun)-500*10*time.Millisecond)
	longest = f.mark()
	f.mu.Lock()
	owner := f.owner
	f.mu.Unlock()
	leave[owner]() // the other one sees it although most of the servers that told him of leases are new
	f.flows(200)
	bound("handed over afterwards", longest())
	cancel()
	running.Wait()
	f.complete(admin)
}

// complete says what was accepted and did not come: nothing, but for what came after the last message was taken.
func (f *traffic) complete(js jetstream.JetStream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := js.Stream(within(f.t, patience), fabric.InStream(0))
	if err != nil {
		f.t.Fatal(err)
	}
	state := s.CachedInfo().State
	if state.LastSeq < f.acked || state.FirstSeq > f.high+1 {
		f.t.Errorf("accepted up to %d, seen up to %d; the stream is %d to %d", f.acked, f.high, state.FirstSeq, state.LastSeq)
	}
	f.t.Logf("%d messages, at most %d owners at once", f.high, f.most)
}

func asJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// checkReplicas says whether everything of a fabric is on n servers: streams, the bucket, and the consumers.
func checkReplicas(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	ctx := within(t, patience)
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		if info.Config.Replicas != n || len(info.Cluster.Replicas) != n-1 {
			t.Errorf("%s is on %d servers", info.Config.Name, 1+len(info.Cluster.Replicas))
		}
		stream, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		consumers := stream.ListConsumers(ctx)
		for c := range consumers.Info() {
			if len(c.Cluster.Replicas) != n-1 {
				t.Errorf("consumer %s of %s is on %d servers", c.Name, info.Config.Name, 1+len(c.Cluster.Replicas))
			}
		}
		if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			t.Fatal(err)
		}
	}
	if err := streams.Err(); err != nil {
		t.Fatal(err)
	}
}

// An owner that was paused disturbs its partition only until its lease has been taken over: when it wakes, far ahead or
// behind, it learns from its lease that it has been replaced, and stops.
func TestAPausedOwnerDisturbsBriefly(t *testing.T) {
	s, admin := startFabric(t, 1)
	wire := startProxy(t, s.URL())
	f := &traffic{t: t}
	b := newBoard(t)
	own := func(url, id string) {
		reading := connect(t, url)
		b.joinWith(url, id, 1, func(ctx context.Context, p int) error {
			b.signIn(p, id)
			defer b.signOut(p, id)
			return f.work(reading, id)(ctx, p)
		})
	}
	own(wire.url(), "paused")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	publisher := connect(t, s.URL())
	running.Go(func() { f.publish(ctx, publisher) })
	f.flows(300)
	longest := f.mark()
	wire.freeze()
	own(s.URL(), "successor")
	<-time.After(6 * time.Second)
	f.flows(100)
	paused := longest()
	longest = f.mark()
	wire.thaw()
	b.await("one owner again", func(w map[int][]string) bool { return len(w[0]) == 1 })
	f.flows(500)
	woken := longest()
	t.Logf("nothing came for %s while it was paused, and for %s when it woke", paused, woken)
	if paused > 5*time.Second || woken > 3*time.Second {
		t.Errorf("nothing came for %s while it was paused, and for %s when it woke", paused, woken)
	}
	cancel()
	running.Wait()
	f.complete(admin)
}
