package archivetest

import (
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// asking is a message whose publisher asks for receipts.
func asking(to subject.Address, id string) *message.Message {
	m := text(to, id)
	m.Receipt = true
	return m
}

// heard is an acknowledgement of a device of alice at a time and a node.
func heard(id string, seq uint64, at int64, node string) history.Cursor {
	c := cursor(id, user("alice"), seq)
	c.At, c.Node = at, node
	return c
}

// tick waits until nothing that is stored from now on can have the time of what was stored before.
func tick() {
	for now := time.Now().UnixMilli(); time.Now().UnixMilli() <= now; {
		runtime.Gosched()
	}
}

// settled writes states as `seq id device state at`, the id of what is gone as `-`.
func settled(states []archive.Settled) string {
	var b []byte
	for i, s := range states {
		if i > 0 {
			b = append(b, ", "...)
		}
		id := s.Message.ID
		if id == "" {
			id = "-"
		}
		b = fmt.Appendf(b, "%d %s %s %s %d", s.Message.Seq, id, s.Device, s.State, s.At)
	}
	return string(b)
}

func (s *suite) expectStates(what string, states []archive.Settled, want string) {
	s.t.Helper()
	if got := settled(states); got != want {
		s.t.Errorf("%s: %q; want %q", what, got, want)
	}
	for _, state := range states {
		if len(state.Message.Payload) != 0 {
			s.t.Errorf("%s: %s has its payload", what, state.Message.ID)
		}
	}
}

// asked expects what Asked says of some acknowledgements.
func (s *suite) asked(want string, cursors ...history.Cursor) {
	s.t.Helper()
	states, err := s.a.Asked(s.t.Context(), cursors)
	s.must(err)
	s.expectStates(fmt.Sprintf("asked by %+v", cursors), states, want)
}

func (s *suite) advance(cursors ...history.Cursor) {
	s.t.Helper()
	s.must(s.a.Advance(s.t.Context(), cursors))
}

func receiptKept(s *suite) {
	t := s.t
	to := user("alice")
	s.append(s.a, 0, archive.Heads{}, asking(to, "asked"), text(to, "plain"))
	for i, o := range s.append(s.a, 0, archive.Heads{}, text(to, "asked"), asking(to, "plain"), with(text(to, "asked"), "another body")) {
		want := []archive.Fate{archive.Duplicate, archive.Duplicate, archive.Conflict}[i]
		if asked := o.Message.ID == "asked"; o.Fate != want || o.Message.Receipt != asked {
			t.Errorf("%s again: fate %d, asked for receipts: %v; what was stored first counts", o.Message.ID, o.Fate, o.Message.Receipt)
		}
	}
	read := s.entries(s.a, to, 1000, time.Now())
	if !read[0].Message.Receipt || read[1].Message.Receipt {
		t.Errorf("read %+v", read)
	}
	since := s.collected(0, 0)
	if !since[0].Receipt || since[1].Receipt {
		t.Errorf("Since gave %+v", since)
	}
}

func askedOnce(s *suite) {
	to := user("alice")
	s.append(s.a, partition(to), archive.Heads{}, asking(to, "a"), text(to, "b"), asking(to, "c"), asking(to, "d"))
	s.asked("", heard("phone", 4, 1000, "n1")) // it has no place
	s.position(device("phone", to), 4, 0)
	const three = "1 a phone delivered 1000, 3 c phone delivered 1000"
	s.asked(three, heard("phone", 3, 1000, "n1"))
	s.asked(three, heard("phone", 3, 1000, "n1")) // until it is advanced
	s.asked("1 a phone delivered 1000, 3 c phone delivered 2000, 4 d phone delivered 3000",
		heard("phone", 2, 1000, "n1"), heard("phone", 3, 2000, "n1"), heard("phone", 1, 2500, "n1"), heard("phone", 99, 3000, "n1"))
	s.advance(heard("phone", 3, 1000, "n1"))
	s.asked("", heard("phone", 3, 1000, "n1"))
	s.asked("", heard("phone", 2, 1000, "n1"))
	s.asked("4 d phone delivered 5", heard("phone", 4, 5, "n1"))
	stranger := heard("phone", 4, 5, "n1")
	stranger.User = "bob"
	s.advance(stranger)
	stranger.Seq = 9
	s.asked("", stranger, cursor("phone", topic("news"), 9), cursor("phone", user("nobody"), 9))
	s.asked("")
	s.reopen()
	s.asked("4 d phone delivered 5", heard("phone", 4, 5, "n1"))
}

// askedKnown: only the devices that were known when a message was archived owe an acknowledgement of it.
func askedKnown(s *suite) {
	to := user("alice")
	s.append(s.a, partition(to), archive.Heads{}, asking(to, "a"), asking(to, "b"))
	s.position(device("first", to), 2, 0)
	s.advance(heard("first", 1, 10, "n1"))
	tick()
	s.position(device("late", to), 2, 1)
	s.asked("", heard("late", 2, 20, "n1"))
	s.append(s.a, partition(to), archive.Heads{}, asking(to, "c"))
	s.asked("3 c late delivered 20", heard("late", 3, 20, "n1"))
	s.asked("2 b first delivered 30, 3 c first delivered 30", heard("first", 3, 30, "n1"))
	tick()
	s.advance(heard("sudden", 2, 40, "n1")) // stored by its first acknowledgement: it is owed nothing below
	s.append(s.a, partition(to), archive.Heads{}, asking(to, "d"))
	s.asked("4 d sudden delivered 50", heard("sudden", 4, 50, "n1"))

	floored := device("first", user("bob"))
	floored.User, floored.Floors = "bob", map[string]uint64{user("bob").Tokens(): 1}
	s.append(s.a, partition(user("bob")), archive.Heads{}, asking(user("bob"), "x"), asking(user("bob"), "y"))
	s.open1(s.a, floored)
	bob := cursor("first", user("bob"), 2)
	bob.User, bob.At = "bob", 60
	s.asked("2 y first delivered 60", bob)
}

func askedExpired(s *suite) {
	to, now := user("alice"), time.Now().UnixMilli()
	m := asking(to, "a")
	m.Expires = now + 1000
	s.append(s.a, partition(to), archive.Heads{}, m, asking(to, "b"))
	s.position(device("phone", to), 2, 0)
	s.asked(fmt.Sprintf("1 a phone delivered %d, 2 b phone delivered %d", now+999, now+999), heard("phone", 2, now+999, "n1"))
	s.asked(fmt.Sprintf("1 a phone expired %d, 2 b phone delivered %d", now+1000, now+1000), heard("phone", 2, now+1000, "n1"))
}

func (s *suite) settling(want string, states ...archive.Settled) {
	s.t.Helper()
	hold, err := s.a.Settle(s.t.Context(), states)
	s.must(err)
	s.expectStates("the states that hold", hold, want)
}

func settleFirst(s *suite) {
	to := user("alice")
	a, b := asking(to, "a"), asking(to, "b")
	s.append(s.a, partition(to), archive.Heads{}, a, b)
	a, b = with(a, ""), with(b, "")
	a.Seq, b.Seq = 1, 2
	phone := archive.Settled{Message: a, Device: "phone", State: message.StateDelivered, At: 10}
	late, other, own := phone, phone, phone
	late.State, late.At = message.StateExpired, 5
	other.Device = "tablet"
	own.Message, own.Device, own.State = b, "", message.StateDeleted
	s.settling("1 a phone delivered 10, 1 a phone delivered 10, 2 b  deleted 10", phone, late, own)
	s.settling("1 a phone delivered 10, 1 a tablet delivered 10, 1 a phone delivered 10", late, other, phone)
	s.settling("")
	s.reopen()
	s.settling("1 a phone delivered 10", late)
	states, err := s.a.SettledOf(s.t.Context(), to, 1, 2)
	s.must(err)
	s.expectStates("all", states, "1 a phone delivered 10, 1 a tablet delivered 10, 2 b  deleted 10")
	states, err = s.a.SettledOf(s.t.Context(), to, 2, 9)
	s.must(err)
	s.expectStates("from the second on", states, "2 b  deleted 10")
	if states, err = s.a.SettledOf(s.t.Context(), user("nobody"), 0, 9); err != nil || len(states) != 0 {
		s.t.Errorf("of nobody: %v, %v", states, err)
	}
}

// settleAtOnce has several processes settle the same states differently: one of them wins each, and all are told which.
func settleAtOnce(s *suite) {
	const messages, processes = 40, 3
	t, to := s.t, user("alice")
	var told [processes][]archive.Settled
	var group sync.WaitGroup
	for i := range processes {
		a := s.open()
		group.Go(func() {
			for seq := uint64(1); seq <= messages; seq++ {
				m := &message.Message{To: to, Seq: seq, ID: fmt.Sprint(seq)}
				mine := archive.Settled{Message: m, Device: "phone", State: []message.State{"delivered", "expired", "deleted"}[i], At: int64(i)}
				hold, err := a.Settle(t.Context(), []archive.Settled{mine})
				if err != nil {
					t.Error(err)
					return
				}
				told[i] = append(told[i], hold...)
			}
		})
	}
	group.Wait()
	stored, err := s.a.SettledOf(t.Context(), to, 1, messages)
	s.must(err)
	for i := range stored {
		stored[i].Message.ID = fmt.Sprint(stored[i].Message.Seq)
	}
	if len(stored) != messages {
		t.Errorf("%d states are stored; want one for each of %d messages", len(stored), messages)
	}
	for i := range processes {
		if got, want := settled(told[i]), settled(stored); got != want {
			t.Errorf("process %d was told\n%s\nstored is\n%s", i, got, want)
		}
	}
}

// lapsed expects what Lapsed says, each message as `id: states`.
func (s *suite) lapsed(partition int, expired, deleted int64, limit int, want ...string) []archive.Lapsed {
	s.t.Helper()
	all, err := s.a.Lapsed(s.t.Context(), partition, expired, deleted, limit)
	s.must(err)
	got := make([]string, len(all))
	for i, l := range all {
		for k, state := range l.States {
			if state.State == message.StateDeleted {
				if age := time.Since(time.UnixMilli(state.At)); age < 0 || age > time.Minute {
					s.t.Errorf("%s was deleted at %d", l.Message.ID, state.At)
				}
				l.States[k].At = 0
			}
		}
		got[i] = l.Message.ID + ": " + settled(l.States)
	}
	if !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
		s.t.Errorf("lapsed up to %d and before %d: %q; want %q", expired, deleted, got, want)
	}
	return all
}

