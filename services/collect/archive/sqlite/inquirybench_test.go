package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// The archive of BenchmarkInquiry: a million messages of 256 bytes to users with one device each. Of the tenant `wide`
// each tenth user has not acknowledged the last message, of the tenant `deep` ten users none of their last thousand.
const (
	wideUsers, wideMessages = 98_000, 10
	deepUsers, deepMessages = 10, 2000
	undelivered             = 10_000 // of each tenant, but for the tenant wide's 9,800
)

// archiveOfAMillion takes about a minute.
func archiveOfAMillion(b *testing.B) *sqlite.Archive {
	b.Helper()
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	for user := range deepUsers {
		for first := 0; first < deepMessages; first += deepMessages / 4 {
			fillMillion(b, a, "deep", user, 1, first, deepMessages/4)
		}
		acknowledge(b, a, "deep", user, 1, func(int) uint64 { return deepMessages - undelivered/deepUsers })
	}
	const users = 100
	for user := 0; user < wideUsers; user += users {
		fillMillion(b, a, "wide", user, users, 0, wideMessages)
		acknowledge(b, a, "wide", user, users, func(u int) uint64 {
			if u%10 == 0 {
				return wideMessages - 1
			}
			return wideMessages
		})
	}
	return a
}

func name(user int) string { return fmt.Sprintf("user-%06d", user) }

// fillMillion appends some messages to each of some users.
func fillMillion(b *testing.B, a archive.Archive, tenant string, user, users, first, each int) {
	b.Helper()
	var messages []*message.Message
	for n := first; n < first+each; n++ {
		for u := user; u < user+users; u++ {
			messages = append(messages, &message.Message{
				To: subject.UserAddress(tenant, name(u)), ID: fmt.Sprintf("%s-%d-%d", tenant, u, n), Type: "note", ContentType: message.JSON,
				At: time.Now().UnixMilli(), Payload: make([]byte, payloadSize),
			})
		}
	}
	appendBatch(b, a, 0, messages, archive.Heads{})
}

func acknowledge(b *testing.B, a archive.Archive, tenant string, user, users int, upTo func(user int) uint64) {
	b.Helper()
	var cursors []history.Cursor
	for u := user; u < user+users; u++ {
		to := subject.UserAddress(tenant, name(u))
		request := history.OpenRequest{Tenant: tenant, User: to.ID, Device: "phone", Addresses: []string{to.Tokens()}}
		if _, err := a.Open(b.Context(), request); err != nil {
			b.Fatal(err)
		}
		cursors = append(cursors, history.Cursor{Tenant: tenant, User: to.ID, Device: "phone", Address: to.Tokens(), Seq: upTo(u), At: 1, Node: "n"})
	}
	if err := a.Advance(b.Context(), cursors); err != nil {
		b.Fatal(err)
	}
}

// count pages through all that is pending, as an operator's count does.
func count(b *testing.B, a archive.Archive, f admin.Filter) (n int) {
	b.Helper()
	for after := (admin.Place{}); ; {
		rows, err := a.Pending(b.Context(), f, after, time.Now().UnixMilli(), 10_000)
		if err != nil {
			b.Fatal(err)
		}
		if n += len(rows); len(rows) < 10_000 {
			return n
		}
		last := rows[len(rows)-1].Message
		after = admin.Place{Address: last.To.Tokens(), Seq: last.Seq}
	}
}

// BenchmarkInquiry asks an archive of a million messages what operators ask. An `undelivered` with a page of 1,000 and a
// count must take less than a second.
func BenchmarkInquiry(b *testing.B) {
	a := archiveOfAMillion(b)
	for what, c := range map[string]struct {
		filter admin.Filter
		want   int
	}{
		"UndeliveredWide": {admin.Filter{Tenant: "wide"}, wideUsers / 10},
		"UndeliveredDeep": {admin.Filter{Tenant: "deep"}, undelivered},
		"UndeliveredAll":  {admin.Filter{}, undelivered + wideUsers/10},
		"UndeliveredType": {admin.Filter{Type: "nothing"}, 0},
		"UndeliveredUser": {admin.Filter{User: name(3)}, undelivered / deepUsers},
	} {
		b.Run(what, func(b *testing.B) {
			for b.Loop() {
				page, err := a.Pending(b.Context(), c.filter, admin.Place{}, time.Now().UnixMilli(), 1000)
				if err != nil || len(page) != min(c.want, 1000) {
					b.Fatal(len(page), err)
				}
				if n := count(b, a, c.filter); n != c.want {
					b.Fatalf("%d are pending; want %d", n, c.want)
				}
			}
		})
	}
	to := subject.UserAddress("deep", name(5))
	b.Run("Find", func(b *testing.B) {
		for b.Loop() {
			if found, _, err := a.Find(b.Context(), "wide", "wide-77777-7", 100); err != nil || len(found) != 1 {
				b.Fatal(found, err)
			}
		}
	})
	b.Run("Steps", func(b *testing.B) {
		for b.Loop() {
			if steps, err := a.Steps(b.Context(), to, 500); err != nil || len(steps.Acked) != 1 {
				b.Fatal(steps, err)
			}
		}
	})
	b.Run("Scan50000", func(b *testing.B) {
		for b.Loop() {
			if rows, _, err := a.Scan(b.Context(), 0, 0, time.Now().UnixMilli(), "", 50_000); err != nil || len(rows) != 50_000 {
				b.Fatal(len(rows), err)
			}
		}
	})
	b.Run("AskedOfNobody", func(b *testing.B) {
		cursors := make([]history.Cursor, batchSize)
		for i := range cursors {
			to := subject.UserAddress("wide", name(i*10))
			cursors[i] = history.Cursor{Tenant: "wide", User: to.ID, Device: "phone", Address: to.Tokens(), Seq: wideMessages}
		}
		for b.Loop() {
			if asked, err := a.Asked(b.Context(), cursors); err != nil || len(asked) != 0 {
				b.Fatal(asked, err)
			}
		}
	})
}
