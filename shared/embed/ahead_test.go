package embed_test

import (
	"testing"

	"github.com/weftpush/weft/shared/fabric"
)

// A reader that is not listened to holds a bounded number of bytes, and large messages all come.
func TestReadHoldsFewLargeMessages(t *testing.T) {
	const n, size = 60, 900 << 10
	_, js := startFabric(t, 1)
	body := make([]byte, size)
	for range n {
		if _, err := js.Publish(within(t, patience), alice, body); err != nil {
			t.Fatal(err)
		}
	}
	r := read(t, js, fabric.InStream(0), fabric.CollectConsumer, 0)
	delivered := func(at int) {
		t.Helper()
		awaitPulls(t, js, 0) // it has what it asked for, and asks for no more
		c, err := js.Consumer(within(t, patience), fabric.InStream(0), fabric.CollectConsumer)
		if err != nil {
			t.Fatal(err)
		}
		if ahead := int(c.CachedInfo().Delivered.Consumer) - at; ahead*size > 17<<20 {
			t.Errorf("%d messages, %d bytes, are ahead of number %d", ahead, ahead*size, at)
		}
	}
	for want := range n {
		m := r.next(t)
		if got := place(t, m).Stream; got != uint64(want+1) {
			t.Fatalf("%d came, want %d", got, want+1)
		}
		if want%20 == 0 {
			delivered(want)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	emptied(t, js, fabric.InStream(0))
}