func lapsedStates(s *suite) {
	to := user("alice")
	soon, later, never, silent := asking(to, "soon"), asking(to, "later"), asking(to, "never"), expiring(to, "silent")
	soon.Expires, later.Expires, silent.Expires = soon.At+1000, soon.At+2000, soon.At+1000
	s.append(s.a, 0, archive.Heads{}, soon, later, silent, never)
	s.append(s.a, 1, archive.Heads{}, with(soon, "soon"))
	s.lapsed(0, soon.Expires-1, 0, 10)
	nobody := fmt.Sprintf("soon: 1 soon  expired %d", soon.Expires)
	s.lapsed(0, soon.Expires, 0, 10, nobody)
	s.position(device("phone", to), 4, 0) // the first device: all of it is owed
	s.position(device("tablet", to), 4, 0)
	s.lapsed(0, soon.Expires, never.Archived, 10, fmt.Sprintf("soon: 1 soon phone expired %d", soon.Expires))
	all := s.lapsed(0, soon.Expires, never.Archived+1, 10, fmt.Sprintf("soon: 1 soon phone expired %d", soon.Expires),
		"later: 2 later phone deleted 0", "never: 4 never phone deleted 0")
	s.lapsed(0, soon.Expires, never.Archived+1, 2, fmt.Sprintf("soon: 1 soon phone expired %d", soon.Expires), "later: 2 later phone deleted 0")
	s.advance(heard("phone", 2, 1, "n1"))
	s.lapsed(0, later.Expires, never.Archived+1, 10, "soon: ", "later: ", "never: 4 never phone deleted 0")
	for range 2 {
		s.must(s.a.CloseAsked(s.t.Context(), all[:1]))
	}
	s.must(s.a.CloseAsked(s.t.Context(), nil))
	s.lapsed(0, later.Expires, never.Archived+1, 10, "later: ", "never: 4 never phone deleted 0")
	s.must(s.a.CloseAsked(s.t.Context(), all[2:]))
	s.asked("", heard("phone", 4, 10, "n1")) // closed: nobody is told any more
	s.reopen()
	s.lapsed(0, later.Expires, never.Archived+1, 10, "later: ")
}

