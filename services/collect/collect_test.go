package collect

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(beChild(role))
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of these tests; nothing takes that long unless it is broken.
const patience = 20 * time.Second

var alice = subject.UserAddress("default", "alice")

// world is a fabric of one partition, with servers of its own, in which collects run.
type world struct {
	t       testing.TB
	nats    *embed.Server
	dir     string // of the server
	file    string // of the archive
	redis   *embed.RedisServer
	nc      *nats.Conn
	js      jetstream.JetStream
	archive *faulty
	dial    func() *nats.Conn // for collects
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, embed.NATSOptions{Dir: t.TempDir(), Partitions: 1})
}

// newWorldOn is a world with another NATS.
func newWorldOn(t testing.TB, o embed.NATSOptions) *world {
	t.Helper()
	server, err := embed.NATS(o)
	if err != nil {
		t.Fatal(err)
	}
	redis, err := embed.Redis(embed.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, nats: server, dir: o.Dir, redis: redis}
	t.Cleanup(func() { w.nats.Stop() })
	t.Cleanup(func() { w.stopRedis() })
	w.file = filepath.Join(t.TempDir(), "archive.db")
	a, err := sqlite.Open(t.Context(), w.file, archive.Facts{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	w.archive = &faulty{Archive: a}
	w.nc, w.dial = w.connect(), w.connect
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) stopRedis() {
	if w.redis != nil {
		w.redis.Stop()
		w.redis = nil
	}
}

// restart stops NATS and starts it again, with its data, where it was.
func (w *world) restart() {
	w.t.Helper()
	w.restartAfter(func() {})
}

// restartAfter does something while NATS is stopped.
func (w *world) restartAfter(meanwhile func()) {
	w.t.Helper()
	u, err := url.Parse(w.nats.URL())
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		w.t.Fatal(err)
	}
	w.nats.Stop()
	meanwhile()
	server, err := embed.NATS(embed.NATSOptions{Dir: w.dir, Port: port, Partitions: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	w.nats = server
	w.eventually("connected again", func() bool { return w.nc.IsConnected() && w.nc.FlushTimeout(time.Second) == nil })
}

func (w *world) connect() *nats.Conn {
	w.t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(w.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// running is a collect at work.
type running struct {
	*Service
	log  *lines
	stop func() // ends it and waits; the test fails if it did not end well
}

// start runs a collect on the world's archive, and waits until its doors are open.
func (w *world) start(change ...func(*Config)) *running {
	w.t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Partitions, cfg.Redis = "", 1, "redis://127.0.0.1:1"
	if w.redis != nil {
		cfg.Redis = "redis://" + w.redis.Addr()
	}
	for _, c := range change {
		c(&cfg)
	}
	r := &running{log: new(lines)}
	s, err := New(cfg, w.dial(), slog.New(slog.NewTextHandler(r.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Service = s
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.runOn(ctx, w.archive); err != nil {
			w.t.Error(err)
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	w.t.Cleanup(r.stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		w.t.Fatal("collect is not ready")
	}
	return r
}

// lines is a log that a test can wait for.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

// eventually waits until ok says so.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-look.C:
		case <-late:
			w.t.Fatalf("after %s: not %s", patience, what)
		}
	}
}

// faulty is an archive whose appends a test can disturb.
type faulty struct {
	archive.Archive

	mu      sync.Mutex // protects what follows
	before  func(ctx context.Context) error
	after   func(ctx context.Context) error
	pings   func(ctx context.Context) error
	refuse  func(*message.Message) error // fails the batch that the message is in
	appends int
}

func (f *faulty) disturb(before, after func(ctx context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *faulty) disturbPings(before func(ctx context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pings = before
}

func (f *faulty) Append(ctx context.Context, partition int, batch []*message.Message, heads archive.Heads) ([]archive.Outcome, error) {
	f.mu.Lock()
	before, after, refuse := f.before, f.after, f.refuse
	f.appends++
	f.mu.Unlock()
	for _, m := range batch {
		if refuse == nil {
			break
		}
		if err := refuse(m); err != nil {
			return nil, err
		}
	}
	if before != nil {
		if err := before(ctx); err != nil {
			return nil, err
		}
	}
	outcomes, err := f.Archive.Append(ctx, partition, batch, heads)
	if err == nil && after != nil {
		err = after(ctx)
	}
	return outcomes, err
}

// Ping fails where appends do.
func (f *faulty) Ping(ctx context.Context) error {
	f.mu.Lock()
	before := f.pings
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return err
		}
	}
	return f.Archive.Ping(ctx)
}

func (f *faulty) tried() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.appends
}

// down makes every append fail until the returned function is called.
func (f *faulty) down() (up func()) {
	fail := func(context.Context) error { return fmt.Errorf("the archive is down") }
	f.disturb(fail, nil)
	f.disturbPings(fail)
	return func() { f.disturb(nil, nil); f.disturbPings(nil) }
}

// header makes headers of names and values.
func header(pairs ...string) nats.Header {
	h := nats.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

// publish puts a message into the stream door.
func (w *world) publish(subj, payload string, pairs ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if _, err := w.js.PublishMsg(ctx, &nats.Msg{Subject: subj, Header: header(pairs...), Data: []byte(payload)}); err != nil {
		w.t.Fatalf("publish to %s: %v", subj, err)
	}
}

// request puts a message into the request door.
func (w *world) request(subj, payload string, pairs ...string) (*message.Receipt, *problem.Problem) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	reply, err := rpc.Send(ctx, w.nc, &nats.Msg{Subject: subj, Header: header(pairs...), Data: []byte(payload)})
	if err != nil {
		return nil, problem.From(err)
	}
	return decode[message.Receipt](w.t, reply.Data), nil
}

// archived requests until the message is archived: at first nobody may own the partition.
func (w *world) archived(subj, payload string, pairs ...string) *message.Receipt {
	w.t.Helper()
	named := func(name string) bool {
		return slices.Contains([]string{message.HeaderID, "Nats-Msg-Id", "ce-id"}, name)
	}
	if !slices.ContainsFunc(pairs, named) { // an owner who ends may have archived what he did not answer
		pairs = append(slices.Clone(pairs), message.HeaderID, rand.Text())
	}
	var receipt *message.Receipt
	w.eventually("archived", func() bool {
		var p *problem.Problem
		receipt, p = w.request(subj, payload, pairs...)
		if p != nil && !p.Retry {
			w.t.Fatal(p)
		}
		return p == nil
	})
	return receipt
}

// stored is everything that a stream holds, in order.
func (w *world) stored(stream string) []*jetstream.RawStreamMsg {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	state := s.CachedInfo().State
	var all []*jetstream.RawStreamMsg
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := s.GetMsg(w.t.Context(), seq)
		if err == nil {
			all = append(all, m)
		}
	}
	return all
}

// count is how many messages a stream holds.
func (w *world) count(stream string) int {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// logged waits until the log holds n messages and returns them.
func (w *world) logged(n int) []*message.Message {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%d messages in the log", n), func() bool { return w.count(fabric.MsgStream(0)) >= n })
	all := w.logEntries()
	if len(all) != n {
		w.t.Fatalf("%d messages in the log, not %d", len(all), n)
	}
	return all
}

// logEntries is what the log holds.
func (w *world) logEntries() []*message.Message {
	w.t.Helper()
	var all []*message.Message
	for _, raw := range w.stored(fabric.MsgStream(0)) {
		entries, err := message.DecodeEntries(raw.Data)
		if err != nil || len(entries) != 1 {
			w.t.Fatalf("%d entries, %v", len(entries), err)
		}
		all = append(all, entries[0].Message)
	}
	return all
}

// drained waits until a stage has acknowledged everything that came in.
func (w *world) drained() {
	w.t.Helper()
	w.eventually("everything acknowledged", func() bool { return w.count(fabric.InStream(0)) == 0 })
}

// head is what Redis says of an address.
func (w *world) head(to subject.Address) uint64 {
	w.t.Helper()
	table, err := route.Open("redis://"+w.redis.Addr(), w.archive.Facts().Epoch)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = table.Close() }()
	heads, err := table.Heads(w.t.Context(), []subject.Address{to})
	if err != nil {
		w.t.Fatal(err)
	}
	return heads[0]
}

// setLog changes the log's configuration.
func (w *world) setLog(change func(*jetstream.StreamConfig)) {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), fabric.MsgStream(0))
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	change(&cfg)
	if _, err := w.js.UpdateStream(w.t.Context(), cfg); err != nil {
		w.t.Fatal(err)
	}
}

// fillLog makes the log refuse every message until the returned function is called.
func (w *world) fillLog() (free func()) {
	w.t.Helper()
	w.setLog(func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 1, jetstream.DiscardNew })
	return func() {
		w.setLog(func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = -1, jetstream.DiscardOld })
	}
}

