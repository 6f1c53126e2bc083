package embed_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/service"
)

// TestAPausedServerIsLeft holds that a service does not stay with a server that was paused or cut off, neither when it
// has nothing to say nor when it says so much that the kernel takes no more.
func TestAPausedServerIsLeft(t *testing.T) {
	for name, size := range map[string]int{"idle": 0, "publishing": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			s := startNATS(t, 1)
			ways := []*proxy{startProxy(t, s.URL()), startProxy(t, s.URL())}
			nc := connectAsService(t, ways[0].url()+","+ways[1].url())
			for _, way := range ways {
				if way.url() == nc.ConnectedUrl() {
					way.freeze()
				}
			}
			begin, moved := time.Now(), nc.StatusChanged(nats.CONNECTED)
			tick, late, worst := time.NewTicker(time.Millisecond), time.After(patience), time.Duration(0)
			defer tick.Stop()
			for away := false; !away; {
				select {
				case <-moved:
					away = true
				case <-tick.C:
					asked := time.Now()
					if size > 0 {
						_ = nc.Publish("nobody", make([]byte, size)) // full while it reconnects
					}
					worst = max(worst, time.Since(asked))
				case <-late:
					t.Fatal("it stayed")
				}
			}
			took := time.Since(begin)
			t.Logf("left after %s; a publish took %s at most", took, worst)
			if took > 10*time.Second || worst > 4*time.Second {
				t.Errorf("left after %s, and a publish took %s; want 10 s and 4 s at most", took, worst)
			}
		})
	}
}

// connectAsService connects as the services do.
func connectAsService(t *testing.T, urls string) *nats.Conn {
	t.Helper()
	base := service.Base{NATS: urls}
	nc, err := base.Connect("test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	closed := nc.StatusChanged(nats.CLOSED)
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}
