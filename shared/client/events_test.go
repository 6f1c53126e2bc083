package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	lifecycle "github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// eventsOf makes the stream of events, and a function that tells one.
func eventsOf(t testing.TB, nc *nats.Conn) (jetstream.Stream, func(tenant string, what lifecycle.What, id string)) {
	t.Helper()
	if eventStream != fabric.EventStream {
		t.Fatalf("the stream is called %s", fabric.EventStream)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: eventStream, Subjects: []string{subject.EventAll}})
	if err != nil {
		t.Fatal(err)
	}
	return s, func(tenant string, what lifecycle.What, id string) {
		body, err := json.Marshal(lifecycle.Event{ID: id, What: what, Tenant: tenant, User: "alice", At: 5, Turn: 7})
		if err == nil {
			_, err = js.Publish(t.Context(), subject.Event(tenant, string(what)), body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// events reads until it has n, and says them as id@position.
func events(t *testing.T, p *Publisher, f EventFilter, n int) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	for e, err := range p.Events(ctx, f) {
		switch {
		case errors.Is(err, ErrEventsGone):
			got = append(got, "gone")
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprintf("%s@%d", e.ID, e.Position))
		}
		if len(got) == n {
			return got
		}
	}
	t.Fatalf("only %v came", got)
	return nil
}

func TestEvents(t *testing.T) {
	nc := natsServer(t)
	p := NewPublisher(nc)
	stream, tell := eventsOf(t, nc)
	tell("default", Online, "a")
	tell("ac.me", Online, "b")
	tell("default", Undelivered, "c")
	tell("default", Offline, "d")
	for _, c := range []struct {
		filter EventFilter
		want   []string
	}{
		{EventFilter{}, []string{"a@1", "c@3", "d@4"}},
		{EventFilter{Tenant: "ac.me"}, []string{"b@2"}},
		{EventFilter{What: Offline}, []string{"d@4"}},
		{EventFilter{After: 1}, []string{"c@3", "d@4"}},
	} {
		if got := events(t, p, c.filter, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%+v gives %v; want %v", c.filter, got, c.want)
		}
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(4)); err != nil {
		t.Fatal(err)
	}
	if got, want := events(t, p, EventFilter{After: 1}, 2), []string{"gone", "d@4"}; !slices.Equal(got, want) {
		t.Errorf("after a purge %v came; want %v", got, want)
	}
	for _, err := range p.Events(t.Context(), EventFilter{Tenant: string(make([]byte, 200))}) {
		if _, refused := errors.AsType[*problem.Problem](err); !refused {
			t.Errorf("an id that is too long gives %v", err)
		}
	}
}
