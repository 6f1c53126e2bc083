package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	receiptUsers = 50
	receiptEach  = 200 // messages of a user
	mutedUser    = 1
	mutedDevice  = "device-1"
)

// handledBy is one message at one device.
type handledBy struct{ user, device, id string }

// handlers are devices whose handlers run, and note it before they acknowledge.
type handlers struct {
	mu  sync.Mutex // protects ran
	ran map[handledBy]bool
	all sync.WaitGroup
}

// handle runs a device's handler for each of its messages. A muted one handles them all and acknowledges none.
func (h *handlers) handle(d *device, user, name string, muted bool) {
	for n := range receiptEach {
		o, ok := <-d.objects
		for ok && o.T != protocol.TMsg {
			if o.T == protocol.TPing {
				_ = d.conn.WriteJSON(protocol.Beat{T: protocol.TPong})
			}
			o, ok = <-d.objects
		}
		if !ok || o.Seq != uint64(n+1) {
			d.t.Errorf("%s of %s: %.100s instead of message %d (%v)", name, user, o.raw, n+1, d.closed)
			return
		}
		if muted {
			continue
		}
		h.mu.Lock()
		h.ran[handledBy{user, name, o.ID}] = true
		h.mu.Unlock()
		if err := d.conn.WriteJSON(protocol.FromClient{T: protocol.TAck, Seq: o.Seq}); err != nil {
			d.t.Error(err)
			return
		}
	}
}

// askForReceipts publishes to all users.
func askForReceipts(t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for n := range receiptEach {
		for u := range receiptUsers {
			m := &nats.Msg{Subject: subject.In(user(fmt.Sprintf("user-%d", u))), Data: []byte(`{}`), Header: nats.Header{
				message.HeaderID: {fmt.Sprintf("m-%d", n)}, message.HeaderReceipt: {"delivered"},
			}}
			if _, err := js.PublishMsgAsync(m, nats.StallWait(patience)); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("the stream door did not take everything")
	}
}

func (h *handlers) has(key handledBy) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ran[key]
}

// 10,000 messages to users with one to three devices, one device muted: each message has exactly one terminal state at
// each device, none before its handler ran, and the muted device's are pending until it acknowledges.
func TestReceiptsOfTenThousandMessages(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		h := &handlers{ran: make(map[handledBy]bool)}
		var muted *device
		expected := 0
		for u := range receiptUsers {
			for n := range u%3 + 1 {
				user, name := fmt.Sprintf("user-%d", u), fmt.Sprintf("device-%d", n)
				d := f.device(user, name, protocol.FromClient{})
				mute := u == mutedUser && name == mutedDevice
				if mute {
					muted = d
				} else {
					expected += receiptEach
				}
				h.all.Go(func() { h.handle(d, user, name, mute) })
			}
		}
		nc := f.connect()
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		askForReceipts(t, nc)
		seen := make(map[handledBy]string)
		for fact, err := range client.NewPublisher(nc).Receipts(ctx, client.ReceiptFilter{}) {
			if err != nil {
				t.Fatalf("%v after %d of %d receipts", err, len(seen), expected)
			}
			key := handledBy{fact.To[len("user:"):], fact.Device, fact.ID}
			switch {
			case fact.State != message.StateDelivered || fact.Receipt.Receipt == "" || fact.Seq == 0 || fact.At < time.Now().Add(-time.Hour).UnixMilli():
				t.Fatalf("%+v is no receipt of a delivery", fact)
			case seen[key] != "":
				t.Fatalf("%+v has two receipts: %s and %s", key, seen[key], fact.Receipt.Receipt)
			case !h.has(key):
				t.Fatalf("%+v is delivered, and its handler did not run", key)
			}
			seen[key] = fact.Receipt.Receipt
			if len(seen) == expected {
				break
			}
		}
		h.all.Wait()
		o := terminal{t, f}
		user := fmt.Sprintf("user-%d", mutedUser)
		o.awaitUndelivered(receiptEach, "--user", user, "--device", mutedDevice)
		if n := o.undelivered("--user", user); n != 0 {
			t.Errorf("%d messages of %s count as undelivered, though another device has handled all", n, user)
		}
		muted.ack(receiptEach)
		late := 0
		for fact, err := range client.NewPublisher(nc).Receipts(ctx, client.ReceiptFilter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if key := (handledBy{fact.To[len("user:"):], fact.Device, fact.ID}); seen[key] == "" {
				if key.user != user || key.device != mutedDevice {
					t.Fatalf("%+v came late", fact)
				}
				seen[key] = fact.Receipt.Receipt
				if late++; late == receiptEach {
					break
				}
			} else if seen[key] != fact.Receipt.Receipt {
				t.Fatalf("%+v has two receipts: %s and %s", key, seen[key], fact.Receipt.Receipt)
			}
		}
	})
}
