package embed_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/fabric"
)

// A paused owner wakes when its successor has reset the consumer and is at a low number, and acknowledges deliveries of high
// numbers. The floor must go on, whether or not the successor has seen those messages by then.
func TestLateAcknowledgementsOfHighNumbersDoNotStopTheFloor(t *testing.T) {
	const n, seen = 500, 20
	_, js := startFabric(t, 1)
	publish(t, js, n)
	paused := pull(t, js, n)
	var late []*nats.Msg
	for range n {
		m, err := paused.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		late = append(late, m)
	}
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	high := uint64(0)
	take := func(upTo uint64) { // each message may come again, none is passed over that nobody acknowledged
		t.Helper()
		for high < upTo {
			m := r.next(t)
			got := place(t, m).Stream
			if got > high+1 && got <= n/2 {
				t.Fatalf("%d came after %d", got, high)
			}
			high = max(high, got)
			if err := m.DoubleAck(within(t, patience)); err != nil {
				t.Fatal(err)
			}
		}
	}
	take(seen)
	for _, m := range late[n/2:] {
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	take(n / 2)
	publish(t, js, n)
	take(2 * n)
	emptied(t, js, fabric.InStream(0))
}
