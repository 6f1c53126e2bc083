package push

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/subject"
)

// slowStream takes a little time for each message.
type slowStream struct {
	jetstream.JetStream
	until []time.Time // when each had to be done
}

func (s *slowStream) PublishMsg(ctx context.Context, _ *nats.Msg, _ ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	until, _ := ctx.Deadline()
	s.until = append(s.until, until)
	<-time.After(time.Millisecond)
	return &jetstream.PubAck{}, ctx.Err()
}

// TestEachReportHasItsTime: a node with many users and a slow stream would never get done with a bound for all.
func TestEachReportHasItsTime(t *testing.T) {
	stream := &slowStream{}
	r := &reporter{Service: &Service{hub: newHub(), presence: newPresence()}, js: stream}
	for i := range 2*presenceMost + 1 {
		r.presence.note(subject.UserAddress("default", fmt.Sprint(i)))
	}
	r.presence.wanted.Store(true)
	r.round(t.Context())
	if len(stream.until) != 4 { // the census of nobody, and who changed
		t.Fatalf("%d reports; want 4", len(stream.until))
	}
	for i := 1; i < len(stream.until); i++ {
		if !stream.until[i].After(stream.until[i-1]) {
			t.Errorf("report %d has to be done by %s, the one before by %s", i, stream.until[i], stream.until[i-1])
		}
	}
}
