package archivetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// model is an archive of one partition in memory, as simple as the contract can be told.
type model struct {
	mailboxes map[subject.Address][]*held
	cursors   map[subject.Address]map[string]uint64 // of alice's devices
}

// held is a position: a message, or what is left of one.
type held struct {
	message *message.Message
	why     message.Why
	deleted bool
}

func (h *held) entry(seq uint64, now time.Time) message.Entry {
	switch {
	case h.deleted:
		return message.Entry{From: seq, To: seq, Why: message.WhyRetention}
	case h.why != "":
		return message.Entry{From: seq, To: seq, Why: h.why}
	default:
		return message.EntryOf(h.message, now)
	}
}

// append says what must become of a message.
func (m *model) append(given *message.Message) (archive.Fate, uint64) {
	box := m.mailboxes[given.To]
	for i, h := range box {
		if h.deleted || h.message.ID != given.ID {
			continue
		}
		if string(h.message.Payload) == string(given.Payload) {
			return archive.Duplicate, uint64(i + 1)
		}
		return archive.Conflict, uint64(i + 1)
	}
	given.Seq = uint64(len(box) + 1)
	m.mailboxes[given.To] = append(box, &held{message: given})
	return archive.Stored, given.Seq
}

func (m *model) line(to subject.Address, now time.Time) string {
	var entries []message.Entry
	for i, h := range m.mailboxes[to] {
		e := h.entry(uint64(i+1), now)
		if n := len(entries); n > 0 && e.Message == nil && entries[n-1].Message == nil && entries[n-1].Why == e.Why {
			entries[n-1].To = e.To
			continue
		}
		entries = append(entries, e)
	}
	return line(entries)
}

func (m *model) purge(policy archive.Policy, now time.Time) int {
	purged := 0
	for _, box := range m.mailboxes {
		for i, h := range box {
			age := now.Sub(time.UnixMilli(h.message.Archived))
			switch {
			case h.deleted || age < policy.MinAge:
			case age > policy.Retention && i < len(box)-1:
				h.deleted, purged = true, purged+1
			case age > policy.Retention && h.why == "":
				h.why, purged = message.WhyRetention, purged+1
			case h.message.Expired(now) && h.why == "":
				h.why, purged = message.WhyExpired, purged+1
			}
		}
	}
	return purged
}

func (m *model) open(device string, to subject.Address) history.Position {
	head := uint64(len(m.mailboxes[to]))
	if m.cursors[to] == nil {
		m.cursors[to] = map[string]uint64{}
	}
	start, ok := m.cursors[to][device]
	if !ok && to.Kind == subject.User {
		for _, seq := range m.cursors[to] {
			start = max(start, seq)
		}
	} else if !ok {
		start = head
	}
	m.cursors[to][device] = start
	return history.Position{Head: head, Cursor: start}
}

// chronicle is a random history on a store and a model side by side.
type chronicle struct {
	*suite
	random *rand.Rand
	model  model
	places []subject.Address
	ids    int             // given out so far
	memory []archive.Heads // of two owners: each is behind after the other has written
	now    time.Time       // moves on by hours
}

// randomHistory makes the same steps on the store and on the model; every answer must be the same. The seed is in
// the output of a test that fails.
func randomHistory(s *suite) {
	t := s.t
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &chronicle{
		suite: s, random: rand.New(rand.NewPCG(seed, 1)),
		model:  model{mailboxes: map[subject.Address][]*held{}, cursors: map[subject.Address]map[string]uint64{}},
		places: []subject.Address{user("alice"), user("a/b"), topic("news"), {Tenant: "t.2", Kind: subject.All}},
		memory: []archive.Heads{{}, {}},
		now:    time.UnixMilli(time.Now().UnixMilli()), // the archive counts in ms
	}
	steps := []func(){
		c.stepAppend, c.stepAppend, c.stepAppend, c.stepRead, c.stepRange, c.stepOpen, c.stepAdvance, c.stepTime, c.stepPurge, c.stepReopen, c.stepPending, c.stepScan,
	}
	for range 150 {
		steps[c.random.IntN(len(steps))]()
		if t.Failed() {
			return
		}
	}
}

func (c *chronicle) place() subject.Address { return c.places[c.random.IntN(len(c.places))] }
func (c *chronicle) device() string         { return fmt.Sprint("device-", c.random.IntN(4)) }

func (c *chronicle) stepAppend() {
	batch := make([]*message.Message, 1+c.random.IntN(8))
	for i := range batch {
		if c.ids++; c.random.IntN(3) == 0 {
			c.ids -= min(c.ids, c.random.IntN(4)) // an id of before, or one that was passed over
		}
		m := text(c.place(), fmt.Sprint("m", c.ids))
		if c.random.IntN(10) == 0 {
			m = with(m, "another body")
		}
		if c.random.IntN(3) == 0 {
			m.Expires = m.At + c.random.Int64N((20 * day).Milliseconds())
		}
		batch[i] = m
	}
	given := make([]message.Message, len(batch))
	for i, m := range batch {
		given[i] = *m
	}
	for i, o := range c.append(c.a, 0, c.memory[c.random.IntN(2)], batch...) {
		stored := given[i]
		stored.Archived = o.Message.Archived
		if fate, seq := c.model.append(&stored); o.Fate != fate || o.Message.Seq != seq || o.Message.ID != stored.ID {
			c.t.Errorf("%s to %s: fate %d as %d; want %d as %d", stored.ID, stored.To, o.Fate, o.Message.Seq, fate, seq)
		}
	}
}