func lapsedDevices(s *suite) {
	to := user("alice")
	s.fill(to, 1)
	s.position(device("behind", to), 1, 0)
	s.position(device("ahead", to), 1, 0)
	tick()
	m := expiring(to, "m")
	m.Receipt = true
	s.append(s.a, partition(to), archive.Heads{}, m)
	tick()
	s.position(device("after", to), 2, 0)
	s.advance(heard("ahead", 2, 5, "n1"))
	s.lapsed(partition(to), m.Expires, 0, 10, fmt.Sprintf("m: 2 m behind expired %d", m.Expires))
	s.advance(heard("behind", 2, 6, "n1"))
	s.lapsed(partition(to), m.Expires, 0, 10, "m: ")
}

// routed is what Steps says of the routing of each message of a mailbox, up to one.
func (s *suite) routed(to subject.Address, upTo uint64) string {
	s.t.Helper()
	var b []byte
	for seq := uint64(1); seq <= upTo; seq++ {
		steps, err := s.a.Steps(s.t.Context(), to, seq)
		s.must(err)
		if r := steps.Routed; r == nil {
			b = append(b, "- "...)
		} else {
			b = fmt.Appendf(b, "%d%v ", r.At, r.Nodes)
			if r.Address != to.Tokens() || r.From > seq || r.To < seq {
				s.t.Errorf("the report of %d is %+v", seq, r)
			}
		}
	}
	return string(b)
}

