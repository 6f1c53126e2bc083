package dispatch

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/message"
)

// noAck is a delivery whose acknowledgement costs nothing.
type noAck struct{ jetstream.Msg }

func (noAck) Ack() error { return nil }

// BenchmarkRoute is route with two nodes, batches of 64 messages of 256 bytes to 64 users: look-up, frames, hop, but not the
// reading and acknowledging.
func BenchmarkRoute(b *testing.B) {
	w := newWorld(b)
	const size = 64
	var batch []routed
	x, y := w.node("x", true), w.node("y", true)
	x.forget, y.forget = true, true
	for i := range size {
		to := address(i)
		m := &message.Message{To: to, Seq: 1, ID: "01M81Y9Z1F0NYDCNM1JFJE634E", ContentType: message.JSON, Payload: make([]byte, 256)}
		encoded := message.AppendEntry(nil, to, message.Entry{From: 1, To: 1, Message: m})
		batch = append(batch, routed{delivery: noAck{}, to: to, seq: 1, encoded: encoded})
		if i%2 == 0 {
			x.routes(to)
		} else {
			y.routes(to)
		}
	}
	r := w.start()
	out := newOutbox(r.Service)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r.route(b.Context(), batch, out)
	}
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "msgs/s")
}
