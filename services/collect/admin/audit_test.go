package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// Books in which everything happened that may happen, and nothing that may not, are clean and balance.
func TestCleanBooks(t *testing.T) {
	b := newBooks(t)
	const n, users = 4000, 50
	all := notes(n, users)
	b.opened("u1", "phone")
	for _, i := range []int{0, 50, 100} { // to u0, who acknowledges the second one
		all[i].Expires = time.Now().UnixMilli() + 2
	}
	b.sent(all[:3000]...)
	b.sent(all[3000:]...)
	_, err := b.Archive.Append(t.Context(), 0, []*message.Message{note(person("u3"), "id-3")}, nil) // a duplicate
	must(t, err)
	b.logged(" again", all[1500:2800]...) // a new owner publishes again
	b.acked("phone", all[1], time.Now())
	b.acked("phone", all[51], time.Now())
	b.acked("phone", all[50], time.UnixMilli(all[50].Expires-1))
	b.acked("phone", all[150], time.Now())
	news := subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}
	b.sent(note(news, "n1"), note(news, "n2"))
	b.aside(person("x"), nats.Header{}, 0)
	b.aside(person("y"), nats.Header{}, 1) // of another partition

	page := b.audited()
	want := admin.Balance{
		Accepted: n + 2 + 1, Delivered: 2 + 3 + 2, Expired: 1, Quarantined: 1,
		Pending: n - 2 - 3 - 1,
	}
	if len(found(page)) != 0 || page.Broken != 0 || page.Balance != want || page.Addresses != users+1 || page.Logged < n+2 {
		t.Errorf("%+v, %d broken %q, %d addresses, %d logged; want %+v", page.Balance, page.Broken, found(page), page.Addresses, page.Logged, want)
	}
}

// A message that collect has archived and not logged yet is under way, and not a break.
func TestYoungMessagesAreLeftOut(t *testing.T) {
	b := newBooks(t)
	b.archived(note(person("alice"), "young"))
	page, err := b.audit(t.Context(), admin.AuditRequest{})
	must(t, err)
	if page.Broken != 0 || page.Balance != (admin.Balance{}) || page.Next != "" {
		t.Errorf("%+v", page)
	}
}

// Rows that are removed behind the system's back are named by their ids, wherever they were.
func TestRemovedRowsAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ remove, want []string }{
		"between others":       {[]string{"id-12"}, []string{"not_in_archive user:u2 2 id-12"}},
		"the first":            {[]string{"id-3"}, []string{"not_in_archive user:u3 1 id-3"}},
		"the newest":           {[]string{"id-95"}, []string{"not_in_archive user:u5 10 id-95"}},
		"two behind the other": {[]string{"id-34", "id-44"}, []string{"not_in_archive user:u4 4 id-34", "not_in_archive user:u4 5 id-44"}},
		"all of an address":    {[]string{"only"}, []string{"not_in_archive user:single 1 only"}},
		"the newest of all":    {[]string{"id-99", "only"}, []string{"not_in_archive user:single 1 only", "not_in_archive user:u9 10 id-99"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBooks(t)
			b.sent(notes(100, 10)...)
			b.sent(note(person("single"), "only"))
			for _, id := range c.remove {
				b.exec(`DELETE FROM messages WHERE id = ?`, id)
			}
			page := b.audited()
			if !slices.Equal(found(page), c.want) || page.Broken != len(c.want) || page.Balance.Accepted != 101 {
				t.Errorf("%q, %d broken of %d; want %q", found(page), page.Broken, page.Balance.Accepted, c.want)
			}
		})
	}
}

// Where log and archive have both lost a message, the hole is still seen, and named by its place.
func TestLostEverywhere(t *testing.T) {
	b := newBooks(t)
	all := notes(100, 10)
	b.sent(all...)
	b.purged(all[95])
	b.purged(all[12])
	b.exec(`DELETE FROM messages WHERE id IN ('id-12', 'id-95')`)
	page := b.audited()
	if want := []string{"not_in_archive user:u2 2 ", "not_in_archive user:u5 10 "}; !slices.Equal(found(page), want) {
		t.Errorf("%q, want %q", found(page), want)
	}
}

// A message that is purged from the log is named, whether it was delivered since or not, with what became of it. One
// that has expired is let off.
func TestMessagesPurgedFromTheLogAreNamed(t *testing.T) {
	b := newBooks(t)
	all := notes(300, 10)
	all[250].Expires = time.Now().UnixMilli() + 1
	b.sent(all...)
	b.acked("phone", all[40], time.Now())
	for _, i := range []int{0, 40, 250, 299} {
		b.purged(all[i])
	}
	page := b.audited()
	want := []string{"not_in_log user:u0 1 id-0", "not_in_log user:u0 5 id-40", "not_in_log user:u9 30 id-299"}
	if !slices.Equal(found(page), want) || page.Broken != 3 {
		t.Errorf("%q, %d broken; want %q", found(page), page.Broken, want)
	}
	for _, x := range page.Breaks {
		said := "nobody has acknowledged it"
		if x.To == "user:u0" {
			said = "device phone acknowledged it"
		}
		if !strings.Contains(x.Message, said) || !strings.Contains(x.Message, "never reported as routed") {
			t.Errorf("%s %d: %s", x.To, x.Seq, x.Message)
		}
	}
}

