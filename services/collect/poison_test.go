package collect

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const poison = `"poison"`

// picky makes the archive refuse what is poison, and the batch that it is in.
func (f *faulty) picky(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = func(m *message.Message) error {
		if string(m.Payload) == poison {
			return err
		}
		return nil
	}
}

var errPoison = errors.New("can't store this")

func user(i int) subject.Address { return subject.UserAddress("default", fmt.Sprint("u", i)) }

// slowest is how long the slowest message of the log took from its acceptance to the archive.
func slowest(log []*message.Message) (worst time.Duration) {
	for _, m := range log {
		worst = max(worst, time.Duration(m.Archived-m.At)*time.Millisecond)
	}
	return worst
}

func TestPoisonIsBounded(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	w.archive.picky(errPoison)
	const n = 400
	for i := range n {
		if i == n/2 {
			w.publish(subject.In(alice), poison, "Weft-Id", "bad")
			w.publish(subject.In(alice), `"behind"`)
		}
		w.publish(subject.In(user(i%7)), fmt.Sprint(i))
	}
	w.drained()
	log := w.logged(n + 2)
	took := slowest(log[:n])
	t.Logf("the slowest neighbour was archived after %s", took)
	if took > time.Second {
		t.Error("the neighbours waited too long")
	}
	last := map[subject.Address]uint64{}
	for _, m := range log {
		if m.Seq != last[m.To]+1 {
			t.Errorf("%s: %d after %d", m.To, m.Seq, last[m.To])
		}
		last[m.To] = m.Seq
	}
	if last[alice] != 2 {
		t.Errorf("what stood behind the poison is %d", last[alice])
	}
	w.isPoison("bad")
}

// isPoison checks that exactly one message is in quarantine, for poison, with its receipt.
func (w *world) isPoison(id string) {
	w.t.Helper()
	set, sent := w.stored(fabric.QuarantineStream), w.stored(fabric.ReceiptStream)
	if len(set) != 1 || len(sent) != 1 || !strings.HasPrefix(set[0].Subject, "weft.quarantine.poison.default.user.alice") {
		w.t.Fatalf("%d in quarantine, %d receipts", len(set), len(sent))
	}
	r := decode[message.Receipt](w.t, sent[0].Data)
	if r.State != message.StateQuarantined || r.Reason != problem.Poison || r.ID != id || set[0].Header.Get(quarantine.HeaderDetail) != r.Message {
		w.t.Errorf("%s; %v", sent[0].Data, set[0].Header)
	}
}

func TestPoisonAtTheRequestDoor(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	w.archive.picky(errPoison)
	begun := time.Now()
	_, p := w.request(subject.Publish(alice), poison)
	t.Logf("refused after %s: %v", time.Since(begun), p)
	if p == nil || p.Code != problem.Poison || p.Retry || time.Since(begun) > soon {
		t.Errorf("%v after %s", p, time.Since(begun))
	}
	if m := w.archived(subject.Publish(alice), `1`); m.Seq != 2 {
		t.Errorf("the next is %d", m.Seq)
	}
	if n := w.count(fabric.QuarantineStream); n != 0 {
		t.Errorf("%d in quarantine, although the publisher was told", n)
	}
}

// A series of poison to one address holds up that address and nobody else.
func TestASeriesOfPoison(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `0`)
	w.archive.picky(errPoison)
	const bad = 8
	for range bad {
		w.publish(subject.In(alice), poison)
	}
	w.publish(subject.In(alice), `1`)
	n := 0
	w.eventually("all poison set aside", func() bool {
		w.publish(subject.In(user(n%7)), `1`)
		n++
		return w.count(fabric.QuarantineStream) == bad
	})
	w.drained()
	log := w.logged(n + 2)
	t.Logf("the slowest of %d neighbours was archived after %s", n, slowest(neighbours(log)))
	if took := slowest(neighbours(log)); took > time.Second {
		t.Errorf("a neighbour waited %s", took)
	}
	if m := w.archived(subject.Publish(alice), `2`); m.Seq != 3 {
		t.Errorf("alice has %d", m.Seq)
	}
}

