package dispatch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// realRedis is a redis-server process that a test does harm to.
type realRedis struct {
	t       *testing.T
	dir     string
	port    string
	process *exec.Cmd
	reading sync.WaitGroup
}

// startRedis starts one and lets the world use it.
func (w *world) startRedis() *realRedis {
	t, ok := w.t.(*testing.T)
	if !ok {
		w.t.Fatal("not for benchmarks")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	r := &realRedis{t: t, dir: t.TempDir(), port: port}
	r.start()
	t.Cleanup(func() { r.kill() })
	if w.table, err = route.Open(r.url(), epoch); err != nil {
		t.Fatal(err)
	}
	table := w.table
	t.Cleanup(func() { _ = table.Close() })
	return r
}

func (r *realRedis) url() string { return "redis://127.0.0.1:" + r.port }

// start starts it on what its folder holds, and returns when it listens; it may still be loading.
func (r *realRedis) start(more ...string) {
	r.t.Helper()
	args := append([]string{"--port", r.port, "--bind", "127.0.0.1", "--save", "", "--dir", r.dir}, more...)
	r.process = exec.Command("redis-server", args...)
	out, err := r.process.StdoutPipe()
	if err == nil {
		err = r.process.Start()
	}
	if err != nil {
		r.t.Fatalf("these tests need redis-server 7.0 or later on PATH: %v", err)
	}
	up := make(chan struct{})
	r.reading.Go(func() {
		told := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !told && strings.Contains(lines.Text(), "Server initialized") {
				told = true
				close(up)
			}
		}
	})
	select {
	case <-up:
	case <-time.After(patience):
		r.t.Fatal("redis-server does not start")
	}
}

func (r *realRedis) kill() {
	_ = r.process.Process.Kill() // an error is a process that has ended
	r.reading.Wait()
	_ = r.process.Wait()
}

func (r *realRedis) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.process.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// do runs a command, of words without spaces, once the server answers.
func (r *realRedis) do(command string) {
	r.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+r.port)
	if err == nil {
		defer func() { _ = conn.Close() }()
		err = errors.Join(conn.SetDeadline(time.Now().Add(patience)), write(conn, command))
	}
	var answer string
	if err == nil {
		answer, err = bufio.NewReader(conn).ReadString('\n')
	}
	if err != nil || strings.HasPrefix(answer, "-") {
		r.t.Fatalf("%s: %s, %v", command, answer, err)
	}
}

func write(conn net.Conn, line string) error {
	_, err := conn.Write([]byte(line + "\r\n"))
	return err
}

// live keeps a node's lease and routes as push does, until the test ends.
func (n *fake) live(addresses ...subject.Address) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	table, routed := n.w.table, false
	running.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			lost, err := table.Renew(ctx, n.id, 10*time.Second)
			if err == nil && (lost || !routed) {
				regs := make([]route.Registration, len(addresses))
				for i, a := range addresses {
					regs[i] = route.Registration{Address: a, Generation: 1}
				}
				routed = table.Register(ctx, n.id, regs) == nil
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	n.w.t.Cleanup(func() { cancel(); running.Wait() })
}

// head is the head of address 1 in Redis; 0 is unknown.
func (w *world) head() uint64 {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
	defer cancel()
	heads, err := w.table.Heads(ctx, []subject.Address{address(1)})
	if err != nil {
		return 0
	}
	return heads[0]
}

// routedOnly says whether one more message goes to the node that has its route, and to no other.
func (w *world) routedOnly(holder, other *fake) bool {
	w.log(address(1), `1`)
	entry := fmt.Sprint(address(1), "/", w.seqs[address(1)])
	w.drained()
	other.heard()
	return holder.has(entry) && !other.has(entry)
}

