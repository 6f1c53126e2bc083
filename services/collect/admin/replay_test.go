package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// routing stands for dispatch and the nodes behind it.
type routing struct {
	forget bool // what comes, since there is much

	mu   sync.Mutex                                // protects what follows
	came []*message.Message                        // in the order in which they came
	runs []string                                  // the header of each frame
	fate func(n int, m *message.Message) node.Fate // of the n-th message that comes
	away error                                     // every frame is refused with it
}

// route starts what takes frames; without a fate everything is sent.
func (w *world) route(fate func(n int, m *message.Message) node.Fate) *routing {
	w.t.Helper()
	r := &routing{fate: fate}
	for p := range partitions {
		sub, err := w.nc.Subscribe(subject.Dispatch(p), func(m *nats.Msg) { _ = m.RespondMsg(r.take(p, m)) })
		w.must(err)
		w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	return r
}

func (r *routing) take(p int, m *nats.Msg) *nats.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil {
		return rpc.Refusal(problem.From(r.away))
	}
	entries, err := message.DecodeEntries(m.Data)
	if err != nil {
		return rpc.Refusal(problem.From(err))
	}
	var answer node.Replayed
	for _, e := range entries {
		fate := node.FateSent
		if r.fate != nil {
			fate = r.fate(len(r.came), e.Message)
		}
		if subject.Partition(e.To, partitions) != p {
			fate = "of another partition"
		}
		if !r.forget {
			r.came = append(r.came, e.Message)
		}
		answer.Fates = append(answer.Fates, fate)
	}
	if !r.forget {
		r.runs = append(r.runs, m.Header.Get(node.HeaderReplay))
	}
	body, _ := json.Marshal(answer)
	return &nats.Msg{Data: body}
}

func (r *routing) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = err
}

// ids are those of what came, and are forgotten.
func (r *routing) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := []string{}
	for _, m := range r.came {
		ids = append(ids, m.ID)
	}
	r.came = nil
	return ids
}

