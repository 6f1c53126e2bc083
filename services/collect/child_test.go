package collect

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/message"
)

// Some tests need another process: one that can be killed, and one that holds the lock of the archive's file. They run
// this test binary with a role in its environment.
const (
	childRole = "WEFT_TEST_CHILD"
	roleLock  = "lock"  // holds the write lock of the archive until its standard input ends
	roleOwner = "owner" // a collect, until SIGTERM
	// deadly is a payload that kills the process that archives it.
	deadly = `"deadly"`
	// hangs is what is behind the name of an archive in the name of the file that makes it hang.
	hangs = "-hangs"
)

func beChild(role string) int {
	run := map[string]func() error{roleLock: beLock, roleOwner: beOwner}[role]
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		return 1
	}
	return 0
}

// beLock takes the lock that BEGIN IMMEDIATE takes of a database in WAL mode: byte 120 of its -shm file.
func beLock() error {
	f, err := os.OpenFile(os.Getenv("WEFT_TEST_ARCHIVE")+"-shm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: 120, Len: 1}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &lock); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, "held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// mortal is an archive that kills the process when it is to store what is deadly, and that hangs while there is a file
// beside it named so.
type mortal struct {
	archive.Archive
	hangs string
}

func (m mortal) hang(ctx context.Context) {
	if _, err := os.Stat(m.hangs); err == nil {
		<-ctx.Done()
	}
}

func (m mortal) Ping(ctx context.Context) error {
	m.hang(ctx)
	return m.Archive.Ping(ctx)
}

func (m mortal) Append(ctx context.Context, p int, batch []*message.Message, heads archive.Heads) ([]archive.Outcome, error) {
	m.hang(ctx)
	for _, one := range batch {
		if string(one.Payload) == deadly {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	return m.Archive.Append(ctx, p, batch, heads)
}

func beOwner() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(os.Getenv("WEFT_TEST_NATS"), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		return err
	}
	defer nc.Close()
	file := os.Getenv("WEFT_TEST_ARCHIVE")
	a, err := sqlite.Open(ctx, file, archive.Facts{Partitions: 1})
	if err != nil {
		return err
	}
	cfg := DefaultConfig()
	cfg.Listen, cfg.Partitions, cfg.Redis = "", 1, os.Getenv("WEFT_TEST_REDIS")
	s, err := New(cfg, nc, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	go func() {
		<-s.Ready()
		_, _ = fmt.Fprintln(os.Stdout, s.id)
	}()
	return s.runOn(ctx, mortal{a, file + hangs})
}

// child is such a process.
type child struct {
	process *os.Process
	gone    chan struct{}
	said    string // its first line: of an owner its instance
	close   func() // of its standard input
}

// spawn starts one and waits until it says that it is at work.
func (w *world) spawn(role string) *child {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(w.t.Context()), self)
	redis := url.URL{Scheme: "redis", Host: w.redis.Addr()}
	cmd.Env = append(os.Environ(), childRole+"="+role, "WEFT_TEST_NATS="+w.nats.URL(), "WEFT_TEST_ARCHIVE="+w.file, "WEFT_TEST_REDIS="+redis.String())
	cmd.Stderr = childLog{w.t}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	c := &child{process: cmd.Process, gone: make(chan struct{}), close: func() { _ = in.Close() }}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		w.t.Errorf("the child says nothing: %v", err)
	}
	c.said = strings.TrimSpace(said)
	go func() { // the test waits for it: see the cleanup
		_ = cmd.Wait() // killed
		close(c.gone)
	}()
	w.t.Cleanup(c.kill)
	return c
}

// kill is kill -9; it waits for the end.
func (c *child) kill() {
	_ = c.process.Kill() // it may be gone
	<-c.gone
}

// childLog puts what a child logs into the test's output.
type childLog struct{ t testing.TB }

func (l childLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// lock holds the write lock of the archive in another process until unlock is called.
func (w *world) lock() (unlock func()) {
	w.t.Helper()
	c := w.spawn(roleLock)
	return func() {
		c.close()
		<-c.gone
	}
}