// TestAServerThatTakesTooSmallMessagesEndsTheStart: pages and frames would not fit; somebody must change it.
func TestAServerThatTakesTooSmallMessagesEndsTheStart(t *testing.T) {
	small, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 64 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	small.Start()
	t.Cleanup(func() { small.Shutdown(); small.WaitForShutdown() })
	if !small.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	w := newWorld(t)
	nc, err := nats.Connect(small.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Redis = "", "redis://"+w.redis.Addr()
	s, err := New(cfg, nc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.runOn(ctx, w.archive); !errors.Is(err, &problem.Problem{Code: problem.Unsupported}) || !strings.Contains(err.Error(), "max_payload is 65536") {
		t.Errorf("it ended with %v", err)
	}
}

// TestAnAddressThatNamesNoArchiveEndsTheStart: waiting for it would be for ever.
func TestAnAddressThatNamesNoArchiveEndsTheStart(t *testing.T) {
	for _, address := range []string{"", "weft.db", "sqlite:", "postgres://127.0.0.1/weft", "mongodb://", "mongodb://127.0.0.1:port/weft"} {
		if a, err := Open(t.Context(), address, archive.Facts{Partitions: 1}); !errors.Is(err, archive.ErrAddress) {
			t.Errorf("%q: %v, %v", address, a, err)
		}
	}
}