func idsOf(lists ...[]*message.Message) []string {
	ids := []string{}
	for _, list := range lists {
		for _, m := range list {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// replay asks for pages as an operator does until it is finished, and returns the sums.
func (w *world) replay(q admin.ReplayRequest) admin.ReplayCount {
	w.t.Helper()
	if q.Run == "" {
		q.Run = "run"
	}
	q.By = admin.By{Who: "anna@desk", Note: "a test"}
	for range 10_000 {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		page, err := w.desk.replay(ctx, q)
		cancel()
		w.must(err)
		q.Done, q.Position = sum(q.Done, page.ReplayCount), page.Position
		if page.Finished {
			return q.Done
		}
	}
	w.t.Fatal("the replay does not end")
	return q.Done
}

func TestReplaySendsWhatIsAboveTheCursorInTheOrderOfTheLog(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	anna, ben, carl := userOf(0, 1), userOf(0, 2), userOf(1, 3)
	w.know(anna, "phone")
	first := w.publish(anna, 3)
	second := w.publish(ben, 2)
	third := w.publish(anna, 3)
	w.publish(subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}, 2)
	other := w.publish(carl, 4)
	w.ack(anna, "phone", 2)
	w.ack(carl, "phone", 1)
	w.know(carl, "tablet")

	done := w.replay(admin.ReplayRequest{Run: "run-1"})
	want := idsOf(first[2:], second, third, other[1:])
	if ids := r.ids(); !slices.Equal(ids, want) {
		t.Errorf("sent %q, want %q", ids, want)
	}
	if done.Matched != len(want) || done.Sent != len(want) || done.Waiting+done.Copied != 0 || done.Read < len(want) {
		t.Errorf("%+v", done)
	}
	records := w.recorded("replay")
	if len(records) != 1 || records[0].ID != "run-1" || records[0].Count != len(want) || records[0].By.Note != "a test" || records[0].At == 0 ||
		string(records[0].Filter) != "{}" || !strings.HasPrefix(records[0].Detail, "finished") {
		t.Errorf("records %+v", records)
	}
	for _, m := range []struct {
		to  subject.Address
		seq uint64
	}{{anna, 6}, {ben, 2}, {carl, 4}} {
		w.ack(m.to, "phone", m.seq)
	}
	if done := w.replay(admin.ReplayRequest{Run: "run-2"}); done != (admin.ReplayCount{}) {
		t.Errorf("after all was acknowledged: %+v", done)
	}
	if ids := r.ids(); len(ids) > 0 {
		t.Errorf("sent %q", ids)
	}
}

func TestReplayMarksWhatItSends(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	w.publish(user(1), 1)
	w.replay(admin.ReplayRequest{Run: "run-7"})
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.came) != 1 || !r.came[0].Again || r.came[0].Seq != 1 || string(r.came[0].Payload) != `"user-1/1"` || r.runs[0] != "run-7" {
		t.Errorf("came %+v of %q", r.came, r.runs)
	}
}

func TestReplayInPages(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	var want [partitions][]string
	for n := range 20 {
		to := userOf(n%partitions, n/3)
		w.know(to, "phone")
		m := w.store(&message.Message{To: to, ID: fmt.Sprint("m", n)})
		w.log(m...)
		want[n%partitions] = append(want[n%partitions], m[0].ID)
	}
	q := admin.ReplayRequest{Run: "run", Limit: 3, By: admin.By{Who: "anna"}}
	var came []string
	for pages := 1; ; pages++ {
		page, err := w.desk.replay(t.Context(), q)
		w.must(err)
		ids := r.ids()
		if page.Matched > 3 || len(ids) != page.Matched {
			t.Fatalf("page %d: %+v, %q came", pages, page, ids)
		}
		// A page that is asked for again, since its answer got lost, sends its own once more and nothing else.
		twice, err := w.desk.replay(t.Context(), q)
		w.must(err)
		twice.Position.End = page.Position.End // the first page chooses it
		if again := r.ids(); !slices.Equal(again, ids) || twice.Position != page.Position {
			t.Fatalf("page %d again: %q at %+v, first %q at %+v", pages, again, twice.Position, ids, page.Position)
		}
		came = append(came, ids...)
		q.Done, q.Position = sum(q.Done, page.ReplayCount), page.Position
		if records := w.recorded("replay"); len(records) != 1 || records[0].Count != len(came) {
			t.Fatalf("page %d: %d came, recorded %+v", pages, len(came), records)
		}
		if page.Finished {
			break
		}
	}
	if all := slices.Concat(want[0], want[1]); !slices.Equal(came, all) {
		t.Errorf("came %q, want %q", came, all)
	}
}

func TestReplayLeavesAloneWhatIsArchivedLater(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	old := w.publish(user(1), 2)
	q := admin.ReplayRequest{Run: "run", Limit: 1, By: admin.By{Who: "anna"}}
	page, err := w.desk.replay(t.Context(), q)
	w.must(err)
	w.publish(user(1), 1)
	q.Position = page.Position
	q.Limit = 0
	page, err = w.desk.replay(t.Context(), q)
	w.must(err)
	if ids := r.ids(); !page.Finished || !slices.Equal(ids, idsOf(old)) {
		t.Errorf("%+v sent %q", page, ids)
	}
}

func TestReplayReadsTheArchiveForWhatTheLogHasNoMore(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprint("force=", force), func(t *testing.T) {
			w := newWorld(t)
			r := w.route(nil)
			owner := w.own()
			anna, ben := userOf(0, 1), userOf(1, 2)
			var lost []*message.Message
			for n := range 3 {
				for _, to := range []subject.Address{anna, ben} {
					lost = append(lost, &message.Message{To: to, ID: fmt.Sprint(to.ID, "/", n+1)})
				}
			}
			lost = w.store(lost...)
			logged := w.store(&message.Message{To: anna, ID: "logged"}, &message.Message{To: anna, ID: "logged too"})
			w.log(logged...)
			// ben's partition has an empty log: all of it is in the archive.
			w.ack(ben, "phone", 1)
			done := w.replay(admin.ReplayRequest{Limit: 2, Force: force})
			ids := r.ids()
			of := func(to subject.Address) []string {
				return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !strings.HasPrefix(id, to.ID) })
			}
			if got := of(anna); !slices.Equal(got, []string{lost[0].ID, lost[2].ID, lost[4].ID}) {
				t.Errorf("of the archive %q", ids)
			}
			if got := of(ben); !slices.Equal(got, []string{lost[3].ID, lost[5].ID}) {
				t.Errorf("of the archive %q", ids)
			}
			if len(ids) != 7 || !slices.Equal(ids[5:], idsOf(logged)) {
				t.Errorf("of the log %q", ids)
			}
			if copies := owner.ids(); force && !slices.Equal(copies, []string{lost[1].ID + "~run"}) || !force && len(copies) > 0 {
				t.Errorf("copied %q", copies)
			}
			if want := len(owner.came) + 7; done.Matched != want || done.Sent != 7 {
				t.Errorf("%+v", done)
			}
		})
	}
}