// What its owner may still be writing to the log is counted and no break: while he says that something refuses his work,
// and while nobody owns the partition.
func TestWhatIsUnderWayIsNoBreak(t *testing.T) {
	b := newBooks(t)
	all := notes(300, 10)
	b.archived(all...)
	b.logged("", all[:200]...)
	through := b.owner.Swap(problem.New(problem.Unavailable, "publish to the log: no answer"))
	if page := b.audited(); page.Broken != 0 || page.UnderWay != 100 || page.Balance.Pending != 300 {
		t.Errorf("while the log takes nothing: %q, %+v", found(page), page)
	}
	b.owner.Store(through)
	if page := b.audited(); page.Broken != 100 || page.UnderWay != 0 {
		t.Errorf("when the owner is through: %d broken, %d under way", page.Broken, page.UnderWay)
	}
	must(t, b.owning.Unsubscribe())
	if page := b.audited(); page.Broken != 0 || page.UnderWay != 100 {
		t.Errorf("without an owner: %q, %+v", found(page), page)
	}
}

// What the log does not keep any more is not missed.
func TestTheLogsAgeIsLetOff(t *testing.T) {
	b := newBooks(t)
	all := notes(20, 2)
	b.sent(all...)
	b.purged(all[0])
	b.exec(`UPDATE messages SET archived = archived - ?`, (72 * time.Hour).Milliseconds())
	since := func(q *admin.AuditRequest) { q.Since = 1 }
	if page := b.audited(since); page.Broken != 0 || page.Balance.Pending != 20 {
		t.Errorf("%q of %+v", found(page), page.Balance)
	}
	b.exec(`UPDATE messages SET archived = archived + ?`, time.Hour.Milliseconds())
	if page := b.audited(since); page.Broken != 1 {
		t.Errorf("%q: one is younger than the log's age", found(page))
	}
}

// A log that was torn and filled again has its messages much later than they were archived, and behind others.
func TestATornLogThatWasFilledAgain(t *testing.T) {
	b := newBooks(t)
	all := notes(6000, 1500)
	b.archived(all...)
	b.logged("", all[:1000]...)
	b.logged("", all[1003:]...) // more than is read on for what is missing, so that it is looked up
	b.logged("", all[1000], all[1002])
	page := b.audited()
	if want := []string{"not_in_log user:u1001 1 id-1001"}; !slices.Equal(found(page), want) || page.Logged < 5999 {
		t.Errorf("%q, %d logged; want %q", found(page), page.Logged, want)
	}
}

// A log that has lost very many is told in bounded time: some are named, the others counted.
func TestAPurgedLog(t *testing.T) {
	b := newBooks(t)
	all := notes(4000, 1000)
	b.sent(all...)
	must(t, b.logStream().Purge(t.Context()))
	page := b.page(admin.AuditRequest{Since: 1, Most: 7})
	if page.Broken < auditChunk || len(page.Breaks) != 7 {
		t.Errorf("%d broken, %d named", page.Broken, len(page.Breaks))
	}
}

// Two messages in one place are found, whichever of the books was changed.
func TestAnotherIDInTheSamePlace(t *testing.T) {
	b := newBooks(t)
	all := notes(20, 2)
	b.sent(all...)
	b.exec(`UPDATE messages SET id = 'other' WHERE id = 'id-5'`)
	page := b.audited()
	if want := []string{"not_the_same user:u1 3 other"}; !slices.Equal(found(page), want) || !strings.Contains(page.Breaks[0].Message, `"id-5"`) {
		t.Errorf("%+v; want %q", page.Breaks, want)
	}
}

// A cursor above the head hides messages that are still to come.
func TestACursorAboveTheHead(t *testing.T) {
	b := newBooks(t)
	b.sent(notes(20, 2)...)
	must(t, b.Archive.Advance(t.Context(), []history.Cursor{{Tenant: "default", User: "u1", Device: "tab", Address: person("u1").Tokens(), Seq: 11}}))
	page := b.audited()
	if want := []string{"cursor_ahead user:u1 11 "}; !slices.Equal(found(page), want) || !strings.Contains(page.Breaks[0].Message, "tab (11)") {
		t.Errorf("%+v; want %q", page.Breaks, want)
	}
	for b.rows = 2; b.rows < 12; b.rows += 3 { // the address is in several pages
		if page := b.audited(); page.Broken != 1 {
			t.Errorf("pages of %d: %d broken: %q", b.rows, page.Broken, found(page))
		}
	}
}

