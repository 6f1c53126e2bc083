package dispatch

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
)

// killed leaves what owners who died at a message of the log leave in the bucket.
func (w *world) killed(seq uint64, deaths int) {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fabric.MsgStream(0))
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := stream.GetMsg(w.t.Context(), seq)
	if err != nil {
		w.t.Fatal(err)
	}
	bucket, err := w.js.KeyValue(w.t.Context(), fabric.OwnersBucket)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := bucket.PutString(w.t.Context(), fabric.TrialKey(stage, 0), fmt.Sprintf("%d@%d %d", seq, m.Time.UnixNano(), deaths)); err != nil {
		w.t.Fatal(err)
	}
}

// onTrial is what the bucket says of the message at work.
func (w *world) onTrial() string {
	bucket, err := w.js.KeyValue(w.t.Context(), fabric.OwnersBucket)
	if err != nil {
		return err.Error()
	}
	entry, err := bucket.Get(w.t.Context(), fabric.TrialKey(stage, 0))
	if err != nil {
		return err.Error()
	}
	return string(entry.Value())
}

// TestAMessageThatKillsIsLeftOut, acknowledged and not looked into; what is behind it is routed, and nothing is left
// on trial. One that was there at some deaths by chance is routed, singly.
func TestAMessageThatKillsIsLeftOut(t *testing.T) {
	for deaths, want := range map[int]string{
		partition.Deadly:     "[user:u0/2 user:u0/3]",
		partition.Deadly - 1: "[user:u0/1 user:u0/2 user:u0/3]",
		partition.Suspicious: "[user:u0/1 user:u0/2 user:u0/3]",
		1:                    "[user:u0/1 user:u0/2 user:u0/3]",
	} {
		t.Run(fmt.Sprint(deaths), func(t *testing.T) {
			w := newWorld(t)
			n := w.node("n", true, address(0))
			for i := range 3 {
				w.log(address(0), fmt.Sprint(i))
			}
			w.killed(1, deaths)
			w.start()
			w.drained()
			if got := fmt.Sprint(n.got()); got != want {
				t.Errorf("the node got %s, want %s", got, want)
			}
			if deaths >= partition.Suspicious && n.framed() != len(n.got()) {
				t.Errorf("%d messages in %d frames after %d deaths", len(n.got()), n.framed(), deaths)
			}
			w.eventually("nothing is on trial", func() bool { return w.onTrial() == jetstream.ErrKeyNotFound.Error() })
		})
	}
}

// TestATrialIsOnRecordWhileItLasts: who dies now has died at this message.
func TestATrialIsOnRecordWhileItLasts(t *testing.T) {
	w := newWorld(t)
	n := w.node("n", true, address(0))
	n.set(true) // so that the message stays at work
	w.log(address(0), "1")
	w.killed(1, 1)
	w.start(func(c *Config) { c.prompt = patience })
	w.eventually("the trial has been counted", func() bool { return len(w.onTrial()) > 2 && w.onTrial()[len(w.onTrial())-2:] == " 2" })
}
