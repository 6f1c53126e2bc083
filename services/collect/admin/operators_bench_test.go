package admin

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// BenchmarkOperators is what operators wait for in an archive of 1,000,000 messages of which the 10,000 newest, of 1,000
// users, are undelivered: to count and list them, and to send them again. sys_MiB is what the whole process, NATS and Redis
// in it, took from the system meanwhile. `go test -run '^$' -bench Operators -benchtime 1x ./services/collect/admin` takes
// some minutes, nearly all of them to publish.
func BenchmarkOperators(b *testing.B) {
	const all, undelivered, users = 1_000_000, 10_000, 1000
	w := newWorld(b)
	w.route(nil).forget = true
	fill(w, all-undelivered, users)
	acknowledge(w, users)
	fill(w, undelivered, users)
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		page, err := w.desk.undelivered(b.Context(), admin.UndeliveredRequest{Count: true})
		if err != nil || page.Total.Messages != undelivered || page.Total.Users != users {
			b.Fatalf("%+v, %v", page, err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "undelivered_ms")
		before := inUse()
		watch := watchMemory()
		began = time.Now()
		done := w.replay(admin.ReplayRequest{})
		b.ReportMetric(time.Since(began).Seconds(), "replay_s")
		b.ReportMetric(float64(watch()-before)/(1<<20), "sys_MiB")
		if done.Sent != undelivered {
			b.Fatalf("%+v", done)
		}
		b.ReportMetric(float64(done.Read), "read")
	}
}

// fill stores and logs n messages of 256 bytes, to one user after the other.
func fill(w *world, n, users int) {
	w.t.Helper()
	const batch = 500
	var heads [partitions]archive.Heads
	for p := range heads {
		heads[p] = make(archive.Heads)
	}
	js, err := jetstream.New(w.nc, jetstream.WithPublishAsyncMaxPending(2*batch))
	w.must(err)
	payload := fmt.Appendf(nil, "%q", make([]byte, 64))
	for first := 0; first < n; first += batch {
		var lists [partitions][]*message.Message
		for i := first; i < min(n, first+batch); i++ {
			to := user(i % users)
			p := subject.Partition(to, partitions)
			lists[p] = append(lists[p], &message.Message{To: to, ID: fmt.Sprintf("%d-%d", n, i), ContentType: message.JSON, At: time.Now().UnixMilli(), Payload: payload})
		}
		for p, list := range lists {
			outcomes, err := w.archive.Append(w.t.Context(), p, list, heads[p])
			w.must(err)
			for _, o := range outcomes {
				m := o.Message
				_, err := js.PublishMsgAsync(&nats.Msg{Subject: subject.Msg(p, m.To), Data: message.AppendEntry(nil, m.To, message.Entry{From: m.Seq, To: m.Seq, Message: m})},
					jetstream.WithStallWait(patience))
				w.must(err)
			}
		}
	}
	<-js.PublishAsyncComplete()
}

// acknowledge lets every user have acknowledged everything.
func acknowledge(w *world, users int) {
	w.t.Helper()
	var cursors []history.Cursor
	for n := range users {
		to := user(n)
		w.know(to, "phone")
		heads, err := w.archive.Heads(w.t.Context(), []subject.Address{to})
		w.must(err)
		cursors = append(cursors, history.Cursor{Tenant: to.Tenant, User: to.ID, Device: "phone", Address: to.Tokens(), Seq: heads[to], At: time.Now().UnixMilli()})
	}
	w.must(w.archive.Advance(w.t.Context(), cursors))
}

// watchMemory looks at the memory until the returned function is called, which tells the most.
func watchMemory() (stop func() uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	most := inUse()
	watching.Go(func() {
		look := time.NewTicker(10 * time.Millisecond)
		defer look.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-look.C:
				most = max(most, inUse())
			}
		}
	})
	return func() uint64 { cancel(); watching.Wait(); return max(most, inUse()) }
}

func inUse() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.Sys - s.HeapReleased
}
