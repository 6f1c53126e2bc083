package archivetest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

func facts(s *suite) {
	t := s.t
	got := s.a.Facts()
	if len(got.Epoch) < 20 || got.Partitions != Partitions {
		t.Errorf("facts of a new archive: %+v", got)
	}
	if other := s.open().Facts(); other != got {
		t.Errorf("facts changed from %+v to %+v", got, other)
	}
	_, err := s.store.Open(t.Context(), Partitions+3)
	if !errors.Is(err, archive.ErrPartitions) || !strings.Contains(err.Error(), "4") || !strings.Contains(err.Error(), "7") {
		t.Errorf("opened with other partitions: %v; want ErrPartitions with 4 and 7", err)
	}
	if _, err := s.store.Open(t.Context(), 0); err == nil {
		t.Error("opened with 0 partitions")
	}
	s.must(s.a.Ping(t.Context()))
}

// creators has several processes find no archive at once and make it.
func creators(s *suite) {
	t := s.t
	for range 3 {
		store := s.another(t)
		epochs := make([]string, 4)
		var group sync.WaitGroup
		for i := range epochs {
			group.Go(func() {
				a, err := store.Open(t.Context(), Partitions)
				if err != nil {
					t.Error(err)
					return
				}
				epochs[i] = a.Facts().Epoch
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, epoch := range epochs {
			if epoch != epochs[0] || epoch == s.a.Facts().Epoch {
				t.Errorf("epochs %q; want one, and not that of another archive", epochs)
			}
		}
	}
}

func appendOrder(s *suite) {
	t := s.t
	a, b := user("a"), user("b")
	memory := archive.Heads{}
	first := s.append(s.a, 0, memory, text(a, "1"), text(b, "x"), text(a, "2"))
	second := s.append(s.a, 0, memory, text(b, "y"), text(a, "3"))
	for i, o := range append(first, second...) {
		if want := []uint64{1, 1, 2, 2, 3}[i]; o.Fate != archive.Stored || o.Message.Seq != want || o.Message.Archived == 0 {
			t.Errorf("outcome %d: fate %d, %+v; want it stored as %d", i, o.Fate, o.Message, want)
		}
	}
	if memory[a] != 3 || memory[b] != 2 {
		t.Errorf("the owner remembers %v", memory)
	}
	s.reopen()
	s.append(s.a, 0, archive.Heads{}, text(a, "4"))
	s.expect(s.a, a, time.Now(), "1=1 2=2 3=3 4=4")
	s.expect(s.a, b, time.Now(), "1=x 2=y")
	if outcomes := s.append(s.a, 0, memory); len(outcomes) != 0 {
		t.Errorf("an empty batch has %d outcomes", len(outcomes))
	}
}

func appendFields(s *suite) {
	t := s.t
	m := &message.Message{
		To: user("a"), ID: "id", Type: "order.paid", ContentType: "application/octet-stream", Trace: "00-4bf9-00f0-01",
		At: 1_700_000_000_123, Expires: time.Now().Add(time.Hour).UnixMilli(), Again: true, Payload: []byte{0, 0xff, '\n', 0xc3, 0x28, 0},
	}
	before := time.Now().UnixMilli()
	s.append(s.a, 0, archive.Heads{}, m)
	if m.Archived < before || m.Archived > time.Now().UnixMilli() {
		t.Errorf("archived at %d", m.Archived)
	}
	got := s.entries(s.a, m.To, 1000, time.Now())[0].Message
	if !reflect.DeepEqual(got, m) {
		t.Errorf("read %+v; stored %+v", got, m)
	}
	copied := again(m)
	if o := s.append(s.a, 0, archive.Heads{}, copied)[0]; o.Fate != archive.Duplicate || !reflect.DeepEqual(o.Message, m) {
		t.Errorf("the duplicate gives %d %+v; stored was %+v", o.Fate, o.Message, m)
	}
}

// place is what became of a message, and where it is now.
type place struct {
	fate archive.Fate
	seq  uint64
}

func appendDuplicates(s *suite) {
	t := s.t
	to := user("a")
	x, y, z := text(to, "x"), text(to, "y"), text(to, "z")
	memory := archive.Heads{}
	check := func(step string, outcomes []archive.Outcome, want ...place) {
		t.Helper()
		for i, o := range outcomes {
			if got := (place{o.Fate, o.Message.Seq}); got != want[i] {
				t.Errorf("%s, message %d: %v; want %v", step, i, got, want[i])
			}
		}
	}
	check("inside a batch", s.append(s.a, 0, memory, x, again(x), y, with(x, "another body")),
		place{archive.Stored, 1}, place{archive.Duplicate, 1}, place{archive.Stored, 2}, place{archive.Conflict, 1})
	check("across batches", s.append(s.a, 0, memory, z, again(x), with(y, "another body"), again(z), text(to, "v")),
		place{archive.Stored, 3}, place{archive.Duplicate, 1}, place{archive.Conflict, 2}, place{archive.Duplicate, 3}, place{archive.Stored, 4})
	s.reopen()
	outcomes := s.append(s.a, 0, archive.Heads{}, again(z), text(to, "w"), again(y), with(z, "another body"))
	check("after a restart", outcomes, place{archive.Duplicate, 3}, place{archive.Stored, 5}, place{archive.Duplicate, 2}, place{archive.Conflict, 3})
	if got := string(outcomes[3].Message.Payload); got != "z" {
		t.Errorf("a conflict shows the payload %q; want what is archived", got)
	}
	for name, change := range map[string]func(*message.Message){
		"type":         func(m *message.Message) { m.Type = "other" },
		"content type": func(m *message.Message) { m.ContentType = "text/html" },
	} {
		m := again(x)
		change(m)
		if o := s.append(s.a, 0, memory, m)[0]; o.Fate != archive.Conflict {
			t.Errorf("another %s: fate %d; want a conflict", name, o.Fate)
		}
	}
	m := again(x)
	m.At, m.Trace, m.Expires = m.At+1, "another", m.At+1000
	if o := s.append(s.a, 0, memory, m)[0]; o.Fate != archive.Duplicate {
		t.Errorf("a redelivery with another time: fate %d; want a duplicate", o.Fate)
	}
	s.expect(s.a, to, time.Now(), "1=x 2=y 3=z 4=v 5=w")
}

func appendIdentity(s *suite) {
	t := s.t
	places := []subject.Address{
		user("a"), user("A"), user("b"), topic("a"),
		{Tenant: "other", Kind: subject.User, ID: "a"},
		{Tenant: "default", Kind: subject.All},
		{Tenant: "other", Kind: subject.All},
	}
	var batch []*message.Message
	for i, to := range places {
		batch = append(batch, with(text(to, "same"), fmt.Sprint(i)))
	}
	for range 2 {
		for i, o := range s.append(s.a, 0, archive.Heads{}, batch...) {
			if o.Message.Seq != 1 || string(o.Message.Payload) != fmt.Sprint(i) {
				t.Errorf("%v: fate %d, %+v", places[i], o.Fate, o.Message)
			}
			batch[i] = again(batch[i])
		}
	}
}

func appendStaleHeads(s *suite) {
	t := s.t
	to, other := user("a"), user("b")
	s.fill(to, 5)
	for i, memory := range []archive.Heads{{}, {to: 0}, {to: 2}, {to: 7}, nil} {
		s.append(s.a, 0, memory, text(other, fmt.Sprint("o", i)), text(to, fmt.Sprint("m", i)), text(to, fmt.Sprint("n", i)))
		if memory != nil && memory[to] != uint64(7+2*i) {
			t.Errorf("the memory of step %d says %d; want %d", i, memory[to], 7+2*i)
		}
		if got := len(s.entries(s.a, to, 1<<20, time.Now())); got != 7+2*i {
			t.Errorf("%d entries after step %d; want %d", got, i, 7+2*i)
		}
	}
}

// twoOwners has two owners, each with its own memory of heads, write to the same addresses at once.
func twoOwners(s *suite) {
	t := s.t
	const batches, size = 12, 8
	places := []subject.Address{user("a"), user("b")}
	var group sync.WaitGroup
	for owner := range 2 {
		a := s.open()
		group.Go(func() {
			memory := archive.Heads{}
			for b := range batches {
				var batch []*message.Message
				for i := range size {
					batch = append(batch, text(places[i%2], fmt.Sprintf("%d-%03d", owner, b*size+i)))
				}
				outcomes, err := a.Append(t.Context(), 0, batch, memory)
				if err != nil {
					t.Error(err)
					return
				}
				for _, o := range outcomes {
					if o.Fate != archive.Stored {
						t.Errorf("%s: fate %d", o.Message.ID, o.Fate)
					}
				}
			}
		})
	}
	group.Wait()
	for _, to := range places {
		last, count := map[byte]string{}, 0
		archived := int64(0)
		for _, e := range s.entries(s.a, to, 1<<20, time.Now()) {
			m := e.Message
			if m.ID <= last[m.ID[0]] {
				t.Errorf("%s: %s comes after %s", to, m.ID, last[m.ID[0]])
			}
			if m.Archived < archived {
				t.Errorf("%s: %s was archived at %d, after one of %d", to, m.ID, m.Archived, archived)
			}
			last[m.ID[0]], archived = m.ID, m.Archived
			count++
		}
		if count != batches*size {
			t.Errorf("%s has %d messages; want %d", to, count, batches*size)
		}
	}
}

// twoOwnersSameMessages has two owners archive one stream, as when a paused owner wakes up.
func twoOwnersSameMessages(s *suite) {
	t := s.t
	const batches, size = 10, 5
	to := user("a")
	seqs := [2]map[string]uint64{{}, {}}
	var stored [2]int
	var group sync.WaitGroup
	for owner := range 2 {
		a := s.open()
		group.Go(func() {
			memory := archive.Heads{}
			for b := range batches {
				var batch []*message.Message
				for i := range size {
					m := text(to, fmt.Sprintf("%03d", b*size+i))
					batch = append(batch, m)
				}
				outcomes, err := a.Append(t.Context(), 0, batch, memory)
				if err != nil {
					t.Error(err)
					return
				}
				for _, o := range outcomes {
					seqs[owner][o.Message.ID] = o.Message.Seq
					if o.Fate == archive.Stored {
						stored[owner]++
					}
				}
			}
		})
	}
	group.Wait()
	if !reflect.DeepEqual(seqs[0], seqs[1]) || stored[0]+stored[1] != batches*size {
		t.Errorf("the owners stored %v and were given\n%v\n%v", stored, seqs[0], seqs[1])
	}
	if got := len(s.entries(s.a, to, 1<<20, time.Now())); got != batches*size {
		t.Errorf("%d messages; want %d", got, batches*size)
	}
}

func oddIDs(s *suite) {
	t := s.t
	ids := []string{
		strings.Repeat("x", 128), strings.Repeat("é", 64), "a.b", "a/b", "a%2Fb", "100%", `"quoted"`, "it's; DROP TABLE messages;--",
		"😀", "nul\x00nul", "nul\x00", "nul", " ", "*", ">", "$ne", "a", "A", "ä", "a\u0308", "\u2028", "=YQ", "~", "\uffff", "\x7f",
	}
	var batch []*message.Message
	for _, id := range ids {
		batch = append(batch, text(user(id), "one"))
	}
	for _, id := range ids {
		batch = append(batch, text(topic("odd"), id))
	}
	s.append(s.a, 0, archive.Heads{}, batch...)
	for _, id := range ids {
		s.expect(s.a, user(id), time.Now(), "1=one")
	}
	for i, e := range s.entries(s.a, topic("odd"), 1<<20, time.Now()) {
		if e.Message.ID != ids[i] {
			t.Errorf("message %d has the id %q; want %q", i, e.Message.ID, ids[i])
		}
	}
	for i := range batch {
		batch[i] = again(batch[i])
	}
	for i, o := range s.append(s.a, 0, archive.Heads{}, batch...) {
		if o.Fate != archive.Duplicate {
			t.Errorf("%q to %q again: fate %d", batch[i].ID, batch[i].To.ID, o.Fate)
		}
	}
}
