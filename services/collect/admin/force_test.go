package admin

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

func TestForcedReplayCopiesOnceWhatWasAcknowledged(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprint("single=", single), func(t *testing.T) {
			w := newWorld(t)
			r, owner := w.route(nil), w.own()
			anna := user(1)
			w.know(anna, "phone")
			m := w.store(
				&message.Message{To: anna, ID: "a", Type: "t", Receipt: true, Payload: []byte(`{"n":1}`)},
				&message.Message{To: anna, ID: "b", Expires: time.Now().Add(time.Hour).UnixMilli()},
				&message.Message{To: anna, ID: "past", Expires: time.Now().UnixMilli() + 1},
				&message.Message{To: anna, ID: strings.Repeat("x", 250)},
				&message.Message{To: anna, ID: "above"},
			)
			w.log(m...)
			w.ack(anna, "phone", 4)
			q := admin.ReplayRequest{Run: "again", Force: true, Limit: 2}
			if single {
				q.Filter = admin.Filter{Tenant: "default", User: anna.ID}
			}
			done := w.replay(q)
			long := copyID(strings.Repeat("x", 250), "again")
			if copies := owner.ids(); !slices.Equal(copies, []string{"a~again", "b~again", long}) {
				t.Errorf("copied %q", copies)
			}
			if ids := r.ids(); !slices.Equal(ids, []string{"above"}) || done.Sent != 1 || done.Copied != 3 || done.Matched != 4 {
				t.Errorf("sent %q: %+v", ids, done)
			}
			rows, err := w.archive.Rows(t.Context(), anna, 6, 10)
			w.must(err)
			if len(rows) != 3 {
				t.Fatalf("%d rows after the copies", len(rows))
			}
			first, second := rows[0].Message, rows[1].Message
			if !first.Again || first.Receipt || first.Type != "t" || first.Expires != 0 || first.At < m[0].At || rows[0].Size != len(`{"n":1}`) {
				t.Errorf("the copy %+v", first)
			}
			if second.Expires != m[1].Expires {
				t.Errorf("the copy expires at %d, the message at %d", second.Expires, m[1].Expires)
			}
			// The same replay once more, and another one when the copies were acknowledged: they are copied by neither.
			w.replay(q)
			if copies := owner.ids(); len(copies) != 3 {
				t.Errorf("done twice: copied %q", copies)
			}
			w.ack(anna, "phone", 8)
			q.Run = "third"
			w.replay(q)
			if copies := owner.ids()[3:]; !slices.Equal(copies, []string{"a~third", "b~third", copyID(strings.Repeat("x", 250), "third"), "above~third"}) {
				t.Errorf("another replay: copied %q", copies)
			}
		})
	}
}

func TestForcedReplayThatFailsKeepsTheOrderAndDoublesNothing(t *testing.T) {
	w := newWorld(t)
	w.route(nil)
	owner := w.own()
	owner.fail = func(n int) error {
		if n == 3 || n > 5 && n < 9 {
			return problem.New(problem.Unavailable, "between two owners")
		}
		return nil
	}
	w.publish(user(1), 8)
	w.ack(user(1), "phone", 8)
	if done := w.replay(admin.ReplayRequest{Force: true}); done.Copied != 8 {
		t.Errorf("%+v", done)
	}
	var want []string
	for n := range 8 {
		want = append(want, fmt.Sprintf("user-1/%d~run", n+1))
	}
	if copies := owner.ids(); !slices.Equal(copies, want) {
		t.Errorf("copied %q", copies)
	}
}

func TestCopyID(t *testing.T) {
	for _, c := range []struct{ id, want string }{
		{"a", "a~run"},
		{strings.Repeat("a", 252), strings.Repeat("a", 252) + "~run"},
	} {
		if got := copyID(c.id, "run"); got != c.want {
			t.Errorf("%q", got)
		}
	}
	long := strings.Repeat("ä", 126) + "a" // 253 bytes, and the cut is inside of a character
	one, other := copyID(long, "run"), copyID(long[:252]+"b", "run")
	if one == other || len(one) > idMost || !strings.HasSuffix(one, "~run") || one != strings.ToValidUTF8(one, "?") || copyID(long, "run") != one {
		t.Errorf("%q and %q", one, other)
	}
}

