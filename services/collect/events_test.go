package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

// standIn is a push node as far as presence goes.
type standIn struct {
	*world
	id     string
	number uint64
	sub    *nats.Subscription
	asked  chan node.Op
	mute   chan bool
}

// standIn makes a node that answers probes.
func (w *world) standIn(id string) *standIn {
	w.t.Helper()
	n := &standIn{world: w, id: id, asked: make(chan node.Op, 1000), mute: make(chan bool, 1)}
	n.mute <- false
	var err error
	n.sub, err = w.nc.Subscribe(subject.NodeControl(id), func(m *nats.Msg) {
		var order node.Order
		if err := json.Unmarshal(m.Data, &order); err != nil {
			w.t.Error(err)
		}
		mute := <-n.mute
		n.mute <- mute
		if !mute {
			n.asked <- order.Op
			_ = m.Respond(nil)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (n *standIn) setMute(mute bool) {
	<-n.mute
	n.mute <- mute
}

// says reports that users came or went.
func (n *standIn) says(on bool, users ...subject.Address) {
	n.t.Helper()
	n.number++
	p := ledger.Presence{Number: n.number}
	for _, u := range users {
		p.Users = append(p.Users, ledger.Seen{User: u.Tokens(), On: on, At: time.Now().UnixMilli()})
	}
	n.report(p)
}

func (n *standIn) report(p ledger.Presence) {
	n.t.Helper()
	body, err := json.Marshal(p)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	if _, err := n.js.Publish(ctx, subject.Presence(n.id), body); err != nil {
		n.t.Fatal(err)
	}
}

// happened are the events that the stream has by now.
func (w *world) happened() []event.Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	stream, err := w.js.Stream(ctx, fabric.EventStream)
	if err != nil {
		w.t.Fatal(err)
	}
	var events []event.Event
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			w.t.Fatal(err)
		}
		var e event.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			w.t.Fatal(err)
		}
		if m.Subject != subject.Event(e.Tenant, string(e.What)) || m.Header.Get(jetstream.MsgIDHeader) != e.ID {
			w.t.Errorf("%+v on %s with the id %s", e, m.Subject, m.Header.Get(jetstream.MsgIDHeader))
		}
		events = append(events, e)
	}
	return events
}

// line is what was told of a user, in short: `1 online 2 offline`.
func (w *world) line(u subject.Address) (line string) {
	w.t.Helper()
	for _, e := range w.happened() {
		if e.Tenant == u.Tenant && e.User == u.ID && e.Turn > 0 {
			line += fmt.Sprintf("%d %s ", e.Turn, e.What)
		}
	}
	return line
}

func (w *world) expectLine(u subject.Address, want string) {
	w.t.Helper()
	w.eventually(u.ID+" is told "+want, func() bool { return w.line(u) == want })
}

func offlineAfter(d time.Duration) func(*Config) { return func(c *Config) { c.OfflineAfter = d } }

var bob, carol = subject.UserAddress("default", "bob"), subject.UserAddress("acme", "carol.of/x")

func TestWhoComesAndGoesIsToldOnce(t *testing.T) {
	w := newWorld(t)
	r := w.start(offlineAfter(2 * time.Second))
	one, two := w.standIn("one"), w.standIn("two")
	begun := time.Now().UnixMilli()
	one.says(true, alice, bob, carol)
	two.says(true, alice)
	for _, u := range []subject.Address{alice, bob, carol} {
		w.expectLine(u, "1 online ")
	}
	one.says(false, alice, bob) // alice is at the other one still, bob comes back soon
	one.says(true, bob)
	one.says(false, carol)
	w.expectLine(carol, "1 online 2 offline ")
	if alices, bobs := w.line(alice), w.line(bob); alices != "1 online " || bobs != "1 online " {
		t.Errorf("alice is told %s, bob %s; both were there", alices, bobs)
	}
	two.says(false, alice)
	r.stop() // whoever comes next knows what was told
	w.start(offlineAfter(0))
	w.expectLine(alice, "1 online 2 offline ")
	one.says(true, alice)
	w.expectLine(alice, "1 online 2 offline 3 online ")
	last := int64(0)
	for _, e := range w.happened() {
		if e.User != alice.ID {
			continue
		}
		if e.At < begun || e.At < last || e.At > time.Now().UnixMilli() {
			t.Errorf("%+v; the one before was at %d, the test began at %d", e, last, begun)
		}
		last = e.At
	}
}

// brittle fails now and then, before it does what it is asked or after.
type brittle struct {
	archive.Archive
	mu   sync.Mutex // protects fail
	fail func(step string) (before, after bool)
}

