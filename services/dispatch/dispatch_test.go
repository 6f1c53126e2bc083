package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait of these tests; nothing takes that long unless it is broken.
	patience = 60 * time.Second
	epoch    = "e1"
	// brief is a hop time-out for nodes that are silent on purpose; those that are well answer within it on a machine that
	// is busy, too.
	brief = time.Second
)

// address is the mailbox of user n.
func address(n int) subject.Address { return subject.UserAddress("default", fmt.Sprint("u", n)) }

// world is a fabric of one partition with a Redis, in which dispatches and nodes of the tests run.
type world struct {
	t     testing.TB
	nats  *embed.Server
	redis *embed.RedisServer
	table *route.Table
	nc    *nats.Conn
	js    jetstream.JetStream
	seqs  map[subject.Address]uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	server, err := embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	redis, err := embed.Redis(embed.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, nats: server, redis: redis, seqs: map[subject.Address]uint64{}}
	t.Cleanup(func() { w.stopRedis() })
	if w.table, err = route.Open("redis://"+redis.Addr(), epoch); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.table.Close() })
	w.nc = w.connect()
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	facts := fabric.Facts{Epoch: epoch, Partitions: 1}
	if err := fabric.Create(t.Context(), w.js, facts, fabric.Options{MaxPayload: w.nc.MaxPayload()}); err != nil {
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

func (w *world) connect() *nats.Conn {
	w.t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(w.nats.URL(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// running is a dispatch at work.
type running struct {
	*Service
	log  *lines
	stop func() // ends it and waits; the test fails if it did not end well
}

// silence is when a node that does not answer becomes suspect.
func silence(hop time.Duration) func(*Config) { return func(c *Config) { c.Hop = hop } }

func (w *world) start(change ...func(*Config)) *running {
	w.t.Helper()
	cfg := DefaultConfig()
	cfg.Redis = "redis://127.0.0.1:1"
	cfg.Hop = patience // a slow machine makes no node suspect; tests of silence say how long it takes
	if w.redis != nil {
		cfg.Redis = "redis://" + w.redis.Addr()
	}
	for _, c := range change {
		c(&cfg)
	}
	r := &running{log: new(lines)}
	s, err := New(cfg, w.connect(), slog.New(slog.NewTextHandler(r.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Service = s
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	w.t.Cleanup(r.stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		w.t.Fatal("dispatch is not ready")
	}
	return r
}

// lines is a log that a test can look into.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
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

// log puts the next message of an address into the log, as collect does.
func (w *world) log(to subject.Address, payload string) {
	w.t.Helper()
	w.seqs[to]++
	m := &message.Message{To: to, Seq: w.seqs[to], ID: fmt.Sprint(w.seqs[to]), ContentType: message.JSON, Payload: []byte(payload)}
	w.put(message.AppendEntry(nil, to, message.Entry{From: m.Seq, To: m.Seq, Message: m}), to)
}

func (w *world) put(data []byte, to subject.Address) {
	w.t.Helper()
	if _, err := w.js.Publish(w.t.Context(), subject.Msg(0, to), data); err != nil {
		w.t.Fatal(err)
	}
}

// unacknowledged is what dispatch has not finished of the log.
func (w *world) unacknowledged() int {
	w.t.Helper()
	c, err := w.js.Consumer(w.t.Context(), fabric.MsgStream(0), fabric.DispatchConsumer)
	if err != nil {
		w.t.Fatal(err)
	}
	info := c.CachedInfo()
	return int(info.NumPending) + info.NumAckPending
}

// delivered is how many messages of the log have been given to dispatch.
func (w *world) delivered() int {
	w.t.Helper()
	c, err := w.js.Consumer(w.t.Context(), fabric.MsgStream(0), fabric.DispatchConsumer)
	if err != nil {
		w.t.Fatal(err)
	}
	return int(c.CachedInfo().Delivered.Consumer)
}

func (w *world) drained() {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fabric.MsgStream(0))
	if err != nil {
		w.t.Fatal(err)
	}
	last := stream.CachedInfo().State.LastSeq
	w.eventually("everything acknowledged", func() bool {
		c, err := stream.Consumer(w.t.Context(), fabric.DispatchConsumer)
		if err != nil {
			w.t.Fatal(err)
		}
		// Beside a reset of the consumer the server may say for a moment that nothing is pending.
		return c.CachedInfo().AckFloor.Stream >= last && w.unacknowledged() == 0
	})
}

// fake is a push node that writes down what it is told.
type fake struct {
	w    *world
	nc   *nats.Conn
	id   string
	subs []*nats.Subscription

	mu     sync.Mutex // protects what follows
	frames [][]message.Addressed
	orders []node.Op
	came   map[string]time.Time // when each entry came first
	dumb   bool                 // it answers nothing
	deaf   bool                 // it answers no frames
	hold   <-chan struct{}      // frames are answered when it is closed
	forget bool                 // frames are not written down
	fates  map[string]node.Fate // of what is replayed; sent where it names none
	runs   string               // the replay that came last
}

// node starts a node that listens; with a lease if it is leased, and the routes of the addresses.
func (w *world) node(id string, leased bool, addresses ...subject.Address) *fake {
	w.t.Helper()
	n := &fake{w: w, id: id, came: make(map[string]time.Time)}
	nc := w.connect()
	n.nc = nc
	for subj, handle := range map[string]nats.MsgHandler{subject.Node(id): n.frame, subject.NodeControl(id): n.order, subject.Nodes: n.frame} {
		sub, err := nc.Subscribe(subj, handle)
		if err != nil {
			w.t.Fatal(err)
		}
		n.subs = append(n.subs, sub)
	}
	if err := nc.Flush(); err != nil {
		w.t.Fatal(err)
	}
	if leased {
		if _, err := w.table.Renew(w.t.Context(), id, time.Minute); err != nil {
			w.t.Fatal(err)
		}
	}
	n.routes(addresses...)
	return n
}

func (n *fake) routes(addresses ...subject.Address) {
	n.w.t.Helper()
	regs := make([]route.Registration, len(addresses))
	for i, a := range addresses {
		regs[i] = route.Registration{Address: a, Generation: 1}
	}
	if err := n.w.table.Register(n.w.t.Context(), n.id, regs); err != nil {
		n.w.t.Fatal(err)
	}
}

func (n *fake) frame(m *nats.Msg) {
	entries, err := message.DecodeEntries(m.Data)
	if err != nil {
		n.w.t.Error(err)
	}
	n.mu.Lock()
	if !n.forget {
		n.frames = append(n.frames, entries)
	}
	for _, e := range entries {
		entry := fmt.Sprintf("%s/%d", e.To, e.From)
		if _, before := n.came[entry]; !before && !n.forget {
			n.came[entry] = time.Now()
		}
	}
	dumb, hold := n.dumb || n.deaf, n.hold
	answer := n.replayed(m, entries)
	n.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if !dumb && m.Reply != "" {
		_ = m.Respond(answer)
	}
}

// replayed is the answer to a frame, which says something only of a replay. n.mu is held.
func (n *fake) replayed(m *nats.Msg, entries []message.Addressed) []byte {
	run := m.Header.Get(node.HeaderReplay)
	if run == "" {
		return nil
	}
	n.runs = run
	var r node.Replayed
	for _, e := range entries {
		fate, told := n.fates[fmt.Sprintf("%s/%d", e.To, e.From)]
		if !told {
			fate = node.FateSent
		}
		r.Fates = append(r.Fates, fate)
	}
	body, err := json.Marshal(r)
	if err != nil {
		n.w.t.Error(err)
	}
	return body
}

func (n *fake) order(m *nats.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var o node.Order
	if err := json.Unmarshal(m.Data, &o); err != nil {
		n.w.t.Error(err)
	}
	n.orders = append(n.orders, o.Op)
	if !n.dumb {
		_ = m.Respond(nil)
	}
}

func (n *fake) set(dumb bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dumb = dumb
}

func (n *fake) told(op node.Op) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(n.orders, op)
}

// got is every entry that came, in order, as address and sequence.
func (n *fake) got() (all []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.frames {
		for _, e := range f {
			all = append(all, fmt.Sprintf("%s/%d", e.To, e.From))
		}
	}
	return all
}

// heard waits until the node has dealt with everything that was sent to it before, what it needs not answer too.
func (n *fake) heard() {
	n.w.t.Helper()
	done := make(chan struct{})
	if err := errors.Join(n.nc.FlushTimeout(patience), n.nc.Barrier(func() { close(done) })); err != nil {
		n.w.t.Fatal(err)
	}
	<-done
}

func (n *fake) has(entry string) bool {
	return slices.Contains(n.got(), entry)
}

// framed is how many frames came.
func (n *fake) framed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.frames)
}
