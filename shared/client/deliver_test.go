package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errBusy = errors.New("busy")

// device is a Subscriber without a connection, in the middle of alice's mailbox.
func device(t *testing.T, options Options) *Subscriber {
	t.Helper()
	options.Token = func(context.Context) (string, error) { return "", nil }
	options.Device = "d"
	if err := options.complete(); err != nil {
		t.Fatal(err)
	}
	s := newSubscriber(options, State{})
	s.ledger.begin(welcome("e", map[string]uint64{"user:alice": 7}))
	return s
}

// seven is the next message of alice's, as it is queued.
func seven(t *testing.T, s *Subscriber) event {
	t.Helper()
	e := event{address: "user:alice", from: 7, to: 7, message: Message{Address: "user:alice", Seq: 7, Data: []byte("1")}}
	if news, err := s.ledger.read(&e); err != nil || !news {
		t.Fatalf("7 is news: %v, %v", news, err)
	}
	return e
}

// acked says whether seven would be acknowledged now.
func acked(t *testing.T, s *Subscriber) bool {
	t.Helper()
	if err := s.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	return len(s.ledger.acks()) == 1
}

func TestAHandlerThatFailsIsCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := device(t, Options{OnFailed: func(Message, error) { t.Error("given up") }})
		start := time.Now()
		var calls []time.Duration
		s.deliver(t.Context(), seven(t, s), func(context.Context, Message) error {
			calls = append(calls, time.Since(start))
			if len(calls) < 6 {
				return errBusy
			}
			return nil
		})
		want := []time.Duration{0, 1, 3, 7, 15, 31}
		if len(calls) != len(want) {
			t.Fatalf("called at %v", calls)
		}
		for i := range want {
			if calls[i] != want[i]*time.Second {
				t.Errorf("called at %v, want seconds %v", calls, want)
			}
		}
		if !acked(t, s) {
			t.Error("not acknowledged")
		}
	})
}

func TestAMessageThatFailsSixTimesIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed []uint64
		s := device(t, Options{OnFailed: func(m Message, err error) {
			if !errors.Is(err, errBusy) {
				t.Error(err)
			}
			failed = append(failed, m.Seq)
		}})
		calls := 0
		s.deliver(t.Context(), seven(t, s), func(context.Context, Message) error { calls++; return errBusy })
		if calls != 6 || len(failed) != 1 || failed[0] != 7 {
			t.Errorf("called %d times, failed %v", calls, failed)
		}
		if !acked(t, s) {
			t.Error("the mailbox stays stuck at the message")
		}
	})
}

func TestAMessageIsNotHandledWhenRunEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := device(t, Options{OnFailed: func(Message, error) { t.Error("given up") }})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		s.deliver(ctx, seven(t, s), func(context.Context, Message) error { return errBusy })
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("it took %s to give up", took)
		}
		if acked(t, s) {
			t.Error("acknowledged all the same")
		}
	})
}

func TestTheEndOfRunIsNoFailureOfTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := device(t, Options{OnFailed: func(Message, error) { t.Error("given up") }})
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		s.deliver(ctx, seven(t, s), func(context.Context, Message) error {
			if calls++; calls == 6 {
				cancel()
			}
			return errBusy
		})
		if acked(t, s) {
			t.Error("acknowledged all the same")
		}
	})
}
