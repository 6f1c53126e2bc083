// Package archivetest is what every archive must do: one suite that all implementations pass.
package archivetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// Partitions is how many an archive of the suite has.
const Partitions = 4

// Store is one empty store that the suite can open several times: two handles on it are two processes.
type Store struct {
	Open func(ctx context.Context, partitions int) (archive.Archive, error)
	// LosesUpdates declares that the server reads and writes in two steps when it updates, as FerretDB v1 does.
	// Concurrent raises of one cursor are not asked of it then; everything else is.
	LosesUpdates bool
	// Warns declares that the server is one that Health warns of, as a single one without a replica set is.
	Warns bool
}

// Run runs the suite; open makes a new empty store for each test of it and cleans it up by t.
func Run(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	for _, c := range slices.Concat(ofMailboxes(), ofLedgers(), ofPresence()) {
		t.Run(c.name, func(t *testing.T) {
			store := open(t)
			s := &suite{t: t, store: store, another: open, closed: map[archive.Archive]bool{}}
			s.a = s.open()
			c.test(s)
		})
	}
}

// promise is one test of the suite.
type promise struct {
	name string
	test func(s *suite)
}

// ofMailboxes are the promises about messages and cursors, and about all calls.
func ofMailboxes() []promise {
	return []promise{
		{"facts are chosen once", facts},
		{"creators at once agree", creators},
		{"append numbers densely and keeps the order", appendOrder},
		{"append keeps every field", appendFields},
		{"append knows duplicates and conflicts", appendDuplicates},
		{"an id is unique per address and tenant only", appendIdentity},
		{"append takes heads that are too low", appendStaleHeads},
		{"two owners at once", twoOwners},
		{"two owners with the same messages", twoOwnersSameMessages},
		{"odd ids", oddIDs},
		{"read pages without jumps", readPages},
		{"read shows what expired as a gap", readExpired},
		{"heads", heads},
		{"since keeps each address's order", since},
		{"since stops where its caller stops", sinceStops},
		{"a new device of a user", openUser},
		{"a new device of a topic", openTopic},
		{"open finds what advance stored", openAdvanced},
		{"opens at once agree", openAtOnce},
		{"cursors are never lowered", advanceNever},
		{"purge empties what expired", purgeExpired},
		{"purge deletes by retention and keeps the last", purgeRetention},
		{"purge works through many pages", purgePages},
		{"cancelled contexts", cancelled},
		{"random history", randomHistory},
	}
}

// ofLedgers are those about the ledger, and about what operators ask.
func ofLedgers() []promise {
	return []promise{
		{"receipts that were asked for", receiptKept},
		{"asked receipts once", askedOnce},
		{"asked receipts of known devices", askedKnown},
		{"asked receipts of what expired", askedExpired},
		{"the first to settle wins", settleFirst},
		{"settling at once", settleAtOnce},
		{"what lapsed", lapsedStates},
		{"what lapsed, by device", lapsedDevices},
		{"first routed", route},
		{"steps of a message", steps},
		{"the ledger is purged with its messages", forgotten},
		{"pending by filter", pendingFilters},
		{"pending by cursors", pendingCursors},
		{"pending of a topic", pendingTopic},
		{"pending while cursors move", pendingAtOnce},
		{"standing", standing},
		{"devices", devices},
		{"find by id", find},
		{"rows of a mailbox", rows},
		{"scan in the order of archiving", scans},
		{"health", health},
		{"records of operators", records},
	}
}

// ofPresence are those about who is there.
func ofPresence() []promise {
	return []promise{
		{"presence by what nodes report", presenceReports},
		{"presence has a time of grace", presenceGrace},
		{"presence of those that a node does not name again", presenceRest},
		{"presence at a silent node", presenceSilence},
		{"presence at a node whose silence broke off", presenceSilenceInterrupted},
		{"presence is decided once", presenceAttend},
		{"presence is forgotten", presenceForget},
		{"presence in any order", presenceRandom},
		{"marks of partitions", marks},
	}
}

// suite is one test with its store and a first handle on it.
type suite struct {
	t     *testing.T
	store Store
	a     archive.Archive
	// another makes a second empty store, which nobody has opened yet.
	another func(t *testing.T) Store
	// closed are the handles that a test has closed itself; only the test's goroutine looks.
	closed map[archive.Archive]bool
}

// open gives another handle, closed at the end of the test.
func (s *suite) open() archive.Archive {
	s.t.Helper()
	a, err := s.store.Open(s.t.Context(), Partitions)
	s.must(err)
	s.t.Cleanup(func() {
		if !s.closed[a] {
			s.close(a)
		}
	})
	return a
}

