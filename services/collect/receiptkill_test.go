package collect

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// TestReceiptsSurviveKills kills collect after collect while it takes acknowledgements in and settles what has expired:
// in the end each message that asked has exactly one state at each device that was known, and the archive agrees.
func TestReceiptsSurviveKills(t *testing.T) {
	t.Parallel() // it waits for takeovers, mostly
	const users, each, kills = 10, 30, 4
	w := newWorld(t)
	r := w.start()
	for u := range users {
		w.open(user(u), "phone", "tablet", "muted")
		w.asked(user(u), each-1)
		w.expiring(user(u), 1, time.Now()) // the last one
	}
	r.stop()
	ctx, stop := context.WithCancel(t.Context())
	var acknowledging sync.WaitGroup
	t.Cleanup(func() { stop(); acknowledging.Wait() })
	acknowledging.Go(func() {
		for seq := uint64(1); seq < each && ctx.Err() == nil; seq++ {
			for u := range users {
				w.ack(upTo(user(u), "phone", seq), upTo(user(u), "tablet", seq))
			}
		}
	})
	for k := range kills {
		c := w.owner()
		w.eventually("some receipts more", func() bool { return w.count(fabric.ReceiptStream) > k*users*each/kills })
		c.kill()
	}
	acknowledging.Wait()
	w.start()
	w.hurry()
	w.ackDrained()
	w.eventually("settled what expired", func() bool { return w.count(fabric.ReceiptStream) >= users*(2*each+1) })
	want := map[string]message.State{}
	for u := range users {
		for _, device := range []string{"phone", "tablet"} {
			for _, key := range keysOf(user(u), device, 1, each-1) {
				want[key] = message.StateDelivered
			}
		}
		for _, device := range []string{"phone", "tablet", "muted"} {
			want[keysOf(user(u), device, each, each)[0]] = message.StateExpired
		}
	}
	told := w.told()
	for key, state := range want {
		if told[key].State != state {
			t.Errorf("%s is told as %q, want %s", key, told[key].State, state)
		}
	}
	if len(told) != len(want) {
		t.Errorf("%d are told, want %d", len(told), len(want))
	}
	for u := range users {
		states, err := w.archive.SettledOf(t.Context(), user(u), 1, each)
		if err != nil || len(states) != 2*each+1 {
			t.Errorf("the archive has %d states of %s, %v", len(states), user(u), err)
		}
		for _, s := range states {
			if key := keysOf(user(u), s.Device, s.Message.Seq, s.Message.Seq)[0]; told[key].State != s.State || told[key].At != s.At {
				t.Errorf("%s is stored as %s, and told as %+v", key, s.State, told[key])
			}
		}
	}
}

// hurry lets what the dead had taken come again at once, not after 30 s.
func (w *world) hurry() {
	w.t.Helper()
	c := fabric.Consumer(fabric.AckConsumer, subject.AckAll)
	c.AckWait = time.Second
	if _, err := w.js.UpdateConsumer(w.t.Context(), fabric.AckStream, c); err != nil {
		w.t.Fatal(err)
	}
}