var errBrittle = errors.New("it broke")

func (b *brittle) step(name string, do func() error) error {
	b.mu.Lock()
	before, after := b.fail(name)
	b.mu.Unlock()
	if before {
		return errBrittle
	}
	if err := do(); err != nil || !after {
		return err
	}
	return errBrittle
}

func (b *brittle) Report(ctx context.Context, reports []archive.Report, now time.Time, grace time.Duration) error {
	return b.step("report", func() error { return b.Archive.Report(ctx, reports, now, grace) })
}

func (b *brittle) Attend(ctx context.Context, some []archive.Attendance) (held []bool, err error) {
	name := "close"
	for _, u := range some {
		if u.Open {
			name = "decide"
		}
	}
	err = b.step(name, func() error {
		held, err = b.Archive.Attend(ctx, some)
		return err
	})
	return held, err
}

func (b *brittle) Advance(ctx context.Context, cursors []history.Cursor) error {
	return b.step("advance", func() error { return b.Archive.Advance(ctx, cursors) })
}

func (b *brittle) MoveMark(ctx context.Context, p int, from, to archive.Mark) (moved bool, err error) {
	err = b.step("move", func() error {
		moved, err = b.Archive.MoveMark(ctx, p, from, to)
		return err
	})
	return moved, err
}

// TestACrashBetweenAnyTwoSteps of telling an event: it is in the stream once.
func TestACrashBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	for _, broken := range []struct {
		step  string
		after bool
	}{{"report", false}, {"report", true}, {"decide", false}, {"decide", true}, {"close", false}, {"close", true}} {
		t.Run(fmt.Sprint(broken.step, " ", broken.after), func(t *testing.T) {
			t.Parallel() // they wait for clocks, mostly
			w := newWorld(t)
			reached := make(chan struct{}, 1000)
			b := &brittle{Archive: w.archive.Archive, fail: func(step string) (bool, bool) {
				if step == broken.step {
					reached <- struct{}{}
				}
				return step == broken.step && !broken.after, step == broken.step && broken.after
			}}
			w.archive.Archive = b
			r := w.start(offlineAfter(0))
			w.standIn("one").says(true, alice)
			<-reached
			r.stop()
			b.mu.Lock()
			b.fail = func(string) (bool, bool) { return false, false }
			b.mu.Unlock()
			w.start(offlineAfter(0))
			w.expectLine(alice, "1 online ")
			due := func() bool {
				due, err := w.archive.Due(t.Context(), 0, time.Now().Add(time.Hour), 10)
				return err == nil && len(due) == 0
			}
			w.eventually("nothing is left to be told", due)
			if line := w.line(alice); line != "1 online " {
				t.Errorf("alice is told %s", line)
			}
		})
	}
}

// TestEventsAlternateWhateverHappens: nodes report at random, the archive fails at random, collects come and go, two at a
// time. Of each user online and offline alternate, and the last one is true.
func TestEventsAlternateWhateverHappens(t *testing.T) {
	t.Parallel() // it waits for clocks, mostly
	w := newWorld(t)
	r := rand.New(rand.NewPCG(7, 9))
	dice := rand.New(rand.NewPCG(1, 2))
	w.archive.Archive = &brittle{Archive: w.archive.Archive, fail: func(step string) (bool, bool) {
		often := 6
		if step == "report" {
			often = 40 // as long as one comes again nobody is told to have gone
		}
		return dice.IntN(often) == 0, dice.IntN(often) == 0
	}}
	nodes := []*standIn{w.standIn("one"), w.standIn("two"), w.standIn("three")}
	var users []subject.Address
	for i := range 5 {
		users = append(users, subject.UserAddress("default", fmt.Sprint("user", i)))
	}
	there := map[subject.Address]map[string]bool{}
	stop := w.start(offlineAfter(0)).stop
	w.start(offlineAfter(0))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := range 250 {
		<-tick.C
		n, u, on := nodes[r.IntN(3)], users[r.IntN(5)], r.IntN(2) == 0
		if there[u] == nil {
			there[u] = map[string]bool{}
		}
		there[u][n.id] = on
		n.says(on, u)
		if i%100 == 50 {
			stop()
			stop = w.start(offlineAfter(0)).stop
		}
	}
	turns := uint64(0)
	for _, u := range users {
		want := event.Offline
		for _, on := range there[u] {
			if on {
				want = event.Online
			}
		}
		var last event.Event
		w.eventually(fmt.Sprint(u.ID, " is told ", want), func() bool {
			last = event.Event{What: event.Offline}
			for _, e := range w.happened() {
				if e.User == u.ID {
					if e.Turn != last.Turn+1 || e.What == last.What || e.At < last.At {
						t.Fatalf("%+v comes after %+v", e, last)
					}
					last = e
				}
			}
			return last.What == want
		})
		turns += last.Turn
	}
	if turns < 8 {
		t.Errorf("only %d events: this shows nothing", turns)
	}
}

