package archivetest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

func find(s *suite) {
	t := s.t
	elsewhere := subject.UserAddress("default-x", "a")
	s.append(s.a, 0, archive.Heads{}, text(topic("news"), "id"), text(user("a"), "id"), text(elsewhere, "id"), text(user("b"), "id"))
	s.append(s.a, 1, archive.Heads{}, text(user("a"), "id~1"), text(user("b"), "id~2"), text(elsewhere, "id~1"), text(user("a"), "id2"), text(user("a"), "i"),
		text(user("a"), "ID"), text(user("a"), "id\x00"), text(user("a"), "%"), text(user("a"), "~"))
	for _, c := range []struct {
		tenant, id    string
		limit         int
		found, copies string
	}{
		{"default", "id", 10, "default.user.a/1=id default.user.b/1=id default.topic.news/1=id", "default.user.a/2=id~1 default.user.b/2=id~2"},
		{"default", "id", 2, "default.user.a/1=id default.user.b/1=id", "default.user.a/2=id~1 default.user.b/2=id~2"},
		{"default", "id", 3, "default.user.a/1=id default.user.b/1=id default.topic.news/1=id", "default.user.a/2=id~1 default.user.b/2=id~2"},
		{"default", "id", 1, "default.user.a/1=id", "default.user.a/2=id~1"},
		{"default-x", "id", 10, "default-x.user.a/1=id", "default-x.user.a/2=id~1"},
		{"defaul", "id", 10, "", ""},
		{"default", "id~1", 10, "default.user.a/2=id~1", ""},
		{"default", "id\x00", 10, "default.user.a/6=id\x00", ""},
		{"default", "%", 10, "default.user.a/7=%", ""},
		{"default", "nowhere", 10, "", ""},
	} {
		found, copies, err := s.a.Find(t.Context(), c.tenant, c.id, c.limit)
		s.must(err)
		if listed(found) != c.found || listed(copies) != c.copies {
			t.Errorf("find %d of %q in %s: %q and %q; want %q and %q", c.limit, c.id, c.tenant, listed(found), listed(copies), c.found, c.copies)
		}
	}
}

func rows(s *suite) {
	t, to, start := s.t, user("a"), time.Now()
	gone := expiring(to, "2")
	s.append(s.a, 0, archive.Heads{}, with(text(to, "1"), "12345"), gone, asking(to, "3"), text(to, "4"))
	s.append(s.a, 1, archive.Heads{}, text(user("aa"), "1"), text(user("aa"), "2"))
	s.purge(start.Add(2*day), 1)
	for _, c := range []struct {
		from  uint64
		limit int
		want  string
	}{
		{0, 10, "1=1 2=2 3=3 4=4"},
		{1, 2, "1=1 2=2"},
		{2, 2, "2=2 3=3"},
		{4, 2, "4=4"},
		{5, 2, ""},
	} {
		got, err := s.a.Rows(t.Context(), to, c.from, c.limit)
		s.must(err)
		if want := strings.ReplaceAll(" "+c.want, " ", " "+to.Tokens()+"/"); c.want == "" && len(got) > 0 || c.want != "" && " "+listed(got) != want {
			t.Errorf("%d rows from %d: %q; want %q", c.limit, c.from, listed(got), want)
		}
	}
	got, err := s.a.Rows(t.Context(), to, 1, 3)
	s.must(err)
	if got[0].Size != 5 || got[0].Why != "" || len(got[0].Message.Payload) != 0 || got[1].Size != 0 || got[1].Why != "expired" ||
		got[1].Message.Expires != gone.Expires || !got[2].Message.Receipt || got[1].Message.Receipt {
		t.Errorf("the rows are %+v", got)
	}
	s.purge(start.Add(40*day), 4)
	if got, err = s.a.Rows(t.Context(), to, 1, 10); err != nil || len(got) != 1 || got[0].Message.Seq != 4 || got[0].Why != "retention" {
		t.Errorf("after the retention: %+v, %v", got, err)
	}
}

// scanned is what Scan gives in pages.
func (s *suite) scanned(partition int, since, until int64, limit int) (ids []string) {
	s.t.Helper()
	for mark := ""; ; {
		page, next, err := s.a.Scan(s.t.Context(), partition, since, until, mark, limit)
		s.must(err)
		if len(page) > limit || next != "" && len(page) == 0 {
			s.t.Fatalf("a page of %d rows, the next at %q; the limit is %d", len(page), next, limit)
		}
		for _, r := range page {
			if len(r.Message.Payload) != 0 {
				s.t.Errorf("%s comes with its payload", r.Message.ID)
			}
			ids = append(ids, r.Message.To.String()+"/"+r.Message.ID)
		}
		if mark = next; mark == "" {
			return ids
		}
	}
}