// owning stands for collect, the owner of all partitions.
type owning struct {
	w    *world
	mu   sync.Mutex // protects what follows
	came []string   // ids of what was archived
	fail func(n int) error
	n    int
}

func (w *world) own() *owning {
	w.t.Helper()
	o := &owning{w: w}
	for p := range partitions {
		sub, err := w.nc.Subscribe(subject.Collect(p), func(m *nats.Msg) { _ = m.RespondMsg(o.take(p, m)) })
		w.must(err)
		w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	return o
}

func (o *owning) take(p int, m *nats.Msg) *nats.Msg {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n++; o.fail != nil {
		if err := o.fail(o.n); err != nil {
			return rpc.Refusal(problem.From(err))
		}
	}
	entries, err := message.DecodeEntries(m.Data)
	if err != nil || len(entries) != 1 || subject.Partition(entries[0].To, partitions) != p {
		return rpc.Refusal(problem.New(problem.BadRequest, "%v", err))
	}
	outcomes, err := o.w.archive.Append(context.Background(), p, []*message.Message{entries[0].Message}, archive.Heads{})
	if err != nil || outcomes[0].Fate == archive.Conflict {
		return rpc.Refusal(problem.New(problem.Conflict, "%v", err))
	}
	if outcomes[0].Fate == archive.Stored {
		o.came = append(o.came, entries[0].Message.ID)
		o.w.log(outcomes[0].Message)
	}
	return &nats.Msg{Data: []byte("{}")}
}

func (o *owning) ids() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.came)
}

func TestReplaySendsOnceWhatTheLogHasTwice(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	stored := w.store(&message.Message{To: user(1), ID: "a"}, &message.Message{To: user(1), ID: "b"}, &message.Message{To: user(1), ID: "c"})
	// A new owner publishes again what is older than the log's window of duplicates.
	for _, m := range stored {
		m.Archived -= 3 * time.Minute.Milliseconds()
	}
	w.log(stored[0], stored[1], stored[0], stored[1], stored[2])
	for _, limit := range []int{1, 2, 1000} {
		if done := w.replay(admin.ReplayRequest{Limit: limit}); done.Sent != 3 {
			t.Errorf("%d a page: %+v", limit, done)
		}
		if ids := r.ids(); !slices.Equal(ids, []string{"a", "b", "c"}) {
			t.Errorf("%d a page: sent %q", limit, ids)
		}
	}
}

func TestReplayTrustsTheArchive(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	good := w.publish(user(1), 2)
	past := w.store(&message.Message{To: user(1), ID: "past", Expires: time.Now().UnixMilli() + 1})
	w.log(past...)
	// What a stream has that lost its archive: another message at a place, and one that the archive does not have.
	other, unknown := *good[1], *good[1]
	other.ID, unknown.Seq, unknown.ID = "other", 99, "unknown"
	w.log(&other, &unknown)
	w.tick()
	if done := w.replay(admin.ReplayRequest{}); done.Sent != 2 || done.Matched != 2 {
		t.Errorf("%+v", done)
	}
	if ids := r.ids(); !slices.Equal(ids, idsOf(good)) {
		t.Errorf("sent %q", ids)
	}
}

