package sqlite_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	batchSize   = 256
	payloadSize = 256 // bytes
	addresses   = 100
)

func open(b *testing.B, path string) *sqlite.Archive {
	b.Helper()
	a, err := sqlite.Open(b.Context(), path, archive.Facts{Partitions: 4})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	return a
}

// batch number n of a publisher; the same numbers give the same ids.
func batch(publisher, n int) []*message.Message {
	messages := make([]*message.Message, batchSize)
	for i := range messages {
		messages[i] = &message.Message{
			To: subject.UserAddress("default", fmt.Sprint("user-", (n*batchSize+i)%addresses)),
			ID: fmt.Sprintf("%d-%d-%d", publisher, n, i), ContentType: message.JSON, At: 1, Payload: bytes.Repeat([]byte("x"), payloadSize),
		}
	}
	return messages
}

func appendBatch(b *testing.B, a archive.Archive, partition int, messages []*message.Message, heads archive.Heads) {
	b.Helper()
	if _, err := a.Append(b.Context(), partition, messages, heads); err != nil {
		b.Error(err)
	}
}

func rate(b *testing.B, batches int) {
	b.Helper()
	b.ReportMetric(float64(batches*batchSize)/b.Elapsed().Seconds(), "msgs/s")
}

func BenchmarkAppend(b *testing.B) {
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	heads, n := archive.Heads{}, 0
	for b.Loop() {
		appendBatch(b, a, 0, batch(0, n), heads)
		n++
	}
	rate(b, n)
}

// BenchmarkAppendPartitions has four partitions of one process append at once.
func BenchmarkAppendPartitions(b *testing.B) {
	benchmarkOwners(b, nil)
}

// BenchmarkAppendProcesses has four handles on one file, as two or more processes have, append at once. The slowest
// batch shows whether the lock goes round.
func BenchmarkAppendProcesses(b *testing.B) {
	benchmarkOwners(b, open)
}

func benchmarkOwners(b *testing.B, own func(*testing.B, string) *sqlite.Archive) {
	b.Helper()
	const owners, each = 4, 20 // batches
	path := filepath.Join(b.TempDir(), "weft.db")
	shared := open(b, path)
	slowest, n := [owners]time.Duration{}, 0
	handles := [owners]archive.Archive{}
	for i := range handles {
		if handles[i] = shared; own != nil {
			handles[i] = own(b, path)
		}
	}
	for b.Loop() {
		var group sync.WaitGroup
		for i, a := range handles {
			group.Go(func() {
				heads := archive.Heads{}
				for k := range each {
					start := time.Now()
					appendBatch(b, a, i, batch(i, n*each+k), heads)
					slowest[i] = max(slowest[i], time.Since(start))
				}
			})
		}
		group.Wait()
		n++
	}
	rate(b, n*owners*each)
	b.ReportMetric(float64(max(slowest[0], slowest[1], slowest[2], slowest[3]).Milliseconds()), "slowest-ms")
}

// BenchmarkAppendDuplicates appends batches of which nine tenths are archived already, as after a takeover.
func BenchmarkAppendDuplicates(b *testing.B) {
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	heads, n := archive.Heads{}, 0
	appendBatch(b, a, 0, batch(0, 0), heads)
	for b.Loop() {
		n++
		mixed := batch(0, 0)
		copy(mixed, batch(0, n)[:batchSize/10])
		appendBatch(b, a, 0, mixed, heads)
	}
	rate(b, n)
}

// BenchmarkRead reads pages of 100 messages out of a mailbox of 10,000.
func BenchmarkRead(b *testing.B) {
	const size, page = 10_000, 100
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	to := subject.UserAddress("default", "reader")
	for n := range size / batchSize {
		messages := batch(0, n)
		for _, m := range messages {
			m.To = to
		}
		appendBatch(b, a, 0, messages, archive.Heads{})
	}
	after := uint64(0)
	for b.Loop() {
		p, err := a.Read(b.Context(), to, after, 0, page*payloadSize, time.Now())
		if err != nil || len(p.Entries) != page {
			b.Fatal(len(p.Entries), err)
		}
		after = (after + page) % (size - size%batchSize - page)
	}
	b.ReportMetric(float64(b.N*page)/b.Elapsed().Seconds(), "msgs/s")
}
