package archivetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

func readPages(s *suite) {
	t := s.t
	to, now := user("a"), time.Now()
	var batch []*message.Message
	for i := range 10 {
		batch = append(batch, with(text(to, fmt.Sprint("m", i+1)), "0123456789"))
	}
	s.append(s.a, 0, archive.Heads{}, batch...)
	s.fill(user("aa"), 3) // a neighbour in every index
	for _, c := range []struct {
		after, upTo uint64
		bytes       int
		want        string
	}{
		{0, 0, 30, "1=m1 2=m2 3=m3"},
		{0, 0, 39, "1=m1 2=m2 3=m3"},
		{3, 0, 10, "4=m4"},
		{3, 0, 1, "4=m4"},
		{3, 0, 0, "4=m4"},
		{7, 9, 1000, "8=m8 9=m9"},
		{7, 99, 1000, "8=m8 9=m9 10=m10"},
		{7, math.MaxUint64, 1000, "8=m8 9=m9 10=m10"},
		{10, 0, 1000, ""},
		{99, 0, 1000, ""},
		{math.MaxUint64, 0, 1000, ""},
		{5, 5, 1000, ""},
		{6, 3, 1000, ""},
	} {
		page, err := s.a.Read(t.Context(), to, c.after, c.upTo, c.bytes, now)
		s.must(err)
		if got := line(page.Entries); got != c.want || page.Head != 10 || page.Epoch != s.a.Facts().Epoch {
			t.Errorf("after %d up to %d, %d bytes: %q, head %d, epoch %q; want %q, head 10", c.after, c.upTo, c.bytes, got, page.Head, page.Epoch, c.want)
		}
	}
	page, err := s.a.Read(t.Context(), user("nobody"), 0, 0, 1000, now)
	s.must(err)
	if page.Head != 0 || len(page.Entries) != 0 || page.Epoch != s.a.Facts().Epoch {
		t.Errorf("a mailbox that nobody wrote to: %+v", page)
	}
}

func readExpired(s *suite) {
	t := s.t
	to := user("a")
	s.append(s.a, 0, archive.Heads{}, text(to, "a"), expiring(to, "b"), expiring(to, "c"), text(to, "d"), expiring(to, "e"))
	s.expect(s.a, to, time.Now(), "1=a 2=b 3=c 4=d 5=e")
	s.expect(s.a, to, time.Now().Add(2*time.Hour), "1=a 2-3:expired 4=d 5:expired")
	page, err := s.a.Read(t.Context(), to, 1, 0, 0, time.Now().Add(2*time.Hour))
	s.must(err)
	if got := line(page.Entries); got != "2-3:expired" {
		t.Errorf("a page without room holds %q; want its first entry, the gap", got)
	}
	page, err = s.a.Read(t.Context(), to, 2, 3, 1000, time.Now().Add(2*time.Hour))
	s.must(err)
	if got := line(page.Entries); got != "3:expired" {
		t.Errorf("inside a gap: %q", got)
	}
}

func heads(s *suite) {
	t := s.t
	s.fill(user("a"), 12)
	s.fill(user("b"), 1)
	got, err := s.a.Heads(t.Context(), []subject.Address{user("a"), user("b"), user("nobody"), user("a")})
	s.must(err)
	if len(got) != 3 || got[user("a")] != 12 || got[user("b")] != 1 || got[user("nobody")] != 0 {
		t.Errorf("heads %v", got)
	}
	if got, err = s.a.Heads(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("heads of nothing: %v, %v", got, err)
	}
}

// collected is what Since gave, in order.
func (s *suite) collected(partition int, from int64) []*message.Message {
	s.t.Helper()
	var all []*message.Message
	s.must(s.a.Since(s.t.Context(), partition, from, func(chunk []*message.Message) error {
		if len(chunk) == 0 || len(chunk) > 500 {
			s.t.Errorf("a chunk of %d messages", len(chunk))
		}
		all = append(all, chunk...)
		return nil
	}))
	return all
}

