package embed_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
)

// TestMain checks that nothing of ours is left. nats-server 2.15.2 may leave the store of a Raft group behind that one
// server of a cluster began while it was told to stop; ats keeps time for open stores.
func TestMain(m *testing.M) {
	if told := os.Getenv(memberVariable); told != "" {
		if err := beMember(told); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	const server = "github.com/nats-io/nats-server/v2/server"
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction(server+".(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction(server+"/ats.Register.func1"))
}

// patience bounds every wait of these tests; nothing takes that long unless it is broken.
const patience = 30 * time.Second

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func startNATS(t testing.TB, partitions int) *embed.Server {
	t.Helper()
	s, err := embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// connect returns a connection that keeps trying, as those of the services do.
func connect(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// startFabric starts a server with a fabric on it.
func startFabric(t testing.TB, partitions int) (*embed.Server, jetstream.JetStream) {
	t.Helper()
	s := startNATS(t, partitions)
	js := connect(t, s.URL())
	create(t, js, fabric.Facts{Epoch: "e1", Partitions: partitions}, 1)
	return s, js
}

func create(t testing.TB, js jetstream.JetStream, f fabric.Facts, replicas int) {
	t.Helper()
	options := fabric.Options{Replicas: replicas, MaxPayload: js.Conn().MaxPayload()}
	if err := fabric.Create(within(t, patience), js, f, options); err != nil {
		t.Fatal(err)
	}
}
