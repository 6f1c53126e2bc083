package route_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/shared/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of the tests.
const patience = 20 * time.Second

// server is a Redis that the tests speak to, and a client to look behind the Table's back and to do harm.
type server struct {
	address string // as Open takes it
	host    string // the only or first host:port
	client  redis.UniversalClient
}

// kinds are what every case runs against: in process, as on a laptop; a real one; and a Cluster, which refuses
// scripts whose keys do not share a slot.
func kinds() map[string]func(testing.TB) *server {
	return map[string]func(testing.TB) *server{"miniredis": startMini, "redis": startRedis, "cluster": startCluster}
}

func startMini(t testing.TB) *server {
	t.Helper()
	return reach(t, "redis://"+miniredis.RunT(t).Addr())
}

func startRedis(t testing.TB) *server {
	t.Helper()
	port := freePort(t)
	startProcess(t, t.TempDir(), port)
	return reach(t, "redis://127.0.0.1:"+port)
}

// startCluster starts two servers that have half the slots each.
func startCluster(t testing.TB) *server {
	t.Helper()
	ports, buses := []string{freePort(t), freePort(t)}, []string{freePort(t), freePort(t)}
	for i, port := range ports {
		startProcess(t, t.TempDir(), port, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--cluster-port", buses[i])
		must(t, plain(t, port).Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", i*8192, i*8192+8191).Err())
	}
	must(t, plain(t, ports[0]).Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", ports[1], buses[1]).Err())
	for _, port := range ports {
		c := plain(t, port)
		eventually(t, "the cluster is complete", func() bool {
			return strings.Contains(c.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
		})
	}
	return reach(t, "redis://127.0.0.1:"+ports[0]+",127.0.0.1:"+ports[1])
}

func plain(t testing.TB, port string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port})
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func reach(t testing.TB, address string) *server {
	t.Helper()
	addresses := strings.Split(strings.TrimPrefix(address, "redis://"), ",")
	// The tests may share the machine with much else: only TestHangs is about time-outs.
	with := strings.Join(append([]string{"redis://" + addresses[0] + "?read_timeout=20s"}, addresses[1:]...), ",")
	s := &server{address: with, host: addresses[0], client: redis.NewUniversalClient(&redis.UniversalOptions{Addrs: addresses})}
	t.Cleanup(func() { must(t, s.client.Close()) })
	return s
}

// process is a redis-server that a test does harm to.
type process struct {
	stop   func() // kills it, as the end of the test does
	signal func(os.Signal) error
}

// startProcess starts a redis-server and returns once it accepts connections.
func startProcess(t testing.TB, dir, port string, more ...string) process {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("these tests need redis-server 7.0 or later on PATH: apt-get install redis-server")
	}
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir}, more...)
	command := exec.Command(path, args...)
	out, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), "Ready to accept connections") {
				close(ready)
			}
		}
	}()
	stop := func() {
		_ = command.Process.Kill() // an error is a process that has ended
		<-ended
		_ = command.Wait()
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("redis-server %s ended before it was ready", strings.Join(args, " "))
	case <-time.After(patience):
		t.Fatal("redis-server is not ready")
	}
	return process{stop: stop, signal: command.Process.Signal}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, l.Close()) }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

// open is a Table on the server, of an epoch that no other test has.
func (s *server) open(t testing.TB) *route.Table {
	t.Helper()
	table, err := route.Open(s.address, epochOf(t))
	must(t, err)
	t.Cleanup(func() { must(t, table.Close()) })
	return table
}

func epochOf(t testing.TB) string {
	name := t.Name()
	return name[max(0, len(name)-100):]
}

// shards runs fn on each server that holds keys.
func (s *server) shards(t testing.TB, fn func(ctx context.Context, c *redis.Client) error) {
	t.Helper()
	switch c := s.client.(type) {
	case *redis.ClusterClient:
		must(t, c.ForEachMaster(t.Context(), fn))
	case *redis.Client:
		must(t, fn(t.Context(), c))
	}
}

func (s *server) flush(t testing.TB) {
	t.Helper()
	s.shards(t, func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
}

// forward makes every key d older, as if that time had passed.
func (s *server) forward(t testing.TB, d time.Duration) {
	t.Helper()
	s.shards(t, func(ctx context.Context, c *redis.Client) error {
		keys, err := c.Keys(ctx, "*").Result()
		for _, key := range keys {
			left := c.PTTL(ctx, key).Val()
			switch {
			case left > d:
				err = c.PExpire(ctx, key, left-d).Err()
			case left >= 0:
				err = c.Del(ctx, key).Err()
			}
			if err != nil {
				return fmt.Errorf("age %s: %w", key, err)
			}
		}
		return err
	})
}

// eventually waits for what another process does by itself.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