func TestReplayFilters(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	acme, news := subject.UserAddress("acme", "anna"), subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}
	w.know(user(1), "watch")
	_, err := w.archive.Open(t.Context(), opening(user(2), "phone", news))
	w.must(err)
	early := w.store(&message.Message{To: user(1), ID: "early", Type: "a"}, &message.Message{To: acme, ID: "acme", Type: "b"})
	late := w.store(&message.Message{To: user(1), ID: "late", Type: "b"}, &message.Message{To: user(2), ID: "two", Type: "a"}, &message.Message{To: news, ID: "news"})
	w.log(early...)
	w.log(late...)
	w.know(user(2), "phone")
	w.ack(user(1), "tablet", 1)
	w.connect(user(1), "tablet", "node-1")
	for _, c := range []struct {
		filter admin.Filter
		want   []string
	}{
		{admin.Filter{}, []string{"acme", "late", "two"}},
		{admin.Filter{Tenant: "acme"}, []string{"acme"}},
		{admin.Filter{User: "anna"}, []string{"acme"}},
		{admin.Filter{Tenant: "default", User: "user-2"}, []string{"two"}},
		{admin.Filter{Type: "b"}, []string{"acme", "late"}},
		{admin.Filter{Since: late[0].Archived}, []string{"late", "two"}},
		{admin.Filter{Until: late[0].Archived}, []string{"acme"}},
		{admin.Filter{Reason: admin.ReasonHeld}, []string{"late"}},
		{admin.Filter{Reason: admin.ReasonAway}, []string{"two"}},
		{admin.Filter{Reason: admin.ReasonNobody}, []string{"acme"}},
		{admin.Filter{Tenant: "default", User: user(1).ID, Device: "watch"}, []string{"early", "late"}},
		{admin.Filter{Tenant: "default", User: user(1).ID, Device: "nobody's"}, []string{}},
		{admin.Filter{Topic: "news"}, []string{"news"}},
		{admin.Filter{User: "nobody"}, []string{}},
	} {
		w.replay(admin.ReplayRequest{Filter: c.filter, Run: "run"})
		ids := r.ids()
		slices.Sort(ids)
		if !slices.Equal(ids, c.want) {
			t.Errorf("%+v sent %q, want %q", c.filter, ids, c.want)
		}
	}
}

func TestReplayRefusesWhatIsNone(t *testing.T) {
	w := newWorld(t)
	by := admin.By{Who: "anna"}
	for _, c := range []struct {
		field string
		q     admin.ReplayRequest
	}{
		{"by", admin.ReplayRequest{Run: "run"}},
		{"run", admin.ReplayRequest{By: by}},
		{"run", admin.ReplayRequest{By: by, Run: strings.Repeat("r", 65)}},
		{"topic", admin.ReplayRequest{By: by, Run: "run", Filter: admin.Filter{User: "a", Topic: "b"}}},
		{"device", admin.ReplayRequest{By: by, Run: "run", Filter: admin.Filter{Device: "a"}}},
		{"until", admin.ReplayRequest{By: by, Run: "run", Filter: admin.Filter{Since: 2, Until: 1}}},
		{"reason", admin.ReplayRequest{By: by, Run: "run", Filter: admin.Filter{Reason: "bored"}}},
		{"reason", admin.ReplayRequest{By: by, Run: "run", Filter: admin.Filter{Topic: "news", Reason: admin.ReasonAway}}},
		{"", admin.ReplayRequest{By: by, Run: "run", Filter: admin.Filter{User: strings.Repeat("u", 129)}}},
	} {
		_, err := w.desk.replay(t.Context(), c.q)
		p, told := errors.AsType[*problem.Problem](err)
		if !told || c.field != "" && p.Field != c.field || p.Retry {
			t.Errorf("%+v: %v", c.q, err)
		}
	}
	if records := w.recorded(""); len(records) > 0 {
		t.Errorf("recorded %+v", records)
	}
}

