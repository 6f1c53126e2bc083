package embed_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

func TestManyCreateTheFabricAtOnce(t *testing.T) {
	s := startNATS(t, 4)
	facts := fabric.Facts{Epoch: "e1", Partitions: 4}
	waiting := make(chan fabric.Facts, 1)
	waiter, ctx := connect(t, s.URL()), within(t, patience)
	var group errgroup.Group
	group.Go(func() error {
		f, err := fabric.Wait(ctx, waiter)
		waiting <- f
		return err
	})
	for range 5 {
		js := connect(t, s.URL())
		group.Go(func() error {
			return fabric.Create(ctx, js, facts, fabric.Options{MaxPayload: js.Conn().MaxPayload()})
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting; got != facts {
		t.Errorf("Wait found %+v, want %+v", got, facts)
	}
	for _, want := range fabric.Streams(facts, fabric.Options{MaxPayload: waiter.Conn().MaxPayload()}) {
		checkStream(t, waiter, want)
	}
}

// checkStream compares what the server says about a stream with the definition.
func checkStream(t *testing.T, js jetstream.JetStream, want fabric.Stream) {
	t.Helper()
	ctx := within(t, patience)
	stream, err := js.Stream(ctx, want.Config.Name)
	if err != nil {
		t.Fatal(err)
	}
	got := stream.CachedInfo().Config
	if got.Duplicates != want.Config.Duplicates || got.MaxAge != want.Config.MaxAge || got.Retention != want.Config.Retention ||
		got.MaxMsgSize != want.Config.MaxMsgSize || got.DenyPurge != want.Config.DenyPurge || got.AllowRollup || got.AllowMsgTTL {
		t.Errorf("%s is %+v, want %+v", want.Config.Name, got, want.Config)
	}
	for _, c := range want.Consumers {
		checkConsumer(t, stream, c)
	}
}

func checkConsumer(t *testing.T, stream jetstream.Stream, want jetstream.ConsumerConfig) {
	t.Helper()
	consumer, err := stream.Consumer(within(t, patience), want.Durable)
	if err != nil {
		t.Fatal(err)
	}
	config := consumer.CachedInfo().Config
	if config.FilterSubject != want.FilterSubject || config.AckPolicy != jetstream.AckExplicitPolicy || config.MaxDeliver != -1 || config.MaxAckPending != 8192 || config.AckWait != 30*time.Second {
		t.Errorf("the consumer %s is %+v", want.Durable, config)
	}
}

func TestATooSmallMaxPayloadIsRefused(t *testing.T) {
	js := connect(t, startNATS(t, 1).URL())
	for _, most := range []int64{0, 64 << 10, 1<<20 - 1, 1 << 31} {
		err := fabric.Create(within(t, patience), js, fabric.Facts{Epoch: "e", Partitions: 1}, fabric.Options{MaxPayload: most})
		if !errors.Is(err, &problem.Problem{Code: problem.Unsupported}) || !strings.Contains(err.Error(), "max_payload") {
			t.Errorf("max_payload %d: %v", most, err)
		}
	}
	if _, err := js.Stream(within(t, patience), fabric.AckStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("something was created all the same: %v", err)
	}
}

func TestAnotherNumberOfPartitionsIsRefused(t *testing.T) {
	_, js := startFabric(t, 4)
	err := fabric.Create(within(t, patience), js, fabric.Facts{Epoch: "e1", Partitions: 8}, fabric.Options{MaxPayload: 1 << 20})
	if !errors.Is(err, &problem.Problem{Code: problem.WrongPartition}) || !strings.Contains(err.Error(), "4 partitions, the archive 8") {
		t.Errorf("err %v, want wrong_partition with both numbers", err)
	}
	if f, err := fabric.Wait(within(t, patience), js); err != nil || f.Partitions != 4 {
		t.Errorf("the fabric is %+v (%v) now", f, err)
	}
}

func TestOnlyOneNumberOfPartitionsWins(t *testing.T) {
	s := startNATS(t, 4)
	ctx := within(t, patience)
	var won, refused []int
	var mu sync.Mutex // protects won, refused
	var group errgroup.Group
	for partitions := 1; partitions <= 6; partitions++ {
		js := connect(t, s.URL())
		group.Go(func() error {
			err := fabric.Create(ctx, js, fabric.Facts{Epoch: "e", Partitions: partitions}, fabric.Options{MaxPayload: 1 << 20})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, partitions)
			case errors.Is(err, &problem.Problem{Code: problem.WrongPartition}):
				refused = append(refused, partitions)
			default:
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(won) != 1 || len(refused) != 5 {
		t.Errorf("won %v, refused %v; want one winner", won, refused)
	}
}

func TestANewEpochIsWrittenIntoTheStreams(t *testing.T) {
	_, js := startFabric(t, 2)
	want := fabric.Facts{Epoch: "e2", Partitions: 2}
	create(t, js, want, 1)
	if f, err := fabric.Wait(within(t, patience), js); err != nil || f != want {
		t.Errorf("the fabric is %+v (%v), want %+v", f, err, want)
	}
}

func TestWaitSeesAMissingStream(t *testing.T) {
	_, js := startFabric(t, 2)
	if err := js.DeleteStream(within(t, patience), fabric.MsgStream(1)); err != nil {
		t.Fatal(err)
	}
	_, err := fabric.Wait(within(t, 300*time.Millisecond), js)
	if err == nil || !strings.Contains(err.Error(), fabric.MsgStream(1)) {
		t.Errorf("err %v, want the missing stream", err)
	}
}

func TestWhatWasAcceptedCantBePurged(t *testing.T) {
	_, js := startFabric(t, 1)
	ctx := within(t, patience)
	publish := nats.NewMsg(subject.In(subject.UserAddress("default", "alice")))
	if _, err := js.PublishMsg(ctx, publish); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, fabric.InStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx); err == nil {
		t.Error("an operator's purge went through")
	}
	if err := stream.DeleteMsg(ctx, 1); err == nil {
		t.Error("an operator's delete went through")
	}
	publish.Header.Set("Nats-Rollup", "all")
	if _, err := js.PublishMsg(ctx, publish); err == nil {
		t.Error("a publisher's roll-up went through")
	}
}

func TestClusterFabric(t *testing.T) {
	servers, err := embed.Cluster(t.TempDir(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		defer s.Stop()
	}
	js := connect(t, servers[1].URL())
	begin := time.Now()
	create(t, js, fabric.Facts{Epoch: "e1", Partitions: 2}, 3)
	t.Logf("created in %s", time.Since(begin))
	if _, err := fabric.Wait(within(t, patience), js); err != nil {
		t.Fatal(err)
	}
}

// A fabric of before, whose acknowledgements and reports had one consumer, is brought up to date with what waits there.
func TestTheConsumerOfEverythingGoes(t *testing.T) {
	js := connect(t, startNATS(t, 1).URL())
	ctx := within(t, patience)
	facts, o := fabric.Facts{Epoch: "e", Partitions: 1}, fabric.Options{MaxPayload: js.Conn().MaxPayload()}
	if err := fabric.Create(ctx, js, facts, o); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, fabric.AckStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fabric.AckConsumer, fabric.RoutedConsumer, fabric.PresenceConsumer} {
		if err := stream.DeleteConsumer(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	before, err := stream.CreateConsumer(ctx, fabric.Consumer(fabric.CollectConsumer, ""))
	if err != nil {
		t.Fatal(err)
	}
	subjects := []string{subject.Ack("n"), subject.Routed("d"), subject.Presence("n")}
	for _, s := range append(subjects, subjects...) {
		if _, err := js.Publish(ctx, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := before.Next(); err != nil { // one is under way
		t.Fatal(err)
	}
	var group errgroup.Group
	for range 3 {
		group.Go(func() error { return fabric.Create(ctx, js, facts, o) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fabric.AckConsumer, fabric.RoutedConsumer, fabric.PresenceConsumer} {
		c, err := stream.Consumer(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if n := c.CachedInfo().NumPending; n != 2 {
			t.Errorf("%d wait for %s, want 2", n, name)
		}
	}
	if _, err := stream.Consumer(ctx, fabric.CollectConsumer); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("the consumer of everything: %v", err)
	}
}
