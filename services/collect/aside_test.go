package collect

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/subject"
)

// TestAStreamOfEventsThatHangs: the owner of many partitions has as many events under way as the connection takes.
// Messages are taken in all the same.
func TestAStreamOfEventsThatHangs(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.archived("weft.publish.default.user.alice", `1`)
	if err := w.js.DeleteStream(t.Context(), fabric.EventStream); err != nil {
		t.Fatal(err)
	}
	arrived := make(chan struct{}, 10_000)
	sub, err := w.nc.Subscribe(subject.EventAll, func(*nats.Msg) { arrived <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var tellers sync.WaitGroup
	for p := range 20 {
		events := make([]event.Event, announceMost)
		for i := range events {
			events[i] = event.Event{ID: fmt.Sprint(p, "/", i), What: event.Online, Tenant: "default", User: "bob"}
		}
		tellers.Go(func() {
			if err := r.publishEvents(t.Context(), events); err == nil {
				t.Error("nobody took the events, and they are published")
			}
		})
	}
	for range 4000 {
		<-arrived
	}
	begun := time.Now()
	w.archived("weft.publish.default.user.alice", `2`)
	if took := time.Since(begun); took > publishTimeout/3 {
		t.Errorf("a message took %s to be taken in, while events hang", took)
	}
	tellers.Wait()
}