// An acknowledged message that asked for receipts has one, but for what was acknowledged a moment ago.
func TestAMissingReceipt(t *testing.T) {
	b := newBooks(t)
	b.opened("alice", "phone")
	var all []*message.Message
	for i := range 4 {
		m := note(person("alice"), fmt.Sprint(i))
		m.Receipt = i > 0
		all = append(all, m)
	}
	b.sent(all...)
	b.acked("phone", all[2], time.Now().Add(-2*receiptWithin))
	b.acked("phone", all[3], time.Now())
	_, err := b.Archive.Settle(t.Context(), []archive.Settled{{Message: all[1], Device: "phone", State: message.StateDelivered, At: 1}})
	must(t, err)
	if page := b.audited(); !slices.Equal(found(page), []string{"receipt_missing user:alice 3 2"}) {
		t.Errorf("%q", found(page))
	}
}

// What a purge by age has deleted is not missed, though the log still has it; the last one counts as deleted.
func TestAPurgedRetention(t *testing.T) {
	b := newBooks(t)
	all := notes(20, 2)
	b.sent(all...)
	b.Policy = archive.Policy{Retention: time.Nanosecond}
	if n, err := b.Archive.Purge(t.Context(), 0, b.Policy, time.Now().Add(time.Second)); n != 20 || err != nil {
		t.Fatal(n, err)
	}
	page := b.audited()
	if want := (admin.Balance{Accepted: 2, Deleted: 2}); page.Broken != 0 || page.Balance != want {
		t.Errorf("%q, %+v; want %+v", found(page), page.Balance, want)
	}
	b.Policy.Retention = time.Hour
	if page := b.audited(); page.Broken != 18 {
		t.Errorf("%d broken; without a purge 18 are lost", page.Broken)
	}
}

// However small the pages are, they find the same: nothing twice, nothing not at all.
func TestPagesAddUp(t *testing.T) {
	b := newBooks(t)
	all := notes(1500, 200)
	b.sent(all...)
	b.logged(" again", all[600:800]...)
	var want []string
	for i := 5; i < len(all); i += 277 { // none that is in the log twice
		b.exec(`DELETE FROM messages WHERE id = ?`, all[i].ID)
		want = append(want, fmt.Sprintf("not_in_archive %s %d %s", all[i].To, all[i].Seq, all[i].ID))
		b.purged(all[i+1])
		want = append(want, fmt.Sprintf("not_in_log %s %d %s", all[i+1].To, all[i+1].Seq, all[i+1].ID))
	}
	slices.Sort(want)
	for _, size := range []int{110, 500} {
		b.rows = size
		page := b.audited()
		if !slices.Equal(found(page), want) || page.Balance.Accepted != len(all) || page.Broken != len(want) {
			t.Errorf("pages of %d: %d broken of %d\n%q, want\n%q", size, page.Broken, page.Balance.Accepted, found(page), want)
		}
	}
}

// A lost message that the log has twice, because a new owner published it again, is one, wherever a page ends.
func TestALostMessageThatWasLoggedTwiceIsOne(t *testing.T) {
	b := newBooks(t)
	all := notes(60, 60)
	b.archived(all...)
	b.exec(`UPDATE messages SET archived = archived - 1000 + key`)
	for i, m := range all {
		m.Archived += int64(i) + 1 - 1000
	}
	b.logged("", all...)
	b.logged(" again", all[10:30]...)
	b.exec(`DELETE FROM messages WHERE id IN ('id-5', 'id-15', 'id-25')`)
	for b.rows = 2; b.rows < 40; b.rows += 9 {
		if page := b.audited(); page.Broken != 3 || page.Balance.Accepted != 60 {
			t.Errorf("pages of %d: %d broken of %d: %q", b.rows, page.Broken, page.Balance.Accepted, found(page))
		}
	}
}

// A lost message that lies in the log behind one that was archived later is counted once, wherever a page ends.
func TestLogOutOfOrderAtTheEndOfAPage(t *testing.T) {
	b := newBooks(t)
	all := notes(60, 60)
	b.archived(all...)
	b.exec(`UPDATE messages SET archived = archived - 1000 + key`)
	for i, m := range all {
		m.Archived += int64(i) + 1 - 1000
	}
	for some := range slices.Chunk(all, 10) {
		for _, m := range slices.Backward(some) {
			b.logged("", m)
		}
	}
	b.exec(`DELETE FROM messages WHERE key % 4 = 1`) // id-0, id-4, ...
	for b.rows = 2; b.rows < 8; b.rows++ {
		if page := b.audited(); page.Broken != 15 || len(page.Breaks) != 15 {
			t.Errorf("pages of %d: %d broken %q; want 15", b.rows, page.Broken, found(page))
		}
	}
}
