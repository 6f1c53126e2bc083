package push

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

// TestMergedAcknowledgementsKeepTheTimeOfTheHighest: what is reported of a message is never before its client said it.
func TestMergedAcknowledgementsKeepTheTimeOfTheHighest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAcknowledger("n", "epoch", nil, nil, nil)
		begun := time.Now().UnixMilli()
		say := func(to subject.Address, seq uint64) {
			a.add(alice, "phone", to, seq)
			<-time.After(10 * time.Millisecond)
		}
		for _, to := range []subject.Address{alice, news} {
			say(to, 1) // +0 and +50
			say(to, 5) // +10 and +60
			say(to, 5)
			say(to, 3)
			say(to, 5)
		}
		want := map[subject.Address]heard{alice: {5, begun + 10}, news: {5, begun + 60}}
		check := func(batch []ackedCursor) {
			t.Helper()
			if len(batch) != len(want) {
				t.Fatalf("%d cursors: %+v", len(batch), batch)
			}
			for _, c := range batch {
				if c.heard != want[c.to] {
					t.Errorf("%s: %+v, want %+v", c.to, c.heard, want[c.to])
				}
			}
		}
		batch := a.takeAll(true)
		check(batch)
		a.gone()
		for _, c := range batch { // the stream did not take it; meanwhile the client said it once more
			a.add(alice, "phone", c.to, c.seq)
			a.keep(c.cursorKey, c.heard)
		}
		check(a.takeAll(true))
	})
}

// TestAcknowledgementsSayWhenTheyCame, whichever way: by a session's ack, by a hello, or beside the stream.
func TestAcknowledgementsSayWhenTheyCame(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.push(alice, numbers(3)...)
	said := time.Now().UnixMilli()
	d := n.device(t, "alice", "phone")
	d.wants("", 1, 3)
	// The lowest first: a new device stands where the user's others have come, and what is below that is not news.
	if status, _ := postAck(t, n.listener.Addr().String(), token("alice"), "clock", `{"seq":1}`); status >= 300 {
		t.Fatal(status)
	}
	n.device(t, "alice", "tablet", at(map[string]uint64{"user:alice": 2}))
	d.ack("", 3)
	eventually(t, "all handed over", func() bool { return len(w.heardOf()) == 3 })
	for device, c := range w.heardOf() {
		if c.At < said || c.At > time.Now().UnixMilli() {
			t.Errorf("%s was heard at %d, and has spoken at %d or later", device, c.At, said)
		}
	}
}

// heardOf is the last cursor of each device in WEFT_ACK.
func (w *world) heardOf() map[string]history.Cursor {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), ackStream().Name)
	must(w.t, err)
	state := stream.CachedInfo().State
	last := map[string]history.Cursor{}
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := stream.GetMsg(w.t.Context(), seq)
		must(w.t, err)
		if !strings.HasPrefix(m.Subject, subject.Ack("")) {
			continue // presence
		}
		var batch []history.Cursor
		must(w.t, json.Unmarshal(m.Data, &batch))
		for _, c := range batch {
			last[c.Device] = c
		}
	}
	return last
}