func route(s *suite) {
	to, other := user("alice"), topic("news")
	s.fill(to, 12)
	s.fill(other, 2)
	for _, step := range []struct {
		from, to uint64
		at       int64
		nodes    []string
		want     string
	}{
		{4, 6, 10, []string{"a", "b"}, "- - - 10[a b] 10[a b] 10[a b] - - - - - - "},
		{4, 6, 11, []string{"c"}, "- - - 10[a b] 10[a b] 10[a b] - - - - - - "},
		{7, 7, 20, nil, "- - - 10[a b] 10[a b] 10[a b] 20[] - - - - - "},
		{10, 10, 30, []string{"a"}, "- - - 10[a b] 10[a b] 10[a b] 20[] - - 30[a] - - "},
		{3, 12, 40, []string{"d"}, "- - 40[d] 10[a b] 10[a b] 10[a b] 20[] 40[d] 40[d] 30[a] 40[d] 40[d] "},
		{1, 1, 50, []string{"e"}, "50[e] - 40[d] 10[a b] 10[a b] 10[a b] 20[] 40[d] 40[d] 30[a] 40[d] 40[d] "},
		{5, 4, 60, []string{"f"}, "50[e] - 40[d] 10[a b] 10[a b] 10[a b] 20[] 40[d] 40[d] 30[a] 40[d] 40[d] "},
	} {
		report := ledger.Routed{Address: to.Tokens(), From: step.from, To: step.to, At: step.at, Nodes: step.nodes}
		s.must(s.a.Route(s.t.Context(), []ledger.Routed{report, {Address: user("nobody").Tokens(), From: 1, To: 1}}))
		if got := s.routed(to, 12); got != step.want {
			s.t.Errorf("after %+v: %q; want %q", report, got, step.want)
		}
	}
	s.must(s.a.Route(s.t.Context(), []ledger.Routed{
		{Address: other.Tokens(), From: 1, To: 1, At: 1, Nodes: []string{"x"}}, {Address: other.Tokens(), From: 1, To: 2, At: 2, Nodes: []string{"y"}},
	}))
	s.must(s.a.Route(s.t.Context(), nil))
	s.reopen()
	if got := s.routed(other, 3); got != "1[x] 2[y] - " {
		s.t.Errorf("two reports at once: %q", got)
	}
}

// acked is what Steps says of the acknowledgements of one message, as `device@node at`.
func (s *suite) acked(seq uint64) string {
	s.t.Helper()
	steps, err := s.a.Steps(s.t.Context(), user("alice"), seq)
	s.must(err)
	var b []byte
	for _, a := range steps.Acked {
		b = fmt.Appendf(b, "%s@%s %d ", a.Device, a.Node, a.At)
	}
	return string(b)
}

