package archivetest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// listed writes rows as `address/seq=id`, the address as its tokens.
func listed(rows []archive.Row) string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = fmt.Sprintf("%s/%d=%s", r.Message.To.Tokens(), r.Message.Seq, r.Message.ID)
	}
	return strings.Join(names, " ")
}

// pending reads all that a filter chooses, in pages of three, and checks that they are what one page would be.
func (s *suite) pending(f admin.Filter, now time.Time) []archive.Row {
	s.t.Helper()
	whole, err := s.a.Pending(s.t.Context(), f, admin.Place{}, now.UnixMilli(), 10_000)
	s.must(err)
	var paged []archive.Row
	for after := (admin.Place{}); ; {
		page, err := s.a.Pending(s.t.Context(), f, after, now.UnixMilli(), 3)
		s.must(err)
		paged = append(paged, page...)
		if len(page) < 3 {
			break
		}
		after = admin.Place{Address: page[2].Message.To.Tokens(), Seq: page[2].Message.Seq}
	}
	if listed(paged) != listed(whole) {
		s.t.Errorf("%+v in pages: %s; in one: %s", f, listed(paged), listed(whole))
	}
	for _, r := range whole {
		if len(r.Message.Payload) != 0 {
			s.t.Errorf("%s comes with its payload", r.Message.ID)
		}
	}
	return whole
}

func (s *suite) expectPending(f admin.Filter, now time.Time, want string) {
	s.t.Helper()
	if got := listed(s.pending(f, now)); got != want {
		s.t.Errorf("pending of %+v: %q; want %q", f, got, want)
	}
}

// place of a device of any user, in the user's mailbox.
func at(to subject.Address, device string, seq uint64) history.Cursor {
	return history.Cursor{Tenant: to.Tenant, User: to.ID, Device: device, Address: to.Tokens(), Seq: seq, At: 1}
}

func pendingFilters(s *suite) {
	now := time.Now()
	a, b, dash := user("a"), user("b"), subject.UserAddress("default-x", "a")
	odd, news := user("o/d"), topic("news")
	typed := text(a, "typed")
	typed.Type = "special"
	s.append(s.a, 0, archive.Heads{}, text(a, "1"), text(b, "1"), text(dash, "1"), text(odd, "1"), text(news, "1"), expiring(a, "2"))
	tick()
	s.append(s.a, 1, archive.Heads{}, typed, text(b, "2"))
	s.expectPending(admin.Filter{}, now, "default-x.user.a/1=1 default.user.=by9k/1=1 default.user.a/1=1 default.user.a/2=2 default.user.a/3=typed default.user.b/1=1 default.user.b/2=2")
	s.expectPending(admin.Filter{Tenant: "default"}, now,
		"default.user.=by9k/1=1 default.user.a/1=1 default.user.a/2=2 default.user.a/3=typed default.user.b/1=1 default.user.b/2=2")
	s.expectPending(admin.Filter{Tenant: "default-x"}, now, "default-x.user.a/1=1")
	s.expectPending(admin.Filter{Tenant: "defaul"}, now, "")
	s.expectPending(admin.Filter{User: "a"}, now, "default-x.user.a/1=1 default.user.a/1=1 default.user.a/2=2 default.user.a/3=typed")
	s.expectPending(admin.Filter{User: "o/d"}, now, "default.user.=by9k/1=1")
	s.expectPending(admin.Filter{Tenant: "default", User: "b"}, now, "default.user.b/1=1 default.user.b/2=2")
	s.expectPending(admin.Filter{Tenant: "default", User: "nobody"}, now, "")
	s.expectPending(admin.Filter{Type: "special"}, now, "default.user.a/3=typed")
	s.expectPending(admin.Filter{Tenant: "default", User: "a", Type: "special"}, now, "default.user.a/3=typed")
	s.expectPending(admin.Filter{Since: typed.Archived}, now, "default.user.a/3=typed default.user.b/2=2")
	s.expectPending(admin.Filter{Since: typed.Archived, User: "b"}, now, "default.user.b/2=2")
	s.expectPending(admin.Filter{Until: typed.Archived, Tenant: "default"}, now,
		"default.user.=by9k/1=1 default.user.a/1=1 default.user.a/2=2 default.user.b/1=1")
	s.expectPending(admin.Filter{User: "a", Tenant: "default"}, now.Add(2*time.Hour), "default.user.a/1=1 default.user.a/3=typed")
	s.expectPending(admin.Filter{Tenant: "default"}, now.Add(2*time.Hour),
		"default.user.=by9k/1=1 default.user.a/1=1 default.user.a/3=typed default.user.b/1=1 default.user.b/2=2")
	rows := s.pending(admin.Filter{Tenant: "default", Type: "special"}, now)
	want := with(typed, "")
	want.Seq, want.Archived, want.Payload = 3, typed.Archived, nil
	if got := rows[0]; got.Size != len("typed") || got.Why != "" || !reflect.DeepEqual(got.Message, want) {
		s.t.Errorf("the row is %+v of %+v; want %+v", got, got.Message, want)
	}
}

