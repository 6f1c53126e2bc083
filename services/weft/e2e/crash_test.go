package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// A device is in the middle of a thousand missed messages, a publisher in the middle of a thousand more, and every
// process dies by kill -9. After a new start the device has each accepted message exactly once, in order.
func TestKillInTheMiddleLosesAndDoublesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		nc := f.connect()
		publishMany(t, nc, "alice", 1, 1000)
		d := f.device("alice", "phone", protocol.FromClient{})
		receive(t, d, 1, 300)
		accepted := publishUntilItDies(t, nc, f, 1001)
		t.Logf("killed after message %d was accepted", accepted)

		f.start()
		nc = f.connect()
		d = f.device("alice", "phone", protocol.FromClient{Epoch: d.welcome.Epoch, Cursors: map[string]uint64{"user:alice": 300}})
		receive(t, d, 301, accepted)
		// What was under way when it died may have been accepted without the publisher hearing of it; the publisher
		// sends it again under the same id, and it is one message all the same.
		publish(t, nc, subject.In(user("alice")), fmt.Sprintf(`{"n":%d}`, accepted+1), withID(fmt.Sprint(accepted+1)))
		receive(t, d, accepted+1, accepted+1)
		d.silent()
	})
}

// publishUntilItDies publishes with an id each, kills the fabric after 500, and returns the last that was accepted.
func publishUntilItDies(t *testing.T, nc *nats.Conn, f *fabric, from int) int {
	t.Helper()
	killed := make(chan struct{})
	for n := from; ; n++ {
		if n == from+500 {
			go func() {
				defer close(killed)
				f.kill()
			}()
		}
		m := &nats.Msg{Subject: subject.In(user("alice")), Data: fmt.Appendf(nil, `{"n":%d}`, n), Header: withID(fmt.Sprint(n))}
		reply, err := nc.RequestMsg(m, 2*time.Second)
		if err != nil || len(reply.Data) == 0 {
			<-killed
			return n - 1
		}
	}
}

// A message without an id that is read again after a crash is one message: its id comes from its place in the stream.
// The processes die while batches are between the archive and the acknowledgement, several times.
func TestAMessageWithoutIDIsOneMessageWhateverDies(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		const rounds, each = 4, 500
		for range rounds {
			nc := f.connect()
			js, err := nc.JetStream()
			if err != nil {
				t.Fatal(err)
			}
			var acks []nats.PubAckFuture
			for range each {
				ack, err := js.PublishAsync(subject.In(user("bob")), []byte(`{}`))
				if err != nil {
					t.Fatal(err)
				}
				acks = append(acks, ack)
			}
			for _, ack := range acks {
				select {
				case <-ack.Ok():
				case err := <-ack.Err():
					t.Fatal(err)
				case <-time.After(patience):
					t.Fatal("the stream door took no more")
				}
			}
			f.kill()
			f.start()
		}
		d := f.device("bob", "phone", protocol.FromClient{})
		ids := make(map[string]bool)
		for n := range rounds * each {
			o := d.message(uint64(n + 1))
			if ids[o.ID] {
				t.Fatalf("the id %s came twice", o.ID)
			}
			ids[o.ID] = true
			d.ack(o.Seq)
		}
		d.silent()
	})
}

// The numbers of an address go on where they were, even when every one of its messages has expired, was purged, and
// all processes were started anew.
func TestNumbersGoOnAfterEverythingWasPurged(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		nc := f.connect()
		for n := range 5 {
			r, p := request(t, nc, user("carol"), `{}`, nats.Header{message.HeaderTTL: {"1ms"}})
			if r.Seq != uint64(n+1) {
				t.Fatalf("%+v %+v", r, p)
			}
		}
		f.awaitPurge(t)
		f.kill()
		f.start()
		nc = f.connect()
		if r, p := request(t, nc, user("carol"), `{}`, nil); r.Seq != 6 {
			t.Fatalf("%+v %+v", r, p)
		}
		d := f.device("carol", "phone", protocol.FromClient{})
		for from := uint64(1); from < 6; { // one gap for each reason
			o := d.next()
			if o.T != protocol.TGap || o.From != from || (o.Why != string(message.WhyExpired) && o.Why != string(message.WhyRetention)) {
				t.Fatalf("%s instead of a gap from %d", o.raw, from)
			}
			from = o.To + 1
		}
		d.message(6)
	}, "WEFT_PURGE_EVERY=100ms", "WEFT_PURGE_MIN_AGE=0s", "WEFT_RETENTION=1s")
}

// awaitPurge waits until a purge has deleted messages: then a new device is told of older ones by another reason.
func (f *fabric) awaitPurge(t *testing.T) {
	t.Helper()
	late := time.Now().Add(patience)
	for n := 0; time.Now().Before(late); n++ {
		d := f.device("carol", fmt.Sprintf("probe-%d", n), protocol.FromClient{})
		o := d.next()
		d.leave()
		if o.T == protocol.TGap && o.Why == string(message.WhyRetention) {
			return
		}
	}
	t.Fatal("nothing was purged")
}
