package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

// expiring archives n messages whose publisher wants receipts, and which expire at a moment, maybe in the past.
func (w *world) expiring(to subject.Address, n int, at time.Time) (last uint64) {
	w.t.Helper()
	for i := range n {
		m := &message.Message{
			To: to, ID: fmt.Sprint("expiring ", at.UnixNano(), " ", i), ContentType: message.JSON, At: at.Add(-time.Minute).UnixMilli(),
			Expires: at.UnixMilli(), Receipt: true, Payload: []byte("1"),
		}
		w.eventually("archived", func() bool {
			ctx, cancel := context.WithTimeout(w.t.Context(), patience)
			defer cancel()
			reply, err := rpc.Send(ctx, w.nc, &nats.Msg{Subject: subject.Collect(0), Data: message.AppendEntry(nil, to, message.Entry{Message: m})})
			if err == nil {
				last = decode[message.Receipt](w.t, reply.Data).Seq
			}
			return err == nil
		})
	}
	return last
}

// settler is a term that settles when a test wants it to, at any time of the clock.
func (w *world) settler() *term {
	w.t.Helper()
	s, err := New(DefaultConfig(), w.nc, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	s.archive, s.js = w.archive, w.js
	return &term{Service: s}
}

// settleAt looks for what has expired by then.
func (t *term) settleAt(tb testing.TB, now time.Time) {
	tb.Helper()
	if all, err := t.settleLapsed(tb.Context(), now, 0); err != nil || !all {
		tb.Errorf("settle: %v, %v", all, err)
	}
}

// TestATermSettlesWhatExpires, a few seconds later, for each device that was known and has not acknowledged it.
func TestATermSettlesWhatExpires(t *testing.T) {
	t.Parallel() // it waits for the grace
	w := newWorld(t)
	w.start()
	w.open(alice, "phone", "muted")
	expires := time.Now().Add(time.Second)
	w.expiring(alice, 2, expires)
	w.archived(subject.Publish(alice), `1`, "Weft-TTL", "1ms")
	w.asked(alice, 1)
	w.expiring(user(1), 1, time.Now().Add(-time.Hour)) // nobody has a device
	w.later()
	w.open(alice, "late")
	w.ack(upTo(alice, "phone", 1))
	const want = 5
	w.eventually("settled", func() bool { return w.count(fabric.ReceiptStream) >= want })
	told := w.told()
	for key, state := range map[string]message.State{
		"user:alice/phone/1": message.StateDelivered, "user:alice/phone/2": message.StateExpired,
		"user:alice/muted/1": message.StateExpired, "user:alice/muted/2": message.StateExpired, "user:u1//1": message.StateExpired,
	} {
		if told[key].State != state {
			t.Errorf("%s: %+v, want %s", key, told[key], state)
		}
		if r := told[key]; r.State == message.StateExpired && key != "user:u1//1" && r.At != expires.UnixMilli() {
			t.Errorf("%s expired at %d, not %d", key, r.At, expires.UnixMilli())
		}
	}
	w.ack(upTo(alice, "muted", 4)) // too late for two, in time for the one that never expires
	w.ackDrained()
	if told := w.told(); len(told) != want+1 || told["user:alice/muted/4"].State != message.StateDelivered {
		t.Errorf("told in the end: %v", told)
	}
	if left, err := w.archive.Lapsed(t.Context(), 0, time.Now().UnixMilli(), 0, 10); err != nil || len(left) > 0 {
		t.Errorf("%d are left, %v", len(left), err)
	}
}

// TestAnAcknowledgementInTimeCounts even if it is taken in after the message has expired: while it waits in the stream
// nothing is judged.
func TestAnAcknowledgementInTimeCounts(t *testing.T) {
	w := newWorld(t)
	b := w.books()
	r := w.start()
	w.open(alice, "phone", "late", "muted")
	expires := time.Now().Add(10 * time.Minute)
	last := w.expiring(alice, 3, expires)
	b.fail("before asked")
	afterwards := upTo(alice, "late", last) // heard in time, and handed over an hour later
	w.ack(upTo(alice, "phone", last))
	b.hasFailed(t)
	settler := w.settler()
	settler.settleAt(t, time.Now().Add(time.Hour))
	if told := w.told(); len(told) > 0 {
		t.Errorf("judged with an acknowledgement under way: %v", told)
	}
	b.fail("")
	w.ackDrained()
	w.isTold(message.StateDelivered, keysOf(alice, "phone", 1, last)...)
	settler.settleAt(t, expires.Add(settleGrace-time.Second))
	if n := len(w.told()); n != int(last) {
		t.Errorf("%d are told within the grace", n)
	}
	settler.settleAt(t, time.Now().Add(time.Hour))
	settler.settleAt(t, time.Now().Add(time.Hour))
	r.stop()
	w.start()
	w.ack(afterwards)
	w.ackDrained()
	told := w.told()
	for device, state := range map[string]message.State{"phone": message.StateDelivered, "late": message.StateExpired, "muted": message.StateExpired} {
		for _, key := range keysOf(alice, device, 1, last) {
			if told[key].State != state {
				t.Errorf("%s: %+v, want %s", key, told[key], state)
			}
		}
	}
	if len(told) != 3*int(last) {
		t.Errorf("%d are told", len(told))
	}
}

// TestAnAcknowledgementAfterItExpired tells that it has expired: it was not to be shown any more.
func TestAnAcknowledgementAfterItExpired(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.open(alice, "phone")
	expired := time.Now().Add(-time.Second)
	w.expiring(alice, 1, expired)
	w.ack(upTo(alice, "phone", 1))
	w.ackDrained()
	w.isTold(message.StateExpired, "user:alice/phone/1")
}

// TestSettlingSurvivesACrashBetweenAnyTwoSteps: the message is closed only after its receipts are out.
func TestSettlingSurvivesACrashBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"before settle", "after settle", "before close", "after close"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.books()
			w.start()
			w.open(alice, "phone", "tablet")
			last := w.expiring(alice, 3, time.Now().Add(10*time.Minute))
			later := time.Now().Add(time.Hour)
			b.fail(step)
			if _, err := w.settler().settleLapsed(t.Context(), later, 0); !errors.Is(err, errBooks) {
				t.Fatalf("it did not fail: %v", err)
			}
			b.fail("")
			w.settler().settleAt(t, later) // another owner
			w.settler().settleAt(t, later)
			w.isTold(message.StateExpired, append(keysOf(alice, "phone", 1, last), keysOf(alice, "tablet", 1, last)...)...)
			if left, err := w.archive.Lapsed(t.Context(), 0, later.UnixMilli(), 0, 10); err != nil || len(left) > 0 {
				t.Errorf("%d are left, %v", len(left), err)
			}
		})
	}
}