func pendingCursors(s *suite) {
	now := time.Now()
	a, b := user("a"), user("b")
	s.fill(a, 4)
	s.fill(b, 2)
	all := admin.Filter{}
	s.advance(at(a, "phone", 1), at(a, "tablet", 3), at(b, "phone", 2))
	stranger := at(a, "phone", 4)
	stranger.User = "mallory"
	s.advance(stranger)
	s.expectPending(all, now, "default.user.a/4=fill-3")
	s.expectPending(admin.Filter{User: "a", Device: "phone"}, now, "default.user.a/2=fill-1 default.user.a/3=fill-2 default.user.a/4=fill-3")
	s.expectPending(admin.Filter{User: "a", Device: "tablet", Tenant: "default"}, now, "default.user.a/4=fill-3")
	s.expectPending(admin.Filter{User: "a", Device: "unknown"}, now, "")
	floored := history.OpenRequest{Tenant: "default", User: "a", Device: "new", Addresses: []string{a.Tokens()}, Floors: map[string]uint64{a.Tokens(): 4}}
	s.open1(s.a, floored)
	s.expectPending(all, now, "")
	s.append(s.a, partition(b), archive.Heads{}, text(b, "next"))
	s.expectPending(all, now, "default.user.b/3=next")
	s.advance(at(b, "phone", 3))
	early := user("early") // has a place before it has a mailbox
	s.advance(at(early, "phone", 2))
	s.fill(early, 3)
	s.expectPending(all, now, "default.user.early/3=fill-2")
	s.reopen()
	s.expectPending(all, now, "default.user.early/3=fill-2")
	_, err := s.a.Purge(s.t.Context(), partition(early), usual, now.Add(40*day))
	s.must(err)
	s.expectPending(all, now, "") // what is gone can't be sent
}

func pendingTopic(s *suite) {
	now, news := time.Now(), topic("news")
	f := admin.Filter{Topic: "news", Tenant: "default"}
	s.fill(news, 6)
	s.fill(topic("news2"), 2)
	s.fill(user("news"), 2)
	s.expectPending(f, now, "") // nobody subscribed
	for i, seq := range []uint64{2, 4, 4, 6} {
		c := at(user(fmt.Sprint("user-", i)), "phone", seq)
		c.Address = news.Tokens()
		s.advance(c)
	}
	const four = "default.topic.news/3=fill-2 default.topic.news/4=fill-3 default.topic.news/5=fill-4 default.topic.news/6=fill-5"
	s.expectPending(f, now, four)
	s.expectPending(admin.Filter{Topic: "news"}, now, four)
	s.expectPending(admin.Filter{Topic: "news", Tenant: "other"}, now, "")
	var devices []int
	for _, r := range s.pending(f, now) {
		devices = append(devices, r.Devices)
	}
	if want := []int{1, 1, 3, 3}; !reflect.DeepEqual(devices, want) {
		s.t.Errorf("devices that have not acknowledged: %v; want %v", devices, want)
	}
	late, err := s.a.Pending(s.t.Context(), f, admin.Place{Address: news.Tokens(), Seq: 4}, now.UnixMilli(), 1)
	s.must(err)
	if len(late) != 1 || late[0].Devices != 3 {
		s.t.Errorf("a page from the middle: %+v", late)
	}
	if rows := s.pending(admin.Filter{User: "news"}, now); len(rows) != 2 || rows[0].Devices != 0 {
		s.t.Errorf("the user's: %+v", rows)
	}
}