func TestReplayWaitsForRoom(t *testing.T) {
	w := newWorld(t)
	full := make(map[string]int)
	r := w.route(func(_ int, m *message.Message) node.Fate {
		switch {
		case strings.HasSuffix(m.ID, "/3"):
			return node.FateAway
		case strings.HasSuffix(m.ID, "/5"): // never has room
			return node.FateFull
		case full[m.ID] < 2:
			full[m.ID]++
			return node.FateFull
		}
		return node.FateSent
	})
	w.publish(user(1), 5)
	began := time.Now()
	if done := w.replay(admin.ReplayRequest{}); done.Sent != 3 || done.Waiting != 2 || done.Matched != 5 {
		t.Errorf("%+v", done)
	}
	if took := time.Since(began); took > answerWithin {
		t.Errorf("the page took %s", took)
	}
	if r.ids(); w.recorded("replay")[0].Count != 3 {
		t.Errorf("recorded %+v", w.recorded("replay")[0])
	}
}

func TestReplayPassesNothingOverWhileDispatchIsAway(t *testing.T) {
	w := newWorld(t)
	want := w.publish(userOf(0, 1), 2)
	q := admin.ReplayRequest{Run: "run", By: admin.By{Who: "anna"}}
	page, err := w.desk.replay(t.Context(), q) // looks where to begin
	w.must(err)
	q.Position = page.Position
	if _, err := w.desk.replay(t.Context(), q); !errors.Is(err, problem.New(problem.Unavailable, "")) || !problem.From(err).Retry {
		t.Fatalf("without dispatch: %v", err)
	}
	// A new owner comes within the page's time.
	r := w.route(nil)
	r.refuse(problem.New(problem.Unavailable, "another has it"))
	time.AfterFunc(100*time.Millisecond, func() { r.refuse(nil) })
	page, err = w.desk.replay(t.Context(), q)
	w.must(err)
	if ids := r.ids(); page.Sent != 2 || !slices.Equal(ids, idsOf(want)) {
		t.Errorf("%+v sent %q", page, ids)
	}
	// What is refused for good is told, and the position stays.
	r.refuse(problem.New(problem.BadRequest, "no"))
	if _, err := w.desk.replay(t.Context(), q); !errors.Is(err, problem.New(problem.BadRequest, "")) {
		t.Errorf("refused for good: %v", err)
	}
}

func TestReplayThatFailsInThePageGoesOnThere(t *testing.T) {
	w := newWorld(t)
	var r *routing
	r = w.route(func(n int, _ *message.Message) node.Fate {
		if n == stepMost-1 { // the first frame is the last one for now
			r.away = problem.New(problem.Unavailable, "gone")
		}
		return node.FateSent
	})
	want := w.publish(userOf(0, 1), stepMost+10)
	q := admin.ReplayRequest{Run: "run", By: admin.By{Who: "anna"}}
	page, err := w.desk.replay(t.Context(), q)
	w.must(err)
	if page.Sent != stepMost || page.Finished {
		t.Fatalf("the page: %+v", page)
	}
	r.refuse(nil)
	first := r.ids()
	q.Position, q.Done = page.Position, page.ReplayCount
	r.fate = nil
	page, err = w.desk.replay(t.Context(), q)
	w.must(err)
	if ids := append(first, r.ids()...); !page.Finished || !slices.Equal(ids, idsOf(want)) {
		t.Errorf("%d came, want %d in order", len(ids), len(want))
	}
	if records := w.recorded("replay"); len(records) != 1 || records[0].Count != len(want) {
		t.Errorf("recorded %+v", records)
	}
}

func TestReplayIsRecordedBeforeAnythingIsSent(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	w.publish(user(1), 1)
	w.archive.failRecords(func(admin.Record) error { return errFault })
	if _, err := w.desk.replay(t.Context(), admin.ReplayRequest{Run: "run", By: admin.By{Who: "anna"}}); !errors.Is(err, errFault) {
		t.Errorf("without a record: %v", err)
	}
	if ids := r.ids(); len(ids) > 0 {
		t.Errorf("sent %q", ids)
	}
}
