package archivetest

import (
	"fmt"
	"sync"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// device asks where a device of alice stands in one mailbox.
func device(id string, to subject.Address) history.OpenRequest {
	return history.OpenRequest{Tenant: to.Tenant, User: "alice", Device: id, Addresses: []string{to.Tokens()}}
}

// cursor is an acknowledgement of a device of alice.
func cursor(id string, to subject.Address, seq uint64) history.Cursor {
	return history.Cursor{Tenant: to.Tenant, User: "alice", Device: id, Address: to.Tokens(), Seq: seq}
}

func (s *suite) position(r history.OpenRequest, head, cursor uint64) {
	s.t.Helper()
	if got := s.open1(s.a, r); got.Head != head || got.Cursor != cursor {
		s.t.Errorf("%s in %s is at %d of %d; want %d of %d", r.Device, r.Addresses[0], got.Cursor, got.Head, cursor, head)
	}
}

func openUser(s *suite) {
	t := s.t
	to := user("alice")
	s.fill(to, 9)
	s.position(device("first", to), 9, 0)
	s.must(s.a.Advance(t.Context(), []history.Cursor{cursor("first", to, 4), cursor("x/y", to, 2)}))
	stranger := cursor("first", to, 8)
	stranger.User = "alice2"
	s.must(s.a.Advance(t.Context(), []history.Cursor{stranger, cursor("first", user("alice2"), 7)}))
	s.position(device("second", to), 9, 4)
	floored := device("third", to)
	floored.Floors = map[string]uint64{to.Tokens(): 6, "default.user.other": 8}
	s.position(floored, 9, 6)
	s.position(device("fourth", to), 9, 6)
	low := device("fifth", to)
	low.Floors = map[string]uint64{to.Tokens(): 1}
	s.position(low, 9, 6)
	s.must(s.a.Advance(t.Context(), []history.Cursor{cursor("first", to, 9)}))
	high := device("second", to)
	high.Floors = map[string]uint64{to.Tokens(): 8}
	s.position(high, 9, 4) // it has its own cursor: a floor is for new devices
	s.reopen()
	s.position(device("second", to), 9, 4) // the start was stored
	s.position(device("third", to), 9, 6)
	s.position(device("odd \x00 %/'😀", to), 9, 9)
	s.position(device("odd \x00 %/'😀", user("nobody")), 0, 0)
}

func openTopic(s *suite) {
	t := s.t
	all := subject.Address{Tenant: "default", Kind: subject.All}
	for _, to := range []subject.Address{topic("news"), all} {
		s.fill(to, 5)
		floored := device("one", to)
		floored.Floors = map[string]uint64{to.Tokens(): 2}
		s.position(floored, 5, 5)
		s.append(s.a, partition(to), nil, text(to, "later"))
		s.position(device("one", to), 6, 5) // stored at once: what came since is not lost
		s.position(device("two", to), 6, 6)
	}
	empty := topic("empty")
	s.position(device("one", empty), 0, 0)
	s.append(s.a, partition(empty), nil, text(empty, "first"))
	s.position(device("one", empty), 1, 0)
	r := device("three", topic("news"))
	r.Addresses = append(r.Addresses, all.Tokens(), user("alice").Tokens())
	answer, err := s.a.Open(t.Context(), r)
	s.must(err)
	if len(answer.Positions) != 3 || answer.Positions[all.Tokens()] != (history.Position{Head: 6, Cursor: 6}) {
		t.Errorf("three mailboxes at once: %v", answer.Positions)
	}
	bad := device("one", topic("news"))
	bad.Addresses = append(bad.Addresses, "default.user.a b")
	if _, err := s.a.Open(t.Context(), bad); err == nil {
		t.Error("opened an address that is not legal")
	}
}

func openAdvanced(s *suite) {
	t := s.t
	to := topic("news")
	s.fill(to, 5)
	s.must(s.a.Advance(t.Context(), []history.Cursor{cursor("early", to, 3)}))
	s.position(device("early", to), 5, 3)
	s.must(s.a.Advance(t.Context(), nil))
}

// openAtOnce opens the same devices from several processes while the head moves: all are told what is stored.
func openAtOnce(s *suite) {
	const devices, processes = 10, 3
	t, to := s.t, topic("news")
	told := [processes][devices]uint64{}
	var group sync.WaitGroup
	for i := range processes {
		a := s.open()
		group.Go(func() {
			for d := range devices {
				late := text(to, fmt.Sprintf("late-%d-%d", i, d))
				if _, err := a.Append(t.Context(), partition(to), []*message.Message{late}, nil); err != nil {
					t.Error(err)
				}
				answer, err := a.Open(t.Context(), device(fmt.Sprint(d), to))
				if err != nil {
					t.Error(err)
					return
				}
				told[i][d] = answer.Positions[to.Tokens()].Cursor
			}
		})
	}
	group.Wait()
	for d := range devices {
		stored := s.open1(s.a, device(fmt.Sprint(d), to)).Cursor
		for i := range processes {
			if told[i][d] != stored {
				t.Errorf("device %d: process %d was told %d; stored is %d", d, i, told[i][d], stored)
			}
		}
	}
}

func advanceNever(s *suite) {
	t := s.t
	to := user("alice")
	s.fill(to, 40)
	for _, step := range []struct{ to, want uint64 }{{5, 5}, {3, 5}, {5, 5}, {9, 9}, {0, 9}} {
		s.must(s.a.Advance(t.Context(), []history.Cursor{cursor("d", to, step.to)}))
		s.position(device("d", to), 40, step.want)
	}
	s.must(s.a.Advance(t.Context(), []history.Cursor{cursor("d", to, 12), cursor("e", to, 1), cursor("d", to, 11)}))
	s.position(device("d", to), 40, 12)
	s.position(device("e", to), 40, 1)
	if s.store.LosesUpdates {
		return
	}
	var group sync.WaitGroup
	for i := range uint64(4) {
		a := s.open()
		group.Go(func() {
			for seq := uint64(1); seq <= 10; seq++ {
				if err := a.Advance(t.Context(), []history.Cursor{cursor("many", to, seq*4-i), cursor("d", to, seq)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	s.position(device("many", to), 40, 40)
	s.position(device("d", to), 40, 12)
}
