package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/problem"
)

// lossy is a JetStream of which each reading loses one message, the n-th that it is sent.
type lossy struct {
	jetstream.JetStream

	n int
}

func (l lossy) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := l.JetStream.Stream(ctx, name)
	return lossyStream{s, l.n}, err
}

type lossyStream struct {
	jetstream.Stream

	n int
}

func (l lossyStream) CreateConsumer(ctx context.Context, c jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	consumer, err := l.Stream.CreateConsumer(ctx, c)
	return lossyConsumer{consumer, l.n}, err
}

type lossyConsumer struct {
	jetstream.Consumer

	n int
}

func (l lossyConsumer) Messages(options ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	m, err := l.Consumer.Messages(options...)
	return &lossyMessages{m, l.n}, err
}

type lossyMessages struct {
	jetstream.MessagesContext

	n int
}

func (l *lossyMessages) Next(options ...jetstream.NextOpt) (jetstream.Msg, error) {
	if l.n--; l.n == 0 {
		if _, err := l.MessagesContext.Next(options...); err != nil {
			return nil, err
		}
	}
	return l.MessagesContext.Next(options...)
}

func TestWhatGetsLostOnItsWayIsReadAgain(t *testing.T) {
	w := newWorld(t)
	for n := range 7 {
		w.setAside(problem.BadJSON, "default.user.anna", fmt.Sprint(n), nil)
	}
	want := w.publish(userOf(0, 1), 7)
	r := w.route(nil)
	w.desk.JS = lossy{w.js, 3}
	page, err := w.desk.listQuarantine(t.Context(), admin.QuarantineRequest{})
	w.must(err)
	if got := numbers(page.Entries); !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7}) || page.Total != 7 {
		t.Errorf("in quarantine %v, %d in total", got, page.Total)
	}
	done := w.replay(admin.ReplayRequest{})
	if ids := r.ids(); done.Sent != len(want) || !slices.Equal(ids, idsOf(want)) {
		t.Errorf("%+v sent %q", done, ids)
	}
	w.desk.JS = lossy{w.js, 1} // all is lost: that has an end
	if _, err := w.desk.listQuarantine(t.Context(), admin.QuarantineRequest{}); !errors.Is(err, errHole) {
		t.Errorf("of a stream of which nothing comes: %v", err)
	}
}

func TestAReadingEndsWhereTheRestWasDeletedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.publish(userOf(0, 1), 1)
	r, err := w.desk.read(t.Context(), fabric.MsgStream(0), jetstream.ConsumerConfig{})
	w.must(err)
	defer r.close(t.Context())
	if m, meta, err := r.next(t.Context()); err != nil || m == nil || meta.Sequence.Stream != 1 {
		t.Fatalf("%+v, %v", meta, err)
	}
	r.left = 3 // as when it was read
	if m, _, err := r.next(t.Context()); err != nil || m != nil {
		t.Errorf("behind the last one %v, %v", m, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	r.left = 3
	if _, _, err := r.next(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("after its time: %v", err)
	}
}

// slow is a JetStream that takes all the time that a page of the quarantine has to find its stream.
type slow struct{ jetstream.JetStream }

func (s slow) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	waiting, cancel := context.WithTimeout(ctx, quarantineWithin)
	defer cancel()
	<-waiting.Done()
	return s.JetStream.Stream(ctx, name)
}

func TestAPageOfTheQuarantineGetsOnHoweverSlowAllIs(t *testing.T) {
	w := newWorld(t)
	w.setAside(problem.BadJSON, "default.user.anna", "1", nil)
	w.setAside(problem.BadJSON, "default.user.anna", "2", nil)
	w.desk.JS = slow{w.js}
	page, err := w.desk.listQuarantine(t.Context(), admin.QuarantineRequest{})
	w.must(err)
	if got := numbers(page.Entries); !slices.Equal(got, []uint64{1}) || page.Next != 1 {
		t.Errorf("%v, then %d", got, page.Next)
	}
}
