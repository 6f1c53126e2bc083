package embed_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/subject"
)

var alice = subject.In(subject.UserAddress("default", "alice"))

// publish puts n messages into the stream of a fabric with one partition.
func publish(t testing.TB, js jetstream.JetStream, n int) {
	t.Helper()
	var last jetstream.PubAckFuture
	for range n {
		var err error
		if last, err = js.PublishAsync(alice, []byte(`{"hello":1}`), jetstream.WithStallWait(patience)); err != nil {
			t.Error(err)
			return
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Error("not all publishes were acknowledged")
	}
	select {
	case err := <-last.Err():
		t.Error(err)
	default:
	}
}

// reader is one call of partition.Read.
type reader struct {
	out  chan jetstream.Msg
	end  context.CancelFunc
	done chan error
}

func read(t testing.TB, js jetstream.JetStream, stream, consumer string, room int) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{out: make(chan jetstream.Msg, room), end: cancel, done: make(chan error, 1)}
	var running sync.WaitGroup
	running.Go(func() { r.done <- partition.Read(ctx, js, stream, consumer, r.out) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return r
}

func (r *reader) next(t testing.TB) jetstream.Msg {
	t.Helper()
	select {
	case m := <-r.out:
		return m
	case err := <-r.done:
		t.Fatalf("the reader ended: %v", err)
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil
}

func place(t testing.TB, m jetstream.Msg) jetstream.SequencePair {
	t.Helper()
	meta, err := m.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	return meta.Sequence
}

// stage is what collect does with messages, as far as order is concerned: it may see a message twice, but never one
// whose predecessor it has not seen.
type stage struct {
	t    *testing.T
	mu   sync.Mutex // protects the rest; two owners may work on one archive
	high uint64     // stream sequence up to which everything was seen
	want uint64     // the last one
	full chan struct{}
	seen int
}

func newStage(t *testing.T, want uint64) *stage {
	return &stage{t: t, want: want, full: make(chan struct{})}
}

func (s *stage) take(m jetstream.Msg) {
	meta, err := m.Metadata()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	switch seq := meta.Sequence.Stream; {
	case err != nil:
		s.t.Error(err)
	case seq > s.high+1:
		s.t.Errorf("message %d came, but %d is missing", seq, s.high+1)
	case seq == s.high+1:
		if s.high = seq; seq == s.want {
			close(s.full)
		}
	}
	if err := m.Ack(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		s.t.Error(err)
	}
}

// run takes until ctx ends.
func (s *stage) run(ctx context.Context, out <-chan jetstream.Msg) {
	for {
		select {
		case m := <-out:
			s.take(m)
		case <-ctx.Done():
			return
		}
	}
}

func (s *stage) await() {
	s.t.Helper()
	select {
	case <-s.full:
	case <-time.After(patience):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("only %d of %d messages came", s.high, s.want)
	}
}

// emptied waits until the work queue holds nothing: everything was acknowledged, and the floor moves.
func emptied(t *testing.T, js jetstream.JetStream, stream string) {
	t.Helper()
	eventually(t, "the work queue is empty", func(ctx context.Context) (bool, string) {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false, err.Error()
		}
		c, err := s.Consumer(ctx, fabric.CollectConsumer)
		if err != nil {
			return false, err.Error()
		}
		state, info := s.CachedInfo().State, c.CachedInfo()
		return state.Msgs == 0, fmt.Sprintf("%d messages from %d to %d; the consumer's floor is %d, %d pending, %d unacknowledged",
			state.Msgs, state.FirstSeq, state.LastSeq, info.AckFloor.Stream, info.NumPending, info.NumAckPending)
	})
}

func eventually(t *testing.T, what string, look func(context.Context) (bool, string)) {
	t.Helper()
	ctx := within(t, patience)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	last := "nothing seen"
	for {
		done, state := look(ctx)
		if done {
			return
		}
		if ctx.Err() == nil {
			last = state
		}
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s; at last: %s", what, last)
		case <-ticker.C:
		}
	}
}

func TestTwoReadersReorderNothing(t *testing.T) {
	const n = 10_000
	s, js := startFabric(t, 1)
	stage := newStage(t, n)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer running.Wait()
	defer cancel()
	consume := func() *reader {
		r := read(t, connect(t, s.URL()), fabric.InStream(0), fabric.CollectConsumer, 100)
		running.Go(func() { stage.run(ctx, r.out) })
		return r
	}
	running.Go(func() { publish(t, js, n) })
	for range 3 { // each one resets while the last one is in the middle of its work, and works beside it
		old := consume()
		consume()
		eventually(t, "messages are passing", stage.passing())
		old.end()
		if err := <-old.done; err != nil {
			t.Error(err)
		}
	}
	stage.await()
	emptied(t, js, fabric.InStream(0))
	t.Logf("%d deliveries of %d messages", stage.seen, n)
}

// passing says whether the stage took something new since it was made.
func (s *stage) passing() func(context.Context) (bool, string) {
	s.mu.Lock()
	from := s.high
	s.mu.Unlock()
	return func(context.Context) (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.high > from+200 || s.high == s.want, fmt.Sprint(s.high)
	}
}

func TestAPausedOwnerDoesNotStopTheFloor(t *testing.T) {
	const n = 20_000
	s, js := startFabric(t, 1)
	wire := startProxy(t, s.URL())
	stage := newStage(t, n)
	b := newBoard(t)
	work := func(url, id string) {
		reading := connect(t, url)
		b.joinWith(url, id, 1, func(ctx context.Context, p int) error {
			b.signIn(p, id)
			defer b.signOut(p, id)
			r := read(t, reading, fabric.InStream(p), fabric.CollectConsumer, 100)
			stage.run(ctx, r.out)
			r.end()
			return <-r.done
		})
	}
	work(wire.url(), "paused")
	b.await("the first at work", all(1, "paused"))
	var running sync.WaitGroup
	running.Go(func() {
		for range 20 {
			publish(t, js, n/20)
		}
	})
	defer running.Wait()
	eventually(t, "messages are passing", stage.passing())
	wire.freeze()
	work(s.URL(), "successor")
	took := b.await("the successor at work", func(w map[int][]string) bool { return len(w[0]) == 2 })
	t.Logf("taken over in %s", took)
	eventually(t, "messages are passing again", stage.passing())
	wire.thaw() // its late acknowledgements arrive, and its pulls
	stage.await()
	emptied(t, js, fabric.InStream(0))
	t.Logf("%d deliveries of %d messages", stage.seen, n)
}

// pull asks for n messages as a reader does that was killed: nobody is there any more to acknowledge it.
func pull(t *testing.T, js jetstream.JetStream, n int) *nats.Subscription {
	t.Helper()
	sub, err := js.Conn().SubscribeSync(js.Conn().NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	to := "$JS.API.CONSUMER.MSG.NEXT." + fabric.InStream(0) + "." + fabric.CollectConsumer
	if err := js.Conn().PublishRequest(to, sub.Subject, fmt.Appendf(nil, `{"batch":%d,"expires":30000000000}`, n)); err != nil {
		t.Fatal(err)
	}
	return sub
}

func awaitPulls(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " pulls wait"), func(ctx context.Context) (bool, string) {
		c, err := js.Consumer(ctx, fabric.InStream(0), fabric.CollectConsumer)
		if err != nil {
			return false, err.Error()
		}
		return c.CachedInfo().NumWaiting == n, fmt.Sprint(c.CachedInfo().NumWaiting)
	})
}

