package embed_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
)

// first returns the message at a place of partition 0's stream, delivered anew.
func first(t *testing.T, js jetstream.JetStream, seq uint64) jetstream.Msg {
	t.Helper()
	if _, err := js.ResetConsumerToSequence(within(t, patience), fabric.InStream(0), fabric.CollectConsumer, seq); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(within(t, patience), fabric.InStream(0), fabric.CollectConsumer)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// begin begins a trial as a process does that has just started.
func begin(t *testing.T, js jetstream.JetStream, p int, m jetstream.Msg, want int) *partition.Trial {
	t.Helper()
	trial, err := partition.NewTrials(js, "collect").Begin(within(t, patience), p, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	if trial.Deaths != want {
		t.Errorf("%d deaths, want %d", trial.Deaths, want)
	}
	return trial
}

func TestDeathsAtOneMessageAreCounted(t *testing.T) {
	_, js := startFabric(t, 1)
	publish(t, js, 2)
	one, two := first(t, js, 1), first(t, js, 2)
	for n := range partition.Deadly {
		begin(t, js, 0, one, n)
	}
	for range 2 { // it stays so until somebody says otherwise
		begin(t, js, 0, one, partition.Deadly)
	}
	begin(t, js, 0, two, 0)
	begin(t, js, 0, one, 0) // only those in a row count
	trial := begin(t, js, 0, one, 1)
	trial.Survived()
	trial.Survived()
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	begin(t, js, 0, one, 0)
	begin(t, js, 1, one, 0) // another partition
	(*partition.Trial)(nil).Survived()
}

// A stream that was lost and made anew begins at 1 again, with another message.
func TestDeathsBelongToAMessageNotToANumber(t *testing.T) {
	_, js := startFabric(t, 1)
	publish(t, js, 1)
	begin(t, js, 0, first(t, js, 1), 0)
	if err := js.DeleteStream(within(t, patience), fabric.InStream(0)); err != nil {
		t.Fatal(err)
	}
	create(t, js, fabric.Facts{Epoch: "e1", Partitions: 1}, 1)
	publish(t, js, 1)
	begin(t, js, 0, first(t, js, 1), 0)
}

func TestWhoWaitsProvesNothing(t *testing.T) {
	_, js := startFabric(t, 1)
	publish(t, js, 1)
	m := first(t, js, 1)
	begin(t, js, 0, m, 0)
	away := errors.New("killed while the archive was away")
	for range partition.Deadly {
		trial, err := partition.NewTrials(js, "collect").Begin(within(t, patience), 0, m, func(context.Context) error { return away })
		if !errors.Is(err, away) || trial != nil {
			t.Fatalf("%v, %v", trial, err)
		}
	}
	begin(t, js, 0, m, 1)
}

// A message that is suspected is on trial alone in its process: what kills the process is it, or not on trial.
func TestSuspectsAreOnTrialOneByOne(t *testing.T) {
	_, js := startFabric(t, 1)
	publish(t, js, 1)
	m := first(t, js, 1)
	for p := range 3 {
		begin(t, js, p, m, 0)
	}
	process := partition.NewTrials(js, "collect")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	trial, err := process.Begin(ctx, 0, m, nil)
	if err != nil || trial.Deaths != 1 {
		t.Fatal(trial, err)
	}
	second := make(chan *partition.Trial, 1)
	go func() {
		trial, err := process.Begin(ctx, 1, m, nil)
		if err != nil {
			t.Error(err)
		}
		second <- trial
	}()
	third, err := process.Begin(ctx, 3, m, nil) // nobody suspects it: it does not wait
	if err != nil || third.Deaths != 0 {
		t.Fatal(third, err)
	}
	select {
	case <-second:
		t.Fatal("two suspects are on trial at once")
	case <-time.After(200 * time.Millisecond):
	}
	begin(t, js, 2, m, 1) // another process waits for nobody
	trial.Survived()
	(<-second).Survived()
	trial, err = process.Begin(ctx, 2, m, nil) // the place is free again
	if err != nil || trial.Deaths != 2 {
		t.Fatal(trial, err)
	}
	trial.Survived()
}