func standing(s *suite) {
	t := s.t
	a, b, news := user("a"), user("b"), topic("news")
	all := subject.Address{Tenant: "default", Kind: subject.All}
	for _, to := range []subject.Address{a, b, news, all} {
		s.fill(to, 5)
	}
	s.advance(at(a, "phone", 1), at(a, "tablet", 3))
	for i, seq := range []uint64{4, 2, 5} {
		c := at(user(fmt.Sprint(i)), "phone", seq)
		c.Address = news.Tokens()
		s.advance(c)
	}
	nobody := user("nobody")
	stand := func(head, handled uint64, devices int) archive.Standing {
		return archive.Standing{Head: head, Handled: handled, Devices: devices}
	}
	for device, want := range map[string]map[subject.Address]archive.Standing{
		"":      {a: stand(5, 3, 2), b: stand(5, 0, 0), news: stand(5, 2, 3), all: stand(5, 5, 0), nobody: stand(0, 0, 0)},
		"phone": {a: stand(5, 1, 1), b: stand(5, 5, 0), news: stand(5, 2, 3), all: stand(5, 5, 0), nobody: stand(0, 0, 0)},
	} {
		got, err := s.a.Standing(t.Context(), []subject.Address{a, b, news, all, nobody, a}, device)
		s.must(err)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("device %q: %v; want %v", device, got, want)
		}
	}
	if got, err := s.a.Standing(t.Context(), nil, ""); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

// pendingAtOnce has several processes acknowledge and append at once: what Pending goes by is what the cursors say.
func pendingAtOnce(s *suite) {
	const users, rounds, processes = 5, 8, 3
	if s.store.LosesUpdates {
		return
	}
	t := s.t
	for u := range users {
		s.fill(user(fmt.Sprint(u)), rounds)
	}
	var group sync.WaitGroup
	for i := range processes {
		a := s.open()
		random := rand.New(rand.NewPCG(uint64(i), 7))
		group.Go(func() {
			for range rounds {
				to := user(fmt.Sprint(random.IntN(users)))
				if err := a.Advance(t.Context(), []history.Cursor{at(to, fmt.Sprint(random.IntN(3)), random.Uint64N(rounds))}); err != nil {
					t.Error(err)
				}
				if _, err := a.Append(t.Context(), partition(to), []*message.Message{text(to, fmt.Sprint(i, random.Uint64()))}, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	s.agree(users)
}

// agree checks that Pending says of users 0, 1, 2 … what Devices and Heads do.
func (s *suite) agree(users int) {
	s.t.Helper()
	var want []string
	for u := range users {
		to := user(fmt.Sprint(u))
		devices, err := s.a.Devices(s.t.Context(), "default", to.ID)
		s.must(err)
		handled := uint64(0)
		for _, d := range devices {
			handled = max(handled, d.Cursor)
		}
		for _, e := range s.entries(s.a, to, 1<<20, time.Now()) {
			if e.From > handled {
				want = append(want, fmt.Sprintf("%s/%d=%s", to.Tokens(), e.From, e.Message.ID))
			}
		}
	}
	if got := listed(s.pending(admin.Filter{}, time.Now())); got != strings.Join(want, " ") {
		s.t.Errorf("pending are\n%s\nby the cursors\n%s", got, strings.Join(want, " "))
	}
}

func devices(s *suite) {
	t, to, news := s.t, user("alice"), topic("news")
	s.fill(to, 5)
	s.fill(news, 3)
	before := time.Now().UnixMilli()
	s.position(device("first", to), 5, 0)
	s.advance(heard("first", 4, before+5000, "n1"), heard("first", 2, before+9000, "n1"), heard("first", 4, before+9000, "n1"))
	s.position(device("second", to), 5, 4)
	s.position(device("second", news), 3, 3)
	stranger := at(user("bob"), "first", 1)
	other := at(subject.UserAddress("other", "alice"), "first", 1)
	s.advance(stranger, other)
	got, err := s.a.Devices(t.Context(), "default", "alice")
	s.must(err)
	now := time.Now().UnixMilli()
	for i, d := range got {
		if first := d.Device == "first"; first != (d.Known == 0) && d.To == to || d.Known != 0 && (d.Known < before || d.Known > now) {
			t.Errorf("%s in %s is known since %d", d.Device, d.To, d.Known)
		}
		if d.At < before || d.At > max(now, before+5000) || d.Device == "first" && d.At != before+5000 {
			t.Errorf("%s in %s rose last at %d", d.Device, d.To, d.At)
		}
		got[i].Known, got[i].At = 0, 0
	}
	slices.SortFunc(got, func(a, b archive.Device) int {
		return strings.Compare(a.Device+a.To.Tokens(), b.Device+b.To.Tokens())
	})
	want := []archive.Device{{Device: "first", To: to, Cursor: 4}, {Device: "second", To: news, Cursor: 3, Start: 3}, {Device: "second", To: to, Cursor: 4, Start: 4}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the devices are %+v; want %+v", got, want)
	}
	if got, err := s.a.Devices(t.Context(), "default", "nobody"); err != nil || len(got) != 0 {
		t.Errorf("of nobody: %v, %v", got, err)
	}
}