func TestASwallowedFirstMessageIsNoticed(t *testing.T) {
	for _, n := range []int{1, 3} { // with others behind it, and with none
		_, js := startFabric(t, 1)
		dead := pull(t, js, 1)
		awaitPulls(t, js, 1)
		r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
		awaitPulls(t, js, 2)
		publish(t, js, n)
		if _, err := dead.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for want := range n {
			m := r.next(t)
			if got := place(t, m).Stream; got != uint64(want+1) {
				t.Errorf("%d messages: %d came, want %d", n, got, want+1)
			}
		}
		t.Logf("%d messages: noticed after %s", n, time.Since(begin))
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("noticed after %s only", took)
		}
	}
}

// Another reader's reset and as many deliveries to it as the first one had: the numbers fit, the messages do not.
func TestNumbersThatFitByChanceAreNoticed(t *testing.T) {
	_, js := startFabric(t, 1)
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	publish(t, js, 3)
	for range 2 {
		if err := r.next(t).DoubleAck(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
	awaitPulls(t, js, 0) // the reader holds message 3, delivery 3, and pulls nothing
	publish(t, js, 3)
	if _, err := js.ResetConsumer(within(t, patience), fabric.InStream(0), fabric.CollectConsumer); err != nil {
		t.Fatal(err)
	}
	other := pull(t, js, 3) // messages 3 to 5; message 6 will be delivery 4
	for range 3 {
		if _, err := other.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []uint64{3, 4, 5, 6} {
		m := r.next(t)
		if got := place(t, m).Stream; got != want {
			t.Fatalf("%d came, want %d", got, want)
		}
		if err := m.DoubleAck(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMessagesThatAreGoneArePassedOver(t *testing.T) {
	_, js := startFabric(t, 1)
	publish(t, js, 5)
	dead := pull(t, js, 5)
	for n := range 5 {
		m, err := dead.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if n == 2 || n == 3 { // acknowledged out of order: 3 and 4 leave the queue, the floor stays
			if err := m.AckSync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	for _, want := range []uint64{1, 2, 5} {
		if got := place(t, r.next(t)).Stream; got != want {
			t.Fatalf("%d came, want %d", got, want)
		}
	}
}

// A restart of the server can leave a message behind in the queue that its consumer holds for acknowledged.
func TestMessagesBelowTheFloorAreRead(t *testing.T) {
	_, js := startFabric(t, 1)
	publish(t, js, 3)
	if _, err := js.ResetConsumerToSequence(within(t, patience), fabric.InStream(0), fabric.CollectConsumer, 3); err != nil {
		t.Fatal(err)
	}
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	for want := range uint64(3) {
		m := r.next(t)
		if got := place(t, m).Stream; got != want+1 {
			t.Fatalf("%d came, want %d", got, want+1)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	emptied(t, js, fabric.InStream(0))
}

func TestReadSurvivesRestarts(t *testing.T) {
	const n = 3000
	f := startRestartable(t, 1)
	publisher, js := connect(t, f.url), connect(t, f.url)
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 10)
	stage := newStage(t, 3*n)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer running.Wait()
	defer cancel()
	running.Go(func() { stage.run(ctx, r.out) })
	for range 2 {
		publish(t, publisher, n)
		before := publisher.Conn().Stats().Reconnects
		f.restart()
		eventually(t, "the publisher is connected again", func(context.Context) (bool, string) {
			return publisher.Conn().Stats().Reconnects > before, publisher.Conn().Status().String()
		})
	}
	begin := time.Now()
	publish(t, publisher, n)
	stage.await()
	t.Logf("all there %s after the second restart, %d deliveries of %d", time.Since(begin), stage.seen, 3*n)
	emptied(t, publisher, fabric.InStream(0))
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("lost acknowledgements kept messages for %s", took)
	}
}

func TestReadWaitsForASlowStage(t *testing.T) {
	_, js := startFabric(t, 1)
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	awaitPulls(t, js, 1)
	publish(t, js, 10)
	awaitPulls(t, js, 0) // the pull has expired, and the reader, who still holds the first message, sent no other
	publish(t, js, 10)
	for want := range uint64(20) {
		m := r.next(t)
		if got := place(t, m); got.Stream != want+1 || got.Consumer != want+1 {
			t.Fatalf("%+v came, want %d", got, want+1)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	emptied(t, js, fabric.InStream(0))
}

func TestAnUnacknowledgedMessageComesAgainInOrder(t *testing.T) {
	_, js := startFabric(t, 1)
	hasty := fabric.Consumer(fabric.CollectConsumer, "")
	hasty.AckWait = 500 * time.Millisecond
	if _, err := js.UpdateConsumer(within(t, patience), fabric.InStream(0), hasty); err != nil {
		t.Fatal(err)
	}
	publish(t, js, 5)
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	for i, want := range []uint64{1, 2, 3, 4, 5, 3, 4, 5} {
		m := r.next(t)
		got := place(t, m)
		if got.Stream != want {
			t.Fatalf("%d came, want %d", got.Stream, want)
		}
		if again := i >= 5; again && got.Consumer != uint64(i-4) {
			t.Errorf("message %d came as delivery %d: the consumer was not reset", want, got.Consumer)
		}
		if want <= 2 {
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestReadWithoutAConsumerFails(t *testing.T) {
	_, js := startFabric(t, 1)
	for _, missing := range [][2]string{{"NOTHING", "collect"}, {fabric.InStream(0), "nobody"}} {
		r := read(t, js, missing[0], missing[1], 0)
		select {
		case err := <-r.done:
			if err == nil {
				t.Errorf("%v: no error", missing)
			}
		case <-time.After(patience):
			t.Errorf("%v: still at it", missing)
		}
	}
}

// BenchmarkRead reads messages that wait in a stream, and acknowledges each.
func BenchmarkRead(b *testing.B) {
	s, js := startFabric(b, 1)
	publish(b, js, b.N)
	reading := connect(b, s.URL())
	b.ResetTimer()
	r := read(b, reading, fabric.InStream(0), fabric.CollectConsumer, 500)
	for range b.N {
		if err := (<-r.out).Ack(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
