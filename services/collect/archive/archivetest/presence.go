package archivetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

const grace = 10 * time.Second

// seen is a report that some users have sessions at a node, or none.
func seen(node string, number uint64, on bool, at int64, users ...subject.Address) archive.Report {
	r := archive.Report{Node: node, Presence: ledger.Presence{Number: number}}
	for _, u := range users {
		r.Users = append(r.Users, ledger.Seen{User: u.Tokens(), On: on, At: at})
	}
	return r
}

// rest is the report that everybody named under a lower number is gone.
func rest(node string, number uint64, at int64) archive.Report {
	return archive.Report{Node: node, Presence: ledger.Presence{Number: number, Rest: number, At: at}}
}

func (s *suite) report(now time.Time, reports ...archive.Report) {
	s.t.Helper()
	s.must(s.a.Report(s.t.Context(), reports, now, grace))
}

// due is a user who is due by a time.
func (s *suite) due(u subject.Address, by time.Time) (archive.Attendance, bool) {
	s.t.Helper()
	due, err := s.a.Due(s.t.Context(), partition(u), by, 1000)
	s.must(err)
	for _, d := range due {
		if d.User == u {
			return d, true
		}
	}
	return archive.Attendance{}, false
}

// expectPresence wants a user who is due by a time to be there, or not, since a moment.
func (s *suite) expectPresence(u subject.Address, by time.Time, on bool, since int64) archive.Attendance {
	s.t.Helper()
	d, ok := s.due(u, by)
	if !ok || d.On != on || d.Since != since {
		s.t.Errorf("%s is due %v, on %v since %d; want on %v since %d", u, ok, d.On, d.Since, on, since)
	}
	return d
}

func (s *suite) expectNotDue(u subject.Address, by time.Time) {
	s.t.Helper()
	if d, ok := s.due(u, by); ok {
		s.t.Errorf("%s is due: %+v", u, d)
	}
}

func presenceReports(s *suite) {
	now := time.UnixMilli(1_000_000)
	alice, odd := user("alice"), subject.UserAddress("other", "odd /'😀")
	s.expectNotDue(alice, now.Add(time.Hour))
	s.report(now, seen("one", 2, true, 100, alice, odd))
	first := s.expectPresence(alice, now, true, 100)
	if first.Told || first.Turn != 0 || first.Open || first.Noted != now.UnixMilli() {
		s.t.Errorf("at first %+v is known", first)
	}
	s.expectPresence(odd, now, true, 100)
	s.expectNotDue(alice, now.Add(-time.Millisecond))

	s.report(now.Add(time.Second), seen("two", 7, true, 90, alice), seen("one", 3, false, 300, alice))
	s.expectPresence(alice, now.Add(time.Second), true, 90)
	s.report(now.Add(2*time.Second), seen("two", 9, false, 400, alice), seen("one", 2, true, 100, alice))
	last := s.expectPresence(alice, now.Add(2*time.Second), false, 400)
	if last.Noted != now.Add(2*time.Second).UnixMilli() || last.Revision <= first.Revision {
		s.t.Errorf("%+v was noted; the first was %+v", last, first)
	}
	s.reopen()
	s.expectPresence(alice, now.Add(2*time.Second), false, 400)
}

func presenceGrace(s *suite) {
	now := time.UnixMilli(1_000_000)
	alice := user("alice")
	s.report(now, seen("one", 1, true, 1, alice))
	s.told(alice, now, true)
	s.expectNotDue(alice, now.Add(time.Hour))
	s.report(now, seen("one", 2, true, 5, alice))
	s.expectNotDue(alice, now.Add(time.Hour)) // no news
	s.report(now, seen("one", 3, false, 7, alice))
	s.expectNotDue(alice, now.Add(grace-time.Millisecond))
	s.expectPresence(alice, now.Add(grace), false, 7)
	s.report(now.Add(time.Second), seen("one", 4, true, 9, alice))
	s.expectPresence(alice, now.Add(time.Second), true, 9)
	s.report(now.Add(2*time.Second), seen("one", 5, false, 11, alice))
	s.expectPresence(alice, now.Add(time.Second), false, 11) // still due for the one before
}

// told stores that a user was told, and is not due any more.
func (s *suite) told(u subject.Address, now time.Time, told bool) archive.Attendance {
	s.t.Helper()
	d, ok := s.due(u, now)
	if !ok {
		s.t.Fatalf("%s is not due", u)
	}
	d.Told, d.Turn, d.At, d.Open, d.Due = told, d.Turn+1, d.Since, false, archive.NotDue
	held, err := s.a.Attend(s.t.Context(), []archive.Attendance{d})
	s.must(err)
	if !held[0] {
		s.t.Fatalf("%+v does not hold", d)
	}
	return d
}