// TestNodesThatAreGone: one that has died is noticed by its subject, one that hangs by its silence. One that hung and
// answers again is asked whom it has.
func TestNodesThatAreGone(t *testing.T) {
	t.Parallel() // it waits for clocks, mostly
	w := newWorld(t)
	w.start(offlineAfter(0))
	dies, hangs, lives := w.standIn("dies"), w.standIn("hangs"), w.standIn("lives")
	dies.says(true, alice)
	hangs.says(true, bob)
	lives.says(true, carol)
	for _, u := range []subject.Address{alice, bob, carol} {
		w.expectLine(u, "1 online ")
	}
	<-dies.asked // all of them were probed
	died := time.Now()
	if err := dies.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	hangs.setMute(true)
	w.expectLine(alice, "1 online 2 offline ")
	if took := time.Since(died); took < deadAfter/2 {
		t.Errorf("a node that nobody heard for %s counts as dead", took)
	}
	if line := w.line(bob); line != "1 online " {
		t.Errorf("bob is told %s: his node may only hang", line)
	}
	w.expectLine(bob, "1 online 2 offline ")
	hangs.setMute(false)
	w.eventually("the node is asked to report", func() bool {
		select {
		case op := <-hangs.asked:
			return op == node.Report
		default:
			return false
		}
	})
	hangs.says(true, bob)
	w.expectLine(bob, "1 online 2 offline 3 online ")
	if line := w.line(carol); line != "1 online " {
		t.Errorf("carol is told %s", line)
	}
}

// TestNobodyGoesWhileNATSIsAway: neither nodes nor their users count as gone for it.
func TestNobodyGoesWhileNATSIsAway(t *testing.T) {
	t.Parallel() // it waits for clocks, mostly
	w := newWorld(t)
	w.start(offlineAfter(0))
	one := w.standIn("one")
	one.says(true, alice)
	w.expectLine(alice, "1 online ")
	<-one.asked
	w.restartAfter(func() { <-time.After(deadAfter + time.Second) })
	one.says(true, bob)
	w.expectLine(bob, "1 online ")
	for range 3 {
		<-one.asked
	}
	if line := w.line(alice); line != "1 online " {
		t.Errorf("alice is told %s", line)
	}
}

func TestWhatIsDecided(t *testing.T) {
	now, grace := time.UnixMilli(100_000), 10*time.Second
	early, late := now.Add(-grace+time.Millisecond).UnixMilli(), now.Add(-grace).UnixMilli()
	for name, c := range map[string]struct {
		u     archive.Attendance
		until time.Time
		what  string // of the event that is opened
		due   int64
	}{
		"came":                    {archive.Attendance{On: true, Since: 5, Noted: early}, now, "online at 5", now.UnixMilli()},
		"came, by a clock ahead":  {archive.Attendance{On: true, Since: 200_000, Noted: early}, now, "online at 100000", now.UnixMilli()},
		"is there as was told":    {archive.Attendance{On: true, Told: true, Turn: 3}, now, "", archive.NotDue},
		"gone as was told":        {archive.Attendance{Noted: late}, now, "", archive.NotDue},
		"gone, not for long":      {archive.Attendance{Told: true, Noted: early}, now, "", now.Add(time.Millisecond).UnixMilli()},
		"gone for long":           {archive.Attendance{Told: true, Since: 7, Noted: late}, now, "offline at 7", now.UnixMilli()},
		"gone, by a clock behind": {archive.Attendance{Told: true, At: 9, Since: 7, Noted: late}, now, "offline at 9", now.UnixMilli()},
		// At the next look, not in this one again: so many may wait that it would do nothing else.
		"gone, reports are missing": {archive.Attendance{Told: true, Noted: late}, now.Add(-time.Millisecond), "", now.Add(announceEvery).UnixMilli()},
	} {
		got, what := decide(c.u, now, c.until, grace), ""
		if got.Open {
			what = fmt.Sprintf("%s at %d", map[bool]event.What{true: event.Online, false: event.Offline}[got.Told], got.At)
		}
		if what != c.what || got.Due != c.due || got.Open && got.Turn != c.u.Turn+1 || !got.Open && got.Turn != c.u.Turn {
			t.Errorf("%s: %q, %+v; want %q, due at %d", name, what, got, c.what, c.due)
		}
	}
}