// Users keep receiving within 2 s whatever happens to Redis, those too whose node came while it was away; when it is
// back, everything is routed again without a restart, and no head is too low.
func TestUsersReceiveWithoutRedis(t *testing.T) {
	t.Parallel()
	faults := map[string]struct{ harm, heal func(*realRedis) }{
		"killed":    {func(r *realRedis) { r.kill() }, func(r *realRedis) { r.start() }},
		"paused":    {func(r *realRedis) { r.signal(syscall.SIGSTOP) }, func(r *realRedis) { r.signal(syscall.SIGCONT) }},
		"full":      {func(r *realRedis) { r.do("CONFIG SET maxmemory 1") }, func(r *realRedis) { r.do("CONFIG SET maxmemory 0") }},
		"read-only": {func(r *realRedis) { r.do("REPLICAOF 127.0.0.1 1") }, func(r *realRedis) { r.do("REPLICAOF NO ONE") }},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for clocks, not for the machine
			w := newWorld(t)
			redis := w.startRedis()
			holder := w.node("holder", false)
			holder.live(address(1))
			w.start(func(c *Config) { c.Redis = redis.url() })
			newcomer := w.node("newcomer", false) // holds the address as well, and could never tell Redis
			w.eventually("routed", func() bool { return w.routedOnly(holder, newcomer) })
			fault.harm(redis)
			worst := time.Duration(0)
			for range 8 {
				begun := time.Now()
				w.log(address(1), `1`)
				entry := fmt.Sprint(address(1), "/", w.seqs[address(1)])
				w.eventually(entry, func() bool { return holder.has(entry) && newcomer.has(entry) })
				worst = max(worst, time.Since(begun))
				<-time.After(300 * time.Millisecond)
			}
			if t.Logf("the slowest message took %s", worst); worst > 2*time.Second {
				t.Errorf("a message took %s", worst)
			}
			if name == "full" {
				w.eventually("a head that can't be raised is removed", func() bool { return w.head() == 0 })
			}
			owed := w.seqs[address(1)]
			fault.heal(redis)
			begun := time.Now()
			w.eventually("heads caught up", func() bool { return w.head() >= owed })
			w.eventually("routed again", func() bool { return w.routedOnly(holder, newcomer) })
			t.Logf("all well %s after the fault", time.Since(begun))
		})
	}
}

// After a flush a node that writes its routes again misses nothing: until it has, all nodes are asked, and what went to
// nobody before the flush was noticed is below a head.
func TestAFlushHidesNothing(t *testing.T) {
	w := newWorld(t)
	redis := w.startRedis()
	holder, other := w.node("holder", false), w.node("other", false)
	holder.live(address(1))
	r := w.start(func(c *Config) { c.Redis = redis.url() })
	w.eventually("routed", func() bool { return w.routedOnly(holder, other) })
	redis.do("FLUSHALL")
	noticed := func() bool { return r.log.count("gone back") > 0 }
	for !noticed() {
		w.log(address(1), `1`)
		w.drained()
		seq := w.seqs[address(1)]
		entry := fmt.Sprint(address(1), "/", seq)
		w.eventually(entry+" can be known of", func() bool { return holder.has(entry) || w.head() >= seq || noticed() })
	}
	w.log(address(1), `1`)
	entry := fmt.Sprint(address(1), "/", w.seqs[address(1)])
	w.eventually("asking all", func() bool { return holder.has(entry) && other.has(entry) })
	w.eventually("routed again", func() bool { return w.routedOnly(holder, other) })
}

// A Redis that comes back as it was some time ago, or slowly, has no head that is too low: it is raised or unknown. What
// it knows of nodes that died meanwhile holds nobody up.
func TestAnOlderRedisHidesNothing(t *testing.T) {
	w := newWorld(t)
	redis := w.startRedis()
	holder, other := w.node("holder", false), w.node("other", false)
	holder.live(address(1))
	dead := &fake{w: w, id: "dead"}
	dead.routes(address(1))
	r := w.start(func(c *Config) { c.Redis = redis.url() })
	w.eventually("routed", func() bool { return w.routedOnly(holder, other) })
	heads := make(map[subject.Address]uint64)
	for i := range 300 { // enough to load for some seconds
		heads[address(100+i)] = 7
	}
	if err := w.table.RaiseHeads(t.Context(), heads); err != nil {
		t.Fatal(err)
	}
	redis.do("SAVE")
	old, err := os.ReadFile(filepath.Join(redis.dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	was := w.seqs[address(1)]
	for range 5 { // more than a second: what is younger is not seen to be missing
		w.log(address(1), `1`)
		<-time.After(300 * time.Millisecond)
	}
	w.drained()
	before := w.seqs[address(1)]
	redis.kill()
	if err := os.WriteFile(filepath.Join(redis.dir, "dump.rdb"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	redis.start("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
	begun := time.Now()
	w.log(address(1), `1`)
	entry := fmt.Sprint(address(1), "/", before+1)
	w.eventually("sent while it loads", func() bool { return holder.has(entry) })
	t.Logf("sent after %s", time.Since(begun))
	w.eventually("noticed", func() bool { return r.log.count("gone back") > 0 })
	w.eventually("no head too low", func() bool {
		heads, err := w.table.Heads(t.Context(), []subject.Address{address(1), address(100)})
		return err == nil && (heads[0] == 0 || heads[0] > before) && heads[1] == 0
	})
	t.Logf("no head too low after %s; it was %d", time.Since(begun), was)
	w.eventually("routed again", func() bool { return w.routedOnly(holder, other) })
}
