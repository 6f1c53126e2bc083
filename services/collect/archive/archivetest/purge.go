package archivetest

import (
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const day = 24 * time.Hour

// usual is the policy of a fabric that sets none.
var usual = archive.Policy{Retention: 30 * day, MinAge: day}

// purge applies the usual policy to partition 0.
func (s *suite) purge(now time.Time, want int) {
	s.t.Helper()
	n, err := s.a.Purge(s.t.Context(), 0, usual, now)
	s.must(err)
	if n != want {
		s.t.Errorf("purged %d messages; want %d", n, want)
	}
}

func purgeExpired(s *suite) {
	t := s.t
	to, start := user("a"), time.Now()
	a, b, c := expiring(to, "a"), text(to, "b"), expiring(to, "c")
	late := text(to, "late")
	late.Expires = late.At + (10 * day).Milliseconds()
	s.append(s.a, 0, archive.Heads{}, a, b, c, late)
	s.append(s.a, 1, archive.Heads{}, expiring(user("another partition"), "x"))
	s.purge(start.Add(day-time.Hour), 0) // MinAge
	s.expect(s.a, to, start, "1=a 2=b 3=c 4=late")
	s.purge(start.Add(2*day), 2)
	s.purge(start.Add(2*day), 0)
	s.expect(s.a, to, start, "1:expired 2=b 3:expired 4=late") // gone, whatever time the reader believes in
	s.expect(s.a, user("another partition"), start, "1=x")
	for _, m := range s.collected(0, 0) {
		if m.ID != "b" && m.ID != "late" {
			t.Errorf("Since gives %s", m.ID)
		}
	}
	outcomes := s.append(s.a, 0, archive.Heads{}, again(a), with(c, "another body"), text(to, "next"))
	if o := outcomes[0]; o.Fate != archive.Duplicate || len(o.Message.Payload) != 0 || o.Message.Seq != 1 || o.Message.Expires != a.Expires {
		t.Errorf("a duplicate of what was purged: fate %d, %+v", o.Fate, o.Message)
	}
	if o := outcomes[1]; o.Fate != archive.Conflict || o.Message.Seq != 3 {
		t.Errorf("a conflict with what was purged: fate %d, %+v", o.Fate, o.Message)
	}
	if o := outcomes[2]; o.Message.Seq != 5 {
		t.Errorf("the next message is %d; want 5", o.Message.Seq)
	}
}

func purgeRetention(s *suite) {
	t := s.t
	to, other, start := user("a"), user("b"), time.Now()
	a, b, c := text(to, "a"), expiring(to, "b"), text(to, "c")
	s.append(s.a, 0, archive.Heads{}, a, b, c, text(other, "only"))
	hasty := archive.Policy{Retention: time.Hour, MinAge: day}
	if n, err := s.a.Purge(t.Context(), 0, hasty, start.Add(day-time.Hour)); n != 0 || err != nil {
		t.Errorf("purged %d messages younger than the least age: %v", n, err)
	}
	s.purge(start.Add(30*day-time.Hour), 1) // b expired
	s.purge(start.Add(31*day), 4)           // a and b deleted, c and only emptied
	s.purge(start.Add(31*day), 0)
	s.expect(s.a, to, start, "1-3:retention")
	s.expect(s.a, other, start, "1:retention")
	s.reopen()
	outcomes := s.append(s.a, 0, archive.Heads{}, again(c), with(c, "another body"), text(to, "d"), again(a))
	for i, want := range []place{{archive.Duplicate, 3}, {archive.Conflict, 3}, {archive.Stored, 4}, {archive.Stored, 5}} {
		if got := (place{outcomes[i].Fate, outcomes[i].Message.Seq}); got != want {
			t.Errorf("message %d: %v; want %v", i, got, want)
		}
	}
	s.expect(s.a, to, start, "1-3:retention 4=d 5=a")
	page, err := s.a.Read(t.Context(), to, 1, 2, 1000, start)
	s.must(err)
	if got := line(page.Entries); got != "2:retention" || page.Head != 5 {
		t.Errorf("a part of a hole: %q, head %d", got, page.Head)
	}
	s.purge(start.Add(31*day), 3) // c is no longer the last and goes with d; a is the last now
	s.expect(s.a, to, start, "1-5:retention")
	heads, err := s.a.Heads(t.Context(), []subject.Address{to, other})
	s.must(err)
	if heads[to] != 5 || heads[other] != 1 {
		t.Errorf("heads %v", heads)
	}
}

func purgePages(s *suite) {
	t := s.t
	const n = 620 // more than one chunk of any implementation
	start, memory := time.Now(), archive.Heads{}
	var batch []*message.Message
	for i := range n {
		m := text(user(fmt.Sprint(i%7)), fmt.Sprint(i))
		if i%2 == 0 {
			m.Expires = m.At + 1
		}
		batch = append(batch, m)
	}
	s.append(s.a, 0, memory, batch...)
	s.purge(start.Add(2*day), n/2)
	if got := len(s.collected(0, 0)); got != n/2 {
		t.Errorf("%d messages are left; want %d", got, n/2)
	}
	count, err := s.a.Purge(t.Context(), 0, usual, start.Add(40*day))
	s.must(err)
	emptied := 0 // the last of each address, unless it had expired
	for _, m := range batch[n-7:] {
		if m.Expires == 0 {
			emptied++
		}
	}
	if want := n - 7 + emptied; count != want {
		t.Errorf("purged %d messages; want %d", count, want)
	}
	if got := s.collected(0, 0); len(got) != 0 {
		t.Errorf("%d messages are left", len(got))
	}
}