func (s *suite) close(a archive.Archive) {
	s.t.Helper()
	s.closed[a] = true
	if err := a.Close(); err != nil {
		s.t.Errorf("close: %v", err)
	}
}

// reopen is a restart: the first handle is closed and a new one takes its place.
func (s *suite) reopen() {
	s.t.Helper()
	s.close(s.a)
	s.a = s.open()
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// append expects no error. All messages must be of one partition; most tests use one address or partition 0.
func (s *suite) append(a archive.Archive, partition int, heads archive.Heads, batch ...*message.Message) []archive.Outcome {
	s.t.Helper()
	outcomes, err := a.Append(s.t.Context(), partition, batch, heads)
	s.must(err)
	if len(outcomes) != len(batch) {
		s.t.Fatalf("%d outcomes for %d messages", len(outcomes), len(batch))
	}
	return outcomes
}

// fill appends n messages to an address.
func (s *suite) fill(to subject.Address, n int) {
	s.t.Helper()
	batch := make([]*message.Message, n)
	for i := range batch {
		batch[i] = text(to, fmt.Sprintf("fill-%d", i))
	}
	s.append(s.a, partition(to), archive.Heads{}, batch...)
}

// entries reads a whole mailbox, page by page of at most maxBytes, and checks that the pages have no jumps.
func (s *suite) entries(a archive.Archive, to subject.Address, maxBytes int, now time.Time) []message.Entry {
	s.t.Helper()
	var all []message.Entry
	for last := uint64(0); ; {
		page, err := a.Read(s.t.Context(), to, last, 0, maxBytes, now)
		s.must(err)
		for _, e := range page.Entries {
			if e.From != last+1 || e.To < e.From || (e.Message != nil && (e.From != e.To || e.Message.Seq != e.From || e.Message.To != to)) {
				s.t.Fatalf("%s: entry %+v after %d", to, e, last)
			}
			last = e.To
			all = append(all, e)
		}
		if last == page.Head {
			return all
		}
		if len(page.Entries) == 0 {
			s.t.Fatalf("%s: no entry after %d, but the head is %d", to, last, page.Head)
		}
	}
}

// expect compares a mailbox with a line such as `1=a 2-3:expired 4=b`: sequences with ids, ranges with reasons.
func (s *suite) expect(a archive.Archive, to subject.Address, now time.Time, want string) {
	s.t.Helper()
	if got := line(s.entries(a, to, 1<<20, now)); got != want {
		s.t.Errorf("%s holds %q; want %q", to, got, want)
	}
}

func (s *suite) open1(a archive.Archive, r history.OpenRequest) history.Position {
	s.t.Helper()
	answer, err := a.Open(s.t.Context(), r)
	s.must(err)
	if answer.Epoch != a.Facts().Epoch {
		s.t.Errorf("epoch %q in the answer; want %q", answer.Epoch, a.Facts().Epoch)
	}
	position, ok := answer.Positions[r.Addresses[0]]
	if !ok {
		s.t.Fatalf("no position of %s", r.Addresses[0])
	}
	return position
}

func line(entries []message.Entry) string {
	var b []byte
	for i, e := range entries {
		if i > 0 {
			b = append(b, ' ')
		}
		switch {
		case e.Message != nil:
			b = fmt.Appendf(b, "%d=%s", e.From, e.Message.ID)
		case e.From == e.To:
			b = fmt.Appendf(b, "%d:%s", e.From, e.Why)
		default:
			b = fmt.Appendf(b, "%d-%d:%s", e.From, e.To, e.Why)
		}
	}
	return string(b)
}

func user(id string) subject.Address { return subject.UserAddress("default", id) }
func topic(id string) subject.Address {
	return subject.Address{Tenant: "default", Kind: subject.Topic, ID: id}
}

func partition(to subject.Address) int { return subject.Partition(to, Partitions) }

// text is a message whose payload is its id.
func text(to subject.Address, id string) *message.Message {
	return &message.Message{To: to, ID: id, Type: "note", ContentType: "text/plain", At: time.Now().UnixMilli(), Payload: []byte(id)}
}

// with is a copy of a message with another payload.
func with(m *message.Message, payload string) *message.Message {
	c := *m
	c.Seq, c.Archived, c.Payload = 0, 0, []byte(payload)
	return &c
}

// again is a copy of a message as a redelivery brings it.
func again(m *message.Message) *message.Message { return with(m, string(m.Payload)) }

// expiring is a message that may be shown for an hour.
func expiring(to subject.Address, id string) *message.Message {
	m := text(to, id)
	m.Expires = m.At + time.Hour.Milliseconds()
	return m
}
