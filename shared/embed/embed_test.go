package embed_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/embed"
)

func TestNATSKeepsItsDataInTheFolder(t *testing.T) {
	dir := t.TempDir()
	for start := range 2 {
		s, err := embed.NATS(embed.NATSOptions{Dir: dir, Partitions: 4})
		if err != nil {
			t.Fatal(err)
		}
		js := connect(t, s.URL())
		ctx := within(t, patience)
		if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(ctx, "s", nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(start + 1); ack.Sequence != want {
			t.Errorf("start %d: sequence %d, want %d", start, ack.Sequence, want)
		}
		s.Stop()
	}
}

func TestNATSOnATakenPortSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port, Partitions: 4})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("err %v, want the address in use", err)
	}
}

func TestNATSInABadFolderSaysSo(t *testing.T) {
	_, err := embed.NATS(embed.NATSOptions{Dir: "/dev/null/weft", Partitions: 4})
	if err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("err %v, want the folder", err)
	}
}

func TestClusterReplicates(t *testing.T) {
	servers, err := embed.Cluster(t.TempDir(), 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		defer s.Stop()
	}
	js := connect(t, servers[0].URL())
	ctx := within(t, patience)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	// The other servers may not know yet who listens.
	if _, err := js.Publish(ctx, "s", nil, jetstream.WithRetryWait(100*time.Millisecond), jetstream.WithRetryAttempts(50)); err != nil {
		t.Fatal(err)
	}
}

func TestRedisExpiresByItself(t *testing.T) {
	s, err := embed.Redis(embed.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func(words ...string) string {
		_, _ = fmt.Fprintf(conn, "*%d\r\n", len(words))
		for _, word := range words {
			_, _ = fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(word), word)
		}
		answer, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(answer)
	}
	if got := ask("SET", "k", "v", "PX", "400"); got != "+OK" {
		t.Fatalf("SET: %s", got)
	}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(5 * time.Second); ask("EXISTS", "k") == ":1"; <-look.C {
		if time.Now().After(deadline) {
			t.Fatal("a key of 400 ms is there after 5 s")
		}
	}
}