func neighbours(log []*message.Message) (others []*message.Message) {
	for _, m := range log {
		if m.To != alice {
			others = append(others, m)
		}
	}
	return others
}

// An archive that is away is nobody's fault, however long and in whatever way.
func TestNobodyIsToBlameForAnArchiveThatIsAway(t *testing.T) {
	for name, disturb := range map[string]func(*faulty){
		"everything fails": func(f *faulty) { f.down() },
		"the disk is full, a ping fits": func(f *faulty) {
			f.picky(fmt.Errorf("%w: disk full", archive.ErrAway))
		},
		"it refuses all but pings": func(f *faulty) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refuse = func(*message.Message) error { return errPoison }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			w.archived(subject.Publish(alice), `0`)
			disturb(w.archive)
			const n = 10
			for i := range n {
				w.publish(subject.In(user(i)), poison)
			}
			before := w.archive.tried()
			w.eventually("tried often", func() bool { return w.archive.tried() > before+2*convictAfter })
			begun := time.Now()
			_, p := w.request(subject.Publish(alice), poison)
			aside := 0 // messages that were taken for poison
			if p != nil && p.Code == problem.Poison {
				aside++
			} else if p == nil || p.Code != problem.Unavailable || time.Since(begun) > answerWithin+time.Second {
				t.Errorf("a request got %v after %s", p, time.Since(begun))
			}
			w.archive.disturb(nil, nil)
			w.archive.disturbPings(nil)
			w.archive.picky(nil)
			w.drained()
			// An archive that refuses all but pings is found out after a few of them; the request may be one.
			if aside += w.count(fabric.QuarantineStream); aside > 0 && name != "it refuses all but pings" || aside > convictMost {
				t.Errorf("%d were set aside", aside)
			}
		})
	}
}

// What the log refuses for good goes on without it.
func TestTheLogRefusesAMessageForGood(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.archived(subject.Publish(alice), `0`)
	w.setLog(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	w.publish(subject.In(alice), `"`+strings.Repeat("x", 2000)+`"`)
	w.publish(subject.In(alice), `1`)
	w.publish(subject.In(user(1)), `2`)
	w.drained()
	log := w.logged(3)
	if took := slowest(log); took > time.Second {
		t.Errorf("a neighbour waited %s", took)
	}
	if !r.log.has("refuses a message for good") || w.head(alice) != 3 || w.count(fabric.QuarantineStream) != 0 {
		t.Errorf("head %d", w.head(alice))
	}
	page, err := w.archive.Read(t.Context(), alice, 0, 0, 1<<20, time.Now())
	if err != nil || len(page.Entries) != 3 {
		t.Errorf("%+v, %v", page, err)
	}
	r.stop()
	w.start() // and does not stop its next term, which publishes again what the archive holds
	if m := w.archived(subject.Publish(alice), `3`); m.Seq != 4 {
		t.Errorf("sequence %d", m.Seq)
	}
}

func TestPoisonByPOST(t *testing.T) {
	d := newDoor(t)
	d.archive.picky(errPoison)
	status, _, body := d.post("good", `{"to":"user:alice","data":`+poison+`}`)
	if p := decode[problem.Problem](t, body); status != http.StatusUnprocessableEntity || p.Code != problem.Poison {
		t.Errorf("%d %s", status, body)
	}
	status, _, body = d.post("good", `[{"to":"user:alice","data":`+poison+`},{"to":"user:alice","data":1}]`)
	answers := *decode[[]posted](t, body)
	if status != http.StatusOK || answers[0].Error == nil || answers[0].Error.Code != problem.Poison || answers[1].Receipt == nil || answers[1].Seq != 1 {
		t.Errorf("%d %s", status, body)
	}
}
