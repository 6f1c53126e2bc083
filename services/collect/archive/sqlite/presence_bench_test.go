package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

// BenchmarkPresence is what a storm of 2,000 clients costs the archive: their reports, 200 in each, then looking them up,
// deciding about them, and noting that they were told.
func BenchmarkPresence(b *testing.B) {
	a, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "weft.db"), archive.Facts{Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	storm := 0
	for b.Loop() {
		storm++
		now := time.Now()
		var reports []archive.Report
		for r := range 10 {
			report := archive.Report{Node: "node", Presence: ledger.Presence{Number: uint64(storm*10 + r)}}
			for u := range 200 {
				tokens := subject.UserAddress("default", fmt.Sprint("user-", storm, "-", r, "-", u)).Tokens()
				report.Users = append(report.Users, ledger.Seen{User: tokens, On: true, At: now.UnixMilli()})
			}
			reports = append(reports, report)
		}
		if err := a.Report(b.Context(), reports, now, time.Second); err != nil {
			b.Fatal(err)
		}
		due, err := a.Due(b.Context(), 0, now, 2000)
		if err != nil || len(due) != 2000 {
			b.Fatal(len(due), err)
		}
		for range 2 { // decided, and told
			for i := range due {
				due[i].Told, due[i].Due = true, archive.NotDue
			}
			if _, err := a.Attend(b.Context(), due); err != nil {
				b.Fatal(err)
			}
			for i := range due {
				due[i].Revision++
			}
		}
	}
}