func since(s *suite) {
	t := s.t
	places := []subject.Address{user("a"), topic("b"), {Tenant: "other", Kind: subject.All}}
	memory := archive.Heads{}
	var newest int64
	for b := range 11 {
		var batch []*message.Message
		for i := range 60 {
			batch = append(batch, text(places[i%3], fmt.Sprintf("%d-%d", b, i)))
		}
		gone := text(places[0], fmt.Sprintf("%d-gone", b))
		gone.Expires = 1
		s.append(s.a, 1, memory, append(batch, gone)...)
		newest = gone.Archived
	}
	s.append(s.a, 2, memory, text(user("another partition"), "x"))
	all := s.collected(1, 0)
	if len(all) != 660 {
		t.Fatalf("%d messages; want 660: all of the partition but the expired", len(all))
	}
	last := map[subject.Address]uint64{}
	for _, m := range all {
		if m.Seq <= last[m.To] || string(m.Payload) != m.ID {
			t.Fatalf("%s: %+v after %d", m.To, m, last[m.To])
		}
		last[m.To] = m.Seq
	}
	recent := s.collected(1, newest)
	if len(recent) < 60 || len(last) != len(places) {
		t.Errorf("%d messages since the newest batch, of %d addresses in all", len(recent), len(last))
	}
	for _, m := range recent {
		if m.Archived < newest {
			t.Errorf("%s was archived at %d, before %d", m.ID, m.Archived, newest)
		}
	}
	if late := s.collected(1, newest+1); len(late) != 0 {
		t.Errorf("%d messages after the newest", len(late))
	}
}

func sinceStops(s *suite) {
	t := s.t
	s.fill(user("a"), 3)
	stop := errors.New("stop")
	calls := 0
	err := s.a.Since(t.Context(), partition(user("a")), 0, func([]*message.Message) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("Since returned %v after %d calls; want the caller's error after 1", err, calls)
	}
}

func cancelled(s *suite) {
	t := s.t
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	to := user("a")
	for name, call := range map[string]func() error{
		"append": func() error {
			_, err := s.a.Append(ctx, 0, []*message.Message{text(to, "x")}, archive.Heads{})
			return err
		},
		"read":    func() error { _, err := s.a.Read(ctx, to, 0, 0, 1000, time.Now()); return err },
		"heads":   func() error { _, err := s.a.Heads(ctx, []subject.Address{to}); return err },
		"since":   func() error { return s.a.Since(ctx, 0, 0, func([]*message.Message) error { return nil }) },
		"open":    func() error { _, err := s.a.Open(ctx, device("d", to)); return err },
		"advance": func() error { return s.a.Advance(ctx, []history.Cursor{cursor("d", to, 1)}) },
		"purge":   func() error { _, err := s.a.Purge(ctx, 0, archive.Policy{}, time.Now()); return err },
		"ping":    func() error { return s.a.Ping(ctx) },
		"asked":   func() error { _, err := s.a.Asked(ctx, []history.Cursor{cursor("d", to, 1)}); return err },
		"settle": func() error {
			_, err := s.a.Settle(ctx, []archive.Settled{{Message: text(to, "x"), State: message.StateExpired}})
			return err
		},
		"lapsed": func() error { _, err := s.a.Lapsed(ctx, 0, 1, 1, 1); return err },
		"close":  func() error { return s.a.CloseAsked(ctx, []archive.Lapsed{{Message: text(to, "x")}}) },
		"route":  func() error { return s.a.Route(ctx, []ledger.Routed{{Address: to.Tokens(), From: 1, To: 1}}) },
		"pending": func() error {
			_, err := s.a.Pending(ctx, admin.Filter{}, admin.Place{}, 1, 1)
			return err
		},
		"standing": func() error { _, err := s.a.Standing(ctx, []subject.Address{to}, ""); return err },
		"devices":  func() error { _, err := s.a.Devices(ctx, "default", "a"); return err },
		"find":     func() error { _, _, err := s.a.Find(ctx, "default", "x", 1); return err },
		"steps":    func() error { _, err := s.a.Steps(ctx, to, 1); return err },
		"rows":     func() error { _, err := s.a.Rows(ctx, to, 1, 1); return err },
		"scan":     func() error { _, _, err := s.a.Scan(ctx, 0, 0, 1, "", 1); return err },
		"settled":  func() error { _, err := s.a.SettledOf(ctx, to, 1, 1); return err },
		"health":   func() error { _, err := s.a.Health(ctx); return err },
		"record":   func() error { return s.a.Record(ctx, admin.Record{ID: "x"}) },
		"records":  func() error { _, err := s.a.Records(ctx, admin.RecordsRequest{}); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	if outcome := s.append(s.a, 0, archive.Heads{}, text(to, "x"))[0]; outcome.Message.Seq != 1 {
		t.Errorf("after them the first message is %d", outcome.Message.Seq)
	}
}
