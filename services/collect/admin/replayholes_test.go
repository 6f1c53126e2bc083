package admin

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// forget deletes messages of a partition's log, by their place in it.
func (w *world) forget(p int, sequences ...uint64) {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fabric.MsgStream(p))
	w.must(err)
	for _, s := range sequences {
		w.must(stream.DeleteMsg(w.t.Context(), s))
	}
}

// What undelivered lists is what a replay sends, also when somebody has purged messages from the middle of the log, or its
// end: the archive has them.
func TestReplaySendsWhatWasPurgedFromTheLog(t *testing.T) {
	for name, gone := range map[string][]uint64{"middle": {7, 9, 11}, "end": {15, 17, 19, 20}, "begin": {1, 2, 3}} {
		for _, single := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " single=", single), func(t *testing.T) {
				w := newWorld(t)
				r := w.route(nil)
				anna, ben, carl := userOf(0, 1), userOf(0, 2), userOf(1, 3)
				var of [2][]*message.Message
				for range 10 {
					of[0] = append(of[0], w.publish(anna, 1)...)
					of[1] = append(of[1], w.publish(ben, 1)...)
				}
				other := w.publish(carl, 5)
				w.forget(0, gone...)
				q := admin.ReplayRequest{Limit: 3}
				if single {
					q.Filter = admin.Filter{Tenant: "default", User: anna.ID}
					of[1], other = nil, nil
				}
				done := w.replay(q)
				ids := r.ids()
				for i, to := range []subject.Address{anna, ben} {
					mine := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id[:len(to.ID)] != to.ID })
					if want := idsOf(of[i]); !slices.Equal(mine, want) {
						t.Errorf("%s is sent %q, want %q", to, mine, want)
					}
				}
				if want := len(of[0]) + len(of[1]) + len(other); done.Sent != want || done.Matched != want || len(ids) != want {
					t.Errorf("%+v, %d came, want %d", done, len(ids), want)
				}
			})
		}
	}
}

// What is purged while a replay is at work keeps nothing else from being sent.
func TestReplayWhoseLogIsPurgedMeanwhile(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	all := w.publish(userOf(0, 1), 10)
	q := admin.ReplayRequest{Run: "run", Limit: 3, By: admin.By{Who: "anna"}}
	page, err := w.desk.replay(t.Context(), q)
	w.must(err)
	w.forget(0, 6)
	q.Position = page.Position
	w.replay(q)
	if ids, want := r.ids(), idsOf(all[:5], all[6:]); !slices.Equal(ids, want) {
		t.Errorf("sent %q, want %q", ids, want)
	}
}

// What the log has lost from its beginning may be of the same millisecond as what is left.
func TestReplaySendsWhatIsAsOldAsTheLogsBeginning(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	anna := userOf(0, 1)
	var batch []*message.Message
	for n := range 6 {
		batch = append(batch, &message.Message{To: anna, ID: fmt.Sprint("m", n)})
	}
	w.storeAtOnce(batch)
	rows, err := w.archive.Rows(t.Context(), anna, 1, 10)
	w.must(err)
	for i, row := range rows {
		if row.Message.Archived != rows[0].Message.Archived {
			t.Fatalf("message %d was archived later; the test needs one batch", i)
		}
		w.log(row.Message)
	}
	stream, err := w.js.Stream(t.Context(), fabric.MsgStream(0))
	w.must(err)
	w.must(stream.Purge(t.Context(), jetstream.WithPurgeSequence(4)))
	w.replay(admin.ReplayRequest{})
	if ids, want := r.ids(), idsOf(batch); !slices.Equal(ids, want) {
		t.Errorf("sent %q, want %q", ids, want)
	}
}