func presenceRest(s *suite) {
	now := time.UnixMilli(1_000_000)
	gone, stays, late, elsewhere := user("gone"), user("stays"), user("late"), user("elsewhere")
	s.report(now, seen("one", 1, true, 1, gone, stays, elsewhere), seen("two", 1, true, 2, elsewhere))
	for _, u := range []subject.Address{gone, stays, elsewhere} {
		s.told(u, now, true)
	}
	s.report(now, seen("one", 5, true, 50, stays))
	s.report(now, rest("one", 4, 60))
	after := now.Add(grace)
	s.expectPresence(gone, after, false, 60)
	s.expectNotDue(stays, after)
	s.expectPresence(elsewhere, after, true, 2)
	s.report(now, seen("one", 3, true, 9, late)) // it was under way behind what it said before
	s.expectPresence(late, after, false, 9)
	s.report(now, seen("one", 6, true, 70, gone))
	s.expectPresence(gone, after, true, 70)

	leave := rest("one", 7, 80)
	leave.Leaving = true
	s.report(now, leave)
	s.expectPresence(stays, after, false, 80)
	s.expectNodes("two")
}

func (s *suite) expectNodes(want ...string) {
	s.t.Helper()
	nodes, err := s.a.Nodes(s.t.Context())
	s.must(err)
	var got []string
	for _, n := range nodes {
		name := n.ID
		if n.Silent {
			name += " silent"
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.t.Errorf("the nodes are %q; want %q", got, want)
	}
}

func presenceSilence(s *suite) {
	now := time.UnixMilli(1_000_000)
	var all []subject.Address
	many := 700
	if s.store.LosesUpdates { // it scans all for each
		many = 60
	}
	for i := range many {
		all = append(all, user(fmt.Sprint("user", i)))
	}
	s.report(now, seen("one", 1, true, 1, all...), seen("two", 1, true, 1, all[0]))
	s.told(all[1], now, true)
	s.must(s.a.Silence(s.t.Context(), "one", 500, now, grace))
	s.expectNodes("one silent", "two")
	s.expectNotDue(all[1], now.Add(grace-time.Millisecond))
	s.expectPresence(all[0], now.Add(grace), true, 1)
	s.expectPresence(all[1], now.Add(grace), false, 500)
	s.expectPresence(all[len(all)-1], now.Add(grace), false, 500)
	s.report(now, seen("one", 1, true, 1, all[1])) // once more, from before the silence
	s.expectPresence(all[1], now.Add(grace), false, 500)
	s.report(now, seen("one", 2, true, 600, all[1]))
	s.expectPresence(all[1], now.Add(grace), true, 600)
	s.expectNodes("one", "two")
}

// broken is a context that ends when it has been looked at so often.
type broken struct {
	context.Context //nolint:containedctx // it is one
	looks           atomic.Int64
}

func (b *broken) Err() error {
	if b.looks.Add(-1) < 0 {
		return context.Canceled
	}
	return b.Context.Err()
}

// presenceSilenceInterrupted: a silence that broke off may have cleared some users. The node must not count as silent then:
// nobody would ask for the rest.
func presenceSilenceInterrupted(s *suite) {
	now := time.UnixMilli(1_000_000)
	var all []subject.Address
	for i := range 60 {
		all = append(all, user(fmt.Sprint("user", i)))
	}
	s.report(now, seen("one", 1, true, 1, all...))
	for looks := range int64(4) {
		ctx := &broken{Context: s.t.Context()}
		ctx.looks.Store(looks)
		if err := s.a.Silence(ctx, "one", 500, now, grace); err == nil {
			break
		}
		nodes, err := s.a.Nodes(s.t.Context())
		s.must(err)
		if d, ok := s.due(all[0], now.Add(grace)); len(nodes) != 1 || nodes[0].Silent && (!ok || d.On) {
			s.t.Errorf("after %d looks at the context the nodes are %+v, and %+v is known of their user", looks, nodes, d)
		}
	}
	s.must(s.a.Silence(s.t.Context(), "one", 500, now, grace))
	s.expectNodes("one silent")
	s.expectPresence(all[0], now.Add(grace), false, 500)
}

func presenceAttend(s *suite) {
	t, now := s.t, time.UnixMilli(1_000_000)
	alice := user("alice")
	s.report(now, seen("one", 1, true, 1, alice))
	d, _ := s.due(alice, now)
	other := s.open()
	var wins [2]bool
	var both sync.WaitGroup
	for i, a := range []archive.Archive{s.a, other} {
		both.Go(func() {
			mine := d
			mine.Told, mine.Turn, mine.At, mine.Open = true, 1, int64(i+1), true
			held, err := a.Attend(t.Context(), []archive.Attendance{mine})
			if err != nil {
				t.Error(err)
				return
			}
			wins[i] = held[0]
		})
	}
	both.Wait()
	if wins[0] == wins[1] && !s.store.LosesUpdates {
		t.Fatalf("of two who decide at once %v held", wins)
	}
	open := s.expectPresence(alice, now, true, 1)
	if !open.Told || open.Turn != 1 || !open.Open {
		t.Errorf("%+v is stored", open)
	}
	s.report(now, seen("one", 2, false, 5, alice))
	stale := open
	stale.Open, stale.Due = false, archive.NotDue
	held, err := s.a.Attend(t.Context(), []archive.Attendance{stale})
	s.must(err)
	if held[0] {
		t.Error("something new is known, and what was decided before holds")
	}
	wrong := open
	wrong.Turn = 2
	s.must(s.a.Said(t.Context(), []archive.Attendance{wrong}))
	if d, _ := s.due(alice, now); !d.Open {
		t.Error("another turn was said, and this one is closed")
	}
	s.must(s.a.Said(t.Context(), []archive.Attendance{open}))
	if d, _ := s.due(alice, now); d.Open || d.On || !d.Told {
		t.Errorf("said, and %+v is known", d)
	}
}

func presenceForget(s *suite) {
	t, now := s.t, time.UnixMilli(1_000_000)
	alice, bob := user("alice"), user("bob")
	s.report(now, seen("one", 1, true, 1, alice, bob), seen("two", 1, true, 1, bob))
	s.report(now, rest("one", 2, 10))
	s.must(s.a.Silence(t.Context(), "two", 10, now, grace))
	later := now.Add(grace)
	s.told(alice, later, false)
	s.must(s.a.Forget(t.Context(), now, later))
	s.expectNodes("one", "two silent") // not before their time
	s.expectPresence(bob, later, false, 10)
	s.must(s.a.Forget(t.Context(), now.Add(time.Millisecond), now))
	s.expectNodes("one")
	s.report(now, seen("one", 5, true, 20, alice))
	if d := s.expectPresence(alice, later, true, 20); d.Turn != 0 {
		t.Errorf("alice was forgotten, and %+v is known", d)
	}
	if d := s.expectPresence(bob, later, false, 0); d.Noted != 0 {
		t.Errorf("of bob %+v is known", d)
	}
}

// presenceRandom stores the reports of some nodes in any order and some of them twice. What is known in the end is what
// each node said last.
func presenceRandom(s *suite) {
	const nodes, users, numbers = 3, 4, 12
	r := rand.New(rand.NewPCG(1, 2))
	now := time.UnixMilli(1_000_000)
	there := map[subject.Address]bool{}
	var reports []archive.Report
	for n := range nodes {
		last := map[subject.Address]bool{}
		for number := uint64(1); number <= numbers; number++ {
			u, on := user(fmt.Sprint("user", r.IntN(users))), r.IntN(2) == 0
			switch {
			case r.IntN(6) == 0:
				clear(last)
				reports = append(reports, rest(fmt.Sprint("node", n), number, 1))
			default:
				last[u] = on
				reports = append(reports, seen(fmt.Sprint("node", n), number, on, 1, u))
			}
		}
		for u, on := range last {
			there[u] = there[u] || on
		}
	}
	reports = append(reports, reports[:len(reports)/2]...)
	r.Shuffle(len(reports), func(i, j int) { reports[i], reports[j] = reports[j], reports[i] })
	for chunk := range slices.Chunk(reports, 5) {
		s.report(now, chunk...)
	}
	for i := range users {
		u := user(fmt.Sprint("user", i))
		if d, ok := s.due(u, now.Add(time.Hour)); ok && d.On != there[u] {
			s.t.Errorf("%s is there: %v; want %v", u, d.On, there[u])
		} else if !ok && there[u] {
			s.t.Errorf("%s is there, and nobody has to look", u)
		}
	}
}

func marks(s *suite) {
	t := s.t
	first := archive.Mark{Since: 5}
	for _, begin := range []archive.Mark{first, {Since: 99}} {
		got, err := s.a.Mark(t.Context(), 1, begin)
		s.must(err)
		if got != first {
			t.Errorf("the mark is %+v; want %+v", got, first)
		}
	}
	next := archive.Mark{Since: 5, After: "7/x"}
	for _, want := range []bool{true, false} {
		moved, err := s.a.MoveMark(t.Context(), 1, first, next)
		s.must(err)
		if moved != want {
			t.Errorf("moved %v; want %v", moved, want)
		}
	}
	s.reopen()
	if got, err := s.a.Mark(t.Context(), 1, first); err != nil || got != next {
		t.Errorf("the mark is %+v, %v; want %+v", got, err, next)
	}
	if got, err := s.a.Mark(t.Context(), 2, archive.Mark{Since: 9}); err != nil || got.Since != 9 {
		t.Errorf("the mark of another partition is %+v, %v", got, err)
	}
}
