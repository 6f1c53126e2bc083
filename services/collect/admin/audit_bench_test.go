package admin

import (
	"testing"

	"github.com/weftpush/weft/shared/admin"
)

// BenchmarkAudit compares 100,000 messages to 10,000 users, as one partition; one page after the other.
func BenchmarkAudit(b *testing.B) {
	books := newBooks(b)
	const n = 100_000
	books.sent(notes(n, 10_000)...)
	for b.Loop() {
		q, pages := admin.AuditRequest{Since: 1}, 0
		for more := true; more; more = q.After != "" {
			page := books.page(q)
			if q.After = page.Next; page.Broken > 0 {
				b.Fatalf("%d broken", page.Broken)
			}
			pages++
		}
		b.ReportMetric(float64(pages), "pages")
	}
}