func steps(s *suite) {
	t, to := s.t, user("alice")
	s.fill(to, 10)
	s.position(device("phone", to), 10, 0)
	s.advance(heard("phone", 2, 10, "n1"))
	s.position(device("tablet", to), 10, 2)
	s.advance(heard("phone", 9, 40, "n2"), heard("tablet", 5, 30, "n3"))
	s.advance(heard("phone", 9, 50, "n4"))  // again, elsewhere: the first counts
	s.advance(heard("phone", 6, 20, "n1"))  // overtaken on its way
	s.advance(heard("tablet", 2, 60, "n4")) // where it began: it acknowledges nothing
	for seq, want := range map[uint64]string{
		1: "phone@n1 10 ", 2: "phone@n1 10 ", 3: "phone@n1 20 tablet@n3 30 ", 5: "phone@n1 20 tablet@n3 30 ",
		6: "phone@n1 20 ", 7: "phone@n2 40 ", 9: "phone@n2 40 ", 10: "",
	} {
		if got := s.acked(seq); got != want {
			t.Errorf("acknowledged %d: %q; want %q", seq, got, want)
		}
	}
	odd := "odd \x00 %/'😀"
	s.position(device(odd, to), 10, 9)
	s.advance(heard(odd, 10, 65, "n1"))
	if got := s.acked(10); got != odd+"@n1 65 " {
		t.Errorf("acknowledged 10 by an odd device: %q", got)
	}
	m := &message.Message{To: to, Seq: 3, ID: "fill-2"}
	s.settling("3 fill-2 phone delivered 20", archive.Settled{Message: m, Device: "phone", State: message.StateDelivered, At: 20})
	got, err := s.a.Steps(t.Context(), to, 3)
	s.must(err)
	s.expectStates("the receipts", got.States, "3 fill-2 phone delivered 20")
	s.advance(heard("sudden", 4, 70, "n5")) // its first acknowledgement is its place
	if got := s.acked(4); got != "phone@n1 20 sudden@n5 70 tablet@n3 30 " {
		t.Errorf("acknowledged 4 after all: %q", got)
	}
	if got, err := s.a.Steps(t.Context(), user("nobody"), 1); err != nil || !reflect.DeepEqual(got, archive.Steps{}) {
		t.Errorf("of nobody: %+v, %v", got, err)
	}
}

// forgotten: the ledger of what is deleted goes with it, and nothing else does.
func forgotten(s *suite) {
	t, to, start := s.t, user("alice"), time.Now()
	s.append(s.a, 0, archive.Heads{}, asking(to, "a"), asking(to, "b"), asking(to, "c"))
	s.append(s.a, 0, archive.Heads{}, asking(user("bob"), "a"))
	s.position(device("phone", to), 3, 0)
	s.must(s.a.Route(t.Context(), []ledger.Routed{{Address: to.Tokens(), From: 1, To: 2, At: 1}, {Address: to.Tokens(), From: 3, To: 3, At: 2}}))
	for seq := range uint64(3) {
		c := heard("phone", seq+1, 11+int64(seq), "n1")
		states, err := s.a.Asked(t.Context(), []history.Cursor{c})
		s.must(err)
		_, err = s.a.Settle(t.Context(), states)
		s.must(err)
		s.advance(c)
	}
	s.purge(start.Add(10*day), 0)
	if got := s.routed(to, 3); got != "1[] 1[] 2[] " {
		t.Errorf("before the retention is over: %q", got)
	}
	s.purge(start.Add(31*day), 4) // a and b are deleted, c and bob's are emptied
	if got := s.routed(to, 3) + s.acked(3); got != "- - 2[] phone@n1 13 " {
		t.Errorf("after it: %q", got)
	}
	if got := s.acked(2); got == "phone@n1 12 " {
		t.Error("after it the acknowledgement of what is deleted is there")
	}
	states, err := s.a.SettledOf(t.Context(), to, 0, 9)
	s.must(err)
	s.expectStates("receipts after it", states, "3 c phone delivered 13")
	s.lapsed(0, 0, start.Add(31*day).UnixMilli(), 10, "c: ", "a: 1 a  deleted 0")
}
