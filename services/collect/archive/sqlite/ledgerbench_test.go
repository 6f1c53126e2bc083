package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// BenchmarkAdvance acknowledges in batches, as collect takes them from the stream: each cursor of another user, who has
// one device.
func BenchmarkAdvance(b *testing.B) {
	const users = 20 * batchSize
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	for n := range users / batchSize {
		messages := make([]*message.Message, batchSize)
		for i := range messages {
			to := subject.UserAddress("default", fmt.Sprint("user-", n*batchSize+i))
			messages[i] = &message.Message{To: to, ID: "1", ContentType: message.JSON, At: 1, Payload: []byte("1")}
			request := history.OpenRequest{Tenant: "default", User: to.ID, Device: "phone", Addresses: []string{to.Tokens()}}
			if _, err := a.Open(b.Context(), request); err != nil {
				b.Fatal(err)
			}
		}
		appendBatch(b, a, 0, messages, archive.Heads{})
	}
	cursors, n := make([]history.Cursor, batchSize), 0
	for b.Loop() {
		for i := range cursors {
			user := fmt.Sprint("user-", (n*batchSize+i)%users)
			cursors[i] = history.Cursor{
				Tenant: "default", User: user, Device: "phone", Address: subject.UserAddress("default", user).Tokens(), Seq: uint64(2 + n/(users/batchSize)),
			}
		}
		if err := a.Advance(b.Context(), cursors); err != nil {
			b.Fatal(err)
		}
		n++
	}
	rate(b, n)
}

// BenchmarkPurge deletes what is older than the retention, of messages to a hundred users who acknowledged each.
func BenchmarkPurge(b *testing.B) {
	const batches = 40
	for b.Loop() {
		b.StopTimer()
		a := open(b, filepath.Join(b.TempDir(), "weft.db"))
		for n := range batches {
			messages := batch(0, n)
			appendBatch(b, a, 0, messages, archive.Heads{})
			cursors := make([]history.Cursor, len(messages))
			for i, m := range messages {
				cursors[i] = history.Cursor{Tenant: "default", User: m.To.ID, Device: "phone", Address: m.To.Tokens(), Seq: m.Seq}
			}
			if err := a.Advance(b.Context(), cursors); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if n, err := a.Purge(b.Context(), 0, archive.Policy{Retention: time.Hour}, time.Now().Add(2*time.Hour)); err != nil || n != batches*batchSize {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.N*batches*batchSize)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkReceipts does what an acknowledgement of a message costs more whose publisher asked for receipts: it is found
// and settled. Half of it are found to be settled already.
func BenchmarkReceipts(b *testing.B) {
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	messages, cursors := batch(0, 0), make([]history.Cursor, batchSize)
	for i, m := range messages {
		m.To, m.Receipt = subject.UserAddress("default", fmt.Sprint("user-", i)), true
		request := history.OpenRequest{Tenant: "default", User: m.To.ID, Device: "phone", Addresses: []string{m.To.Tokens()}}
		if _, err := a.Open(b.Context(), request); err != nil {
			b.Fatal(err)
		}
		cursors[i] = history.Cursor{Tenant: "default", User: m.To.ID, Device: "phone", Address: m.To.Tokens(), Seq: 1, At: 1}
	}
	appendBatch(b, a, 0, messages, archive.Heads{})
	n := 0
	for b.Loop() {
		asked, err := a.Asked(b.Context(), cursors)
		if err != nil || len(asked) != batchSize {
			b.Fatal(len(asked), err)
		}
		for i := range asked[:batchSize/2] {
			asked[i].Device = fmt.Sprint("phone-", n)
		}
		if _, err := a.Settle(b.Context(), asked); err != nil {
			b.Fatal(err)
		}
		n++
	}
	rate(b, n)
}
