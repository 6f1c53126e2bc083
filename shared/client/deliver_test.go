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
	s := &Subscriber{options: options, ledger: newLedger(State{})}
	s.ledger.begin(welcome("e", map[string]uint64{"user:alice": 7}))
	return s
}

func seven() event {
	return event{from: 7, to: 7, message: Message{Address: "user:alice", Seq: 7, Data: []byte("1")}}
}

func TestAHandlerThatFailsIsCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := device(t, Options{OnFailed: func(Message, error) { t.Error("given up") }})
		start := time.Now()
		var calls []time.Duration
		err := s.deliver(t.Context(), seven(), func(context.Context, Message) error {
			calls = append(calls, time.Since(start))
			if len(calls) < 6 {
				return errBusy
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31}
		if len(calls) != len(want) {
			t.Fatalf("called at %v", calls)
		}
		for i := range want {
			if calls[i] != want[i]*time.Second {
				t.Errorf("called at %v, want seconds %v", calls, want)
			}
		}
		if acks, _ := s.ledger.take(); len(acks) != 1 {
			t.Errorf("%d acknowledgements", len(acks))
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
		if err := s.deliver(t.Context(), seven(), func(context.Context, Message) error { calls++; return errBusy }); err != nil {
			t.Fatal(err)
		}
		if calls != 6 || len(failed) != 1 || failed[0] != 7 {
			t.Errorf("called %d times, failed %v", calls, failed)
		}
		if acks, _ := s.ledger.take(); len(acks) != 1 {
			t.Error("the mailbox stays stuck at the message")
		}
	})
}

func TestAMessageIsNotHandledWhenRunEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := device(t, Options{OnFailed: func(Message, error) { t.Error("given up") }})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err := s.deliver(ctx, seven(), func(context.Context, Message) error { return errBusy })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the context's", err)
		}
		if acks, _ := s.ledger.take(); len(acks) != 0 {
			t.Error("acknowledged all the same")
		}
	})
}

func TestTheEndOfRunIsNoFailureOfTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := device(t, Options{OnFailed: func(Message, error) { t.Error("given up") }})
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		err := s.deliver(ctx, seven(), func(context.Context, Message) error {
			if calls++; calls == 6 {
				cancel()
			}
			return errBusy
		})
		if acks, _ := s.ledger.take(); !errors.Is(err, context.Canceled) || len(acks) != 0 {
			t.Errorf("error %v, %d acknowledgements", err, len(acks))
		}
	})
}