// What was archived before the log's first message is the archive's part, also where the log has it behind.
func TestReplayDividesBetweenArchiveAndLog(t *testing.T) {
	w := newWorld(t)
	r := w.route(nil)
	anna, ben, carl := subject.UserAddress("e", "anna"), subject.UserAddress("f", "ben"), subject.UserAddress("g", "carl")
	old := w.store(&message.Message{To: anna, ID: "a1"}, &message.Message{To: ben, ID: "b1"}, &message.Message{To: ben, ID: "b2"})
	var logged []*message.Message
	for p := range partitions {
		logged = append(logged, w.store(&message.Message{To: userOf(p, 9), ID: fmt.Sprint("first-", p)})...)
	}
	logged = append(logged, w.store(&message.Message{To: anna, ID: "a2"})...)
	logged = append(logged, w.store(&message.Message{To: carl, ID: "c1"})...)
	w.log(logged...)
	w.log(old...)
	q := admin.ReplayRequest{Run: "run", Limit: 1, By: admin.By{Who: "anna"}}
	for !q.Position.Archived {
		page, err := w.desk.replay(t.Context(), q)
		w.must(err)
		q.Position = page.Position
	}
	if ids := r.ids(); !slices.Equal(ids, idsOf(old)) || q.Position.From != logged[0].Archived {
		t.Errorf("of the archive %q, then from %d, want %d", ids, q.Position.From, logged[0].Archived)
	}
	w.replay(q)
	ids, want := r.ids(), idsOf(logged)
	slices.Sort(ids)
	if slices.Sort(want); !slices.Equal(ids, want) {
		t.Errorf("of the log %q, want %q", ids, want)
	}
}

// A dry run counts what the run itself then does, and does nothing: not even a record is kept.
func TestADryReplayCountsWhatWouldBeDone(t *testing.T) {
	for _, force := range []bool{false, true} {
		for _, filter := range []admin.Filter{{}, {Tenant: "default", User: user(1).ID}} {
			t.Run(fmt.Sprintf("force=%t user=%s", force, filter.User), func(t *testing.T) {
				w := newWorld(t)
				r, owner := w.route(nil), w.own()
				old := w.store(&message.Message{To: user(1), ID: "old"}, &message.Message{To: user(1), ID: "old too"})
				other := w.publish(user(2), 3)
				logged := w.publish(user(1), 4)
				past := w.store(&message.Message{To: user(1), ID: "past", Expires: time.Now().UnixMilli() + 1})
				unknown := *logged[0] // to the archive
				unknown.Seq, unknown.ID = 99, "unknown"
				w.log(past[0], &unknown)
				w.ack(user(1), "phone", 3)
				q := admin.ReplayRequest{Run: "dry", Limit: 2, Force: force, Dry: true, By: admin.By{Who: "anna"}, Filter: filter}
				var oldest, newest int64
				var sample []string
				for finished := false; !finished; {
					page, err := w.desk.replay(t.Context(), q)
					w.must(err)
					if page.Oldest > 0 && (oldest == 0 || page.Oldest < oldest) {
						oldest = page.Oldest
					}
					for _, m := range page.Sample {
						sample = append(sample, m.ID)
						if m.Size == 0 {
							t.Errorf("%s has no size", m.ID)
						}
					}
					newest, finished = max(newest, page.Newest), page.Finished
					q.Position, q.Done = page.Position, sum(q.Done, page.ReplayCount)
				}
				if ids, copies, records := r.ids(), owner.ids(), w.recorded(""); len(ids)+len(copies)+len(records) > 0 {
					t.Fatalf("a dry run sent %q, copied %q, recorded %+v", ids, copies, records)
				}
				done := w.replay(admin.ReplayRequest{Force: force, Filter: filter})
				if q.Done.Matched != done.Matched || q.Done.Sent != done.Sent || q.Done.Copied != done.Copied || done.Matched == 0 {
					t.Errorf("it counted %+v; done was %+v", q.Done, done)
				}
				came := append(r.ids(), owner.ids()...)
				for i, id := range came {
					came[i] = strings.TrimSuffix(id, "~run")
				}
				slices.Sort(came)
				if slices.Sort(sample); !slices.Equal(came, sample) {
					t.Errorf("it showed %q; %q came", sample, came)
				}
				first := old[0].Archived
				switch {
				case !force && filter.User == "":
					first = other[0].Archived
				case !force:
					first = logged[1].Archived
				}
				if newest != logged[3].Archived || oldest != first {
					t.Errorf("from %d to %d, want %d to %d", oldest, newest, first, logged[3].Archived)
				}
			})
		}
	}
}