func (c *chronicle) stepRead() {
	to := c.place()
	if got, want := line(c.entries(c.a, to, 1+c.random.IntN(60), c.now)), c.model.line(to, c.now); got != want && !c.split(to, want) {
		c.t.Errorf("%s holds\n%s\nwant\n%s", to, got, want)
	}
}

// split reads the mailbox in one page: small pages may cut a gap in two.
func (c *chronicle) split(to subject.Address, want string) bool {
	return line(c.entries(c.a, to, 1<<20, c.now)) == want
}

// stepRange reads a part, and checks each position that it covers.
func (c *chronicle) stepRange() {
	to := c.place()
	box := c.model.mailboxes[to]
	after := c.random.Uint64N(uint64(len(box)) + 2)
	upTo := c.random.Uint64N(uint64(len(box)) + 3)
	page, err := c.a.Read(c.t.Context(), to, after, upTo, 1<<20, c.now)
	c.must(err)
	end := uint64(len(box))
	if upTo != 0 {
		end = min(end, upTo)
	}
	next := after + 1
	for _, e := range page.Entries {
		for seq := e.From; seq <= e.To; seq++ {
			want := box[seq-1].entry(seq, c.now)
			if seq != next || want.Why != e.Why || (e.Message != nil && e.Message.ID != want.Message.ID) {
				c.t.Errorf("%s: %d is %+v; want %+v at %d", to, seq, e, want, next)
			}
			next++
		}
	}
	if next != max(end, after)+1 || page.Head != uint64(len(box)) {
		c.t.Errorf("%s from %d to %d: ended before %d, head %d of %d", to, after, upTo, next, page.Head, len(box))
	}
}

func (c *chronicle) stepOpen() {
	to, id := c.place(), c.device()
	if got, want := c.open1(c.a, device(id, to)), c.model.open(id, to); got != want {
		c.t.Errorf("%s in %s: %+v; want %+v", id, to, got, want)
	}
}

func (c *chronicle) stepAdvance() {
	var raised []history.Cursor
	for range 1 + c.random.IntN(4) {
		to, id := c.place(), c.device()
		seq := c.random.Uint64N(uint64(len(c.model.mailboxes[to])) + 1)
		raised = append(raised, cursor(id, to, seq))
		if c.model.cursors[to] == nil {
			c.model.cursors[to] = map[string]uint64{}
		}
		c.model.cursors[to][id] = max(c.model.cursors[to][id], seq)
	}
	c.must(c.a.Advance(c.t.Context(), raised))
}

func (c *chronicle) stepTime() { c.now = c.now.Add(time.Duration(c.random.IntN(72)) * time.Hour) }

func (c *chronicle) stepPurge() {
	got, err := c.a.Purge(c.t.Context(), 0, usual, c.now)
	c.must(err)
	if want := c.model.purge(usual, c.now); got != want {
		c.t.Errorf("purged %d messages; want %d", got, want)
	}
	// The owners here sleep for weeks of the archive's time, which Policy.MinAge forbids real ones.
	c.memory = []archive.Heads{{}, {}}
}

func (c *chronicle) stepReopen() {
	c.reopen()
	heads, err := c.a.Heads(c.t.Context(), c.places)
	c.must(err)
	for _, to := range c.places {
		if heads[to] != uint64(len(c.model.mailboxes[to])) {
			c.t.Errorf("the head of %s is %d after opening again; want %d", to, heads[to], len(c.model.mailboxes[to]))
		}
	}
}

// pending is what no device of its user has acknowledged. All cursors are alice's.
func (m *model) pending(to subject.Address, now time.Time) (ids []string) {
	handled := uint64(0)
	for _, seq := range m.cursors[to] {
		if to == user("alice") {
			handled = max(handled, seq)
		}
	}
	for i, h := range m.mailboxes[to] {
		if seq := uint64(i + 1); seq > handled && h.entry(seq, now).Message != nil {
			ids = append(ids, fmt.Sprintf("%s/%d=%s", to.Tokens(), seq, h.message.ID))
		}
	}
	return ids
}

func (c *chronicle) stepPending() {
	want := append(c.model.pending(user("a/b"), c.now), c.model.pending(user("alice"), c.now)...)
	if got := listed(c.pending(admin.Filter{}, c.now)); got != strings.Join(want, " ") {
		c.t.Errorf("pending are\n%s\nwant\n%s", got, strings.Join(want, " "))
	}
}

// stepScan reads all rows there are, in pages.
func (c *chronicle) stepScan() {
	var want []string
	for _, to := range c.places {
		for _, h := range c.model.mailboxes[to] {
			if !h.deleted {
				want = append(want, to.String()+"/"+h.message.ID)
			}
		}
	}
	c.sameOrders(c.scanned(0, 0, math.MaxInt64, 1+c.random.IntN(30)), want)
}