func scans(s *suite) {
	t := s.t
	var times []int64
	for b := range 3 {
		gone := text(user("a"), fmt.Sprint(b, "-1"))
		gone.Expires = 1
		s.append(s.a, 1, archive.Heads{}, text(user("a"), fmt.Sprint(b, "-0")), gone, text(topic("b"), fmt.Sprint(b, "-2")))
		s.append(s.a, 2, archive.Heads{}, text(user("c"), fmt.Sprint(b)))
		times = append(times, gone.Archived)
		tick()
	}
	// An address keeps its order; where several were archived at one time, their order is the archive's.
	batch := func(b int) []string {
		return []string{fmt.Sprintf("user:a/%d-0", b), fmt.Sprintf("user:a/%d-1", b), fmt.Sprintf("topic:b/%d-2", b)}
	}
	for _, limit := range []int{1, 2, 3, 4, 9, 100} {
		for _, c := range []struct {
			since, until int64
			batches      []int
		}{
			{0, times[2] + 1, []int{0, 1, 2}},
			{times[0], times[2], []int{0, 1}},
			{times[0] + 1, times[2] + 1, []int{1, 2}},
			{times[1], times[1] + 1, []int{1}},
			{times[1], times[1], nil},
			{times[2] + 1, times[2] + 1000, nil},
		} {
			got := s.scanned(1, c.since, c.until, limit)
			if len(got) != 3*len(c.batches) {
				t.Fatalf("since %d until %d by %d: %v", c.since, c.until, limit, got)
			}
			for i, b := range c.batches {
				s.sameOrders(got[3*i:3*i+3], batch(b))
			}
		}
	}
	if _, _, err := s.a.Scan(t.Context(), 1, 0, 1, "nonsense", 1); err == nil {
		t.Error("scanned behind a mark that nobody gave")
	}
}

// sameOrders compares two lists of address/id: the same ones, those of each address in the same order.
func (s *suite) sameOrders(got, want []string) {
	s.t.Helper()
	of := func(list []string) map[string][]string {
		lists := map[string][]string{}
		for _, name := range list {
			to, _, _ := strings.Cut(name, "/")
			lists[to] = append(lists[to], name)
		}
		return lists
	}
	if !reflect.DeepEqual(of(got), of(want)) {
		s.t.Errorf("scanned %v; want %v", got, want)
	}
}

func health(s *suite) {
	h, err := s.a.Health(s.t.Context())
	s.must(err)
	if h.Kind == "" || h.Version == "" || h.Problem != "" || h.Millis <= 0 || h.Millis > 60_000 || (len(h.Warnings) != 0) != s.store.Warns {
		s.t.Errorf("the health of a new archive: %+v", h)
	}
}

func records(s *suite) {
	t := s.t
	one := admin.Record{
		ID: "run-1", At: 1000, By: admin.By{Who: "ada@host", Note: "it's \x00 odd '; --"}, Action: "replay",
		Filter: json.RawMessage(`{"user":"a", "x":1}`), Count: 5, Detail: "5 waiting",
	}
	two := admin.Record{ID: "run-2", At: 2000, Action: "kick"}
	three := admin.Record{ID: "run-3", At: 3000, Action: "replay", Filter: json.RawMessage(`null`)}
	for _, r := range []admin.Record{two, one, three, three} {
		s.must(s.a.Record(t.Context(), r))
	}
	later := one
	later.Count, later.Detail = 9, "done"
	s.must(s.a.Record(t.Context(), later))
	s.reopen()
	for _, c := range []struct {
		q    admin.RecordsRequest
		want []admin.Record
	}{
		{admin.RecordsRequest{}, []admin.Record{three, two, later}},
		{admin.RecordsRequest{Limit: 2}, []admin.Record{three, two}},
		{admin.RecordsRequest{Before: 3000}, []admin.Record{two, later}},
		{admin.RecordsRequest{Before: 3000, Action: "replay"}, []admin.Record{later}},
		{admin.RecordsRequest{Action: "drain"}, nil},
	} {
		got, err := s.a.Records(t.Context(), c.q)
		s.must(err)
		if len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %+v; want %+v", c.q, got, c.want)
		}
	}
	for i := range 60 {
		s.must(s.a.Record(t.Context(), admin.Record{ID: fmt.Sprint("drain-", i), At: int64(4000 + i), Action: "drain"}))
	}
	got, err := s.a.Records(t.Context(), admin.RecordsRequest{Action: "drain"})
	s.must(err)
	if len(got) != 50 || got[0].ID != "drain-59" {
		t.Errorf("%d records without a limit, the first %+v; want 50, the newest first", len(got), got[0])
	}
	_, err = s.a.Purge(t.Context(), 0, usual, time.Now().Add(400*day))
	s.must(err)
	if got, err = s.a.Records(t.Context(), admin.RecordsRequest{Limit: 1000}); err != nil || len(got) != 63 {
		t.Errorf("%d records after a purge, %v; want all", len(got), err)
	}
}