// hasty settles one message that is to expire, and does not look what is under way, as if it had come too late.
func (t *term) hasty(ctx context.Context, expires time.Time) error {
	lapsed, err := t.archive.Lapsed(ctx, 0, expires.UnixMilli(), 0, 1)
	if err != nil || len(lapsed) == 0 {
		return err
	}
	if err := t.settleAndTell(ctx, lapsed[0].States); err != nil {
		return err
	}
	return t.archive.CloseAsked(ctx, lapsed)
}

// TestExpiredOrAcknowledgedButNotBoth while two owners settle hastily and two collects take acknowledgements in.
func TestExpiredOrAcknowledgedButNotBoth(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.start()
	const users, each = 6, 20
	expires := time.Now().Add(10 * time.Minute)
	for u := range users {
		w.open(user(u), "phone", "tablet", "muted")
		w.expiring(user(u), each, expires)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var settling sync.WaitGroup
	for range 2 {
		settling.Go(func() {
			s := w.settler()
			for ctx.Err() == nil {
				if err := s.hasty(ctx, expires); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	for seq := uint64(1); seq <= each; seq++ {
		for u := range users {
			w.ack(upTo(user(u), "phone", seq), upTo(user(u), "tablet", seq))
		}
	}
	w.ackDrained()
	cancel()
	settling.Wait()
	w.settler().settleAt(t, expires.Add(time.Hour))
	told := w.told()
	states := map[message.State]int{}
	for u := range users {
		for _, device := range []string{"phone", "tablet", "muted"} {
			for _, key := range keysOf(user(u), device, 1, each) {
				states[told[key].State]++
			}
		}
	}
	if len(told) != 3*users*each || states[""] > 0 || states[message.StateExpired] < users*each || states[message.StateDelivered] == 0 {
		t.Errorf("%d are told, of each state %v", len(told), states)
	}
	t.Logf("of each state: %v", states)
}

// TestTheFirstStateThatIsStoredHolds, although whoever stored it died before he told it: what is told later is that one.
func TestTheFirstStateThatIsStoredHolds(t *testing.T) {
	w := newWorld(t)
	b := w.books()
	w.start()
	w.open(alice, "phone")
	expires := time.Now().Add(10 * time.Minute)
	last := w.expiring(alice, 2, expires)
	b.fail("after settle")
	w.ack(upTo(alice, "phone", 1))
	b.hasFailed(t) // delivered is stored, and not told
	if err := w.settler().hasty(t.Context(), expires); !errors.Is(err, errBooks) {
		t.Fatal(err)
	}
	if told := w.told(); len(told) > 0 {
		t.Fatalf("told: %v", told)
	}
	b.fail("before asked") // so that only the settler goes on
	for range last {
		if err := w.settler().hasty(t.Context(), expires); err != nil {
			t.Fatal(err)
		}
	}
	b.fail("")
	w.ackDrained()
	told := w.told()
	if len(told) != 2 || told["user:alice/phone/1"].State != message.StateDelivered || told["user:alice/phone/2"].State != message.StateExpired {
		t.Errorf("told: %v", told)
	}
}

// TestWhatIsPurgedIsSettledBefore.
func TestWhatIsPurgedIsSettledBefore(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.open(alice, "phone", "muted")
	w.asked(alice, 2)
	w.expiring(alice, 1, time.Now().Add(time.Second))
	w.ack(upTo(alice, "phone", 1))
	w.ackDrained()
	s := w.settler()
	s.cfg.Policy = archive.Policy{Retention: 30 * time.Minute, MinAge: time.Hour}
	for _, ahead := range []time.Duration{time.Hour - time.Minute, time.Hour + time.Minute} {
		later := time.Now().Add(ahead)
		if err := s.settleDeleted(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		if _, err := w.archive.Purge(t.Context(), 0, s.cfg.Policy, later); err != nil {
			t.Fatal(err)
		}
		if ahead < time.Hour {
			w.archived(subject.Publish(alice), `"the last, which stays"`)
		}
	}
	told := w.told()
	for key, state := range map[string]message.State{
		"user:alice/phone/1": message.StateDelivered, "user:alice/phone/2": message.StateDeleted, "user:alice/phone/3": message.StateExpired,
		"user:alice/muted/1": message.StateDeleted, "user:alice/muted/2": message.StateDeleted, "user:alice/muted/3": message.StateExpired,
	} {
		if told[key].State != state {
			t.Errorf("%s: %+v, want %s", key, told[key], state)
		}
	}
	if len(told) != 6 {
		t.Errorf("%d are told", len(told))
	}
	rows, err := w.archive.Rows(t.Context(), alice, 1, 10)
	if err != nil || len(rows) != 1 || rows[0].Message.Seq != 4 {
		t.Errorf("%d rows are left, %v", len(rows), err)
	}
}

// unsettled is an archive where receipts can't be settled for some time.
type unsettled struct {
	purged
	until time.Time
}

func (u *unsettled) Lapsed(context.Context, int, int64, int64, int) ([]archive.Lapsed, error) {
	if time.Now().Before(u.until) {
		return nil, errBooks
	}
	return nil, nil
}

// TestSettlingWaitsForAcknowledgementsUnderWay at the beginning of a term, and when NATS is back.
func TestSettlingWaitsForAcknowledgementsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		a := &looked{}
		s := &Service{cfg: DefaultConfig(), log: log, faults: service.NewFaults(log), archive: a}
		ctx, cancel := context.WithCancel(t.Context())
		reconnected := make(chan nats.Status)
		ended := make(chan error, 1)
		go func() { ended <- (&term{Service: s}).settleNowAndThen(ctx, reconnected) }()
		looks := func(after time.Duration, want int32) {
			t.Helper()
			<-time.After(after)
			synctest.Wait()
			if n := a.times.Swap(0); n != want {
				t.Errorf("%d looks within %s, want %d", n, after, want)
			}
		}
		looks(settleGrace-500*time.Millisecond, 0)
		looks(10*settleEvery, 10)
		reconnected <- nats.CONNECTED
		looks(settleGrace-500*time.Millisecond, 0)
		looks(10*settleEvery, 10)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// looked is an archive that counts how often it was asked what lapsed.
type looked struct {
	archive.Archive
	times atomic.Int32
}

func (l *looked) Lapsed(context.Context, int, int64, int64, int) ([]archive.Lapsed, error) {
	l.times.Add(1)
	return nil, nil
}

// TestNothingIsPurgedThatIsNotSettled: the purge is put off until it is.
func TestNothingIsPurgedThatIsNotSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		a := &unsettled{until: time.Now().Add(150 * time.Second)}
		s := &Service{cfg: DefaultConfig(), log: log, faults: service.NewFaults(log), archive: a}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- (&term{Service: s}).purge(ctx) }()
		<-time.After(149 * time.Second)
		synctest.Wait()
		if n := a.times.Load(); n != 0 {
			t.Errorf("%d purges before everything was settled", n)
		}
		<-time.After(32 * time.Second)
		synctest.Wait()
		if n := a.times.Load(); n != 1 {
			t.Errorf("%d purges afterwards", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
