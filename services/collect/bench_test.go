package collect

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/subject"
)

// BenchmarkTerm is one partition on the SQLite archive, from WEFT_IN to WEFT_MSG: 256 bytes each, to 1,000 users.
func BenchmarkTerm(b *testing.B) {
	w := newWorld(b)
	payload := fmt.Appendf(nil, `{"n":%q}`, strings.Repeat("x", 248))
	js, err := jetstream.New(w.nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		b.Fatal(err)
	}
	facts := w.archive.Facts()
	if err := fabric.Create(b.Context(), js, fabric.Facts{Epoch: facts.Epoch, Partitions: 1}, fabric.Options{MaxPayload: w.nc.MaxPayload()}); err != nil {
		b.Fatal(err)
	}
	for i := range b.N {
		to := subject.UserAddress("default", fmt.Sprint(i%1000))
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: subject.InPartition(0, to), Data: payload}, jetstream.WithStallWait(patience)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	b.ResetTimer()
	begun := time.Now()
	w.start()
	w.drained()
	b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "msgs/s")
	b.ReportMetric(float64(b.N)/float64(w.archive.tried()), "msgs/batch")
	if n := w.count(fabric.MsgStream(0)); n != b.N {
		b.Errorf("%d of %d in the log", n, b.N)
	}
}
