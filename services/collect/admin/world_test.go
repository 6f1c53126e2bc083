package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; nothing takes that long unless it is broken.
const patience = time.Minute

// partitions of the tests' fabrics.
const partitions = 2

// world is a fabric in which only a desk is at work: what the other services do is done by the tests.
type world struct {
	t       testing.TB
	nats    *embed.Server
	redis   *embed.RedisServer
	nc      *nats.Conn
	js      jetstream.JetStream
	file    string // of the archive
	archive *faulty
	table   *route.Table
	desk    *Desk
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, file: filepath.Join(t.TempDir(), "archive.db")}
	var err error
	w.nats, err = embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: partitions})
	w.must(err)
	t.Cleanup(w.nats.Stop)
	w.redis, err = embed.Redis(embed.RedisOptions{})
	w.must(err)
	t.Cleanup(func() { w.stopRedis() })
	a, err := sqlite.Open(t.Context(), w.file, archive.Facts{Partitions: partitions})
	w.must(err)
	t.Cleanup(func() { w.must(a.Close()) })
	w.archive = &faulty{Archive: a}
	closed := make(chan struct{})
	w.nc, err = nats.Connect(w.nats.URL(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	w.must(err)
	t.Cleanup(func() { w.nc.Close(); <-closed })
	w.js, err = jetstream.New(w.nc)
	w.must(err)
	facts := a.Facts()
	w.must(fabric.Create(t.Context(), w.js, fabric.Facts{Epoch: facts.Epoch, Partitions: partitions}, fabric.Options{MaxPayload: w.nc.MaxPayload()}))
	w.table, err = route.Open("redis://"+w.redis.Addr(), facts.Epoch)
	w.must(err)
	t.Cleanup(func() { _ = w.table.Close() })
	w.desk = New(Deps{
		Instance: "desk", NATS: w.nc, JS: w.js, Archive: w.archive, Table: w.table, Log: slog.New(slog.DiscardHandler), Replicas: 1,
		Owns: func() []int { return []int{0, 1} }, Concurrently: func(h micro.HandlerFunc) micro.HandlerFunc { return h },
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stopRedis() {
	if w.redis != nil {
		w.redis.Stop()
		w.redis = nil
	}
}

// serve opens the desk's endpoints, with the time limits that they have.
func (w *world) serve() {
	w.t.Helper()
	m, err := w.desk.Serve(w.t.Context())
	w.must(err)
	w.t.Cleanup(func() { w.must(m.Stop()) })
}

// ask asks an endpoint.
func ask[A any](w *world, endpoint string, question any) (answer A, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	err = rpc.Ask(ctx, w.nc, subject.Admin(endpoint), question, &answer)
	return answer, err
}

// user is the n-th user of the tests, of one partition after the other.
func user(n int) subject.Address { return subject.UserAddress("default", fmt.Sprintf("user-%d", n)) }

// userOf is a user whose mailbox is in a partition.
func userOf(p, n int) subject.Address {
	for i := 0; ; i++ {
		if to := subject.UserAddress("default", fmt.Sprintf("user-%d-%d", n, i)); subject.Partition(to, partitions) == p {
			return to
		}
	}
}

// store archives messages, some milliseconds after all that were stored before.
func (w *world) store(messages ...*message.Message) []*message.Message {
	w.t.Helper()
	w.tick()
	stored := make([]*message.Message, len(messages))
	for i, m := range messages {
		m.At, m.ContentType = time.Now().UnixMilli(), message.JSON
		if m.Payload == nil {
			m.Payload = []byte(`"` + m.ID + `"`)
		}
		outcomes, err := w.archive.Append(w.t.Context(), subject.Partition(m.To, partitions), []*message.Message{m}, archive.Heads{})
		w.must(err)
		stored[i] = outcomes[0].Message
	}
	w.tick()
	return stored
}

// tick waits until the clock's millisecond is another.
func (w *world) tick() {
	w.t.Helper()
	now := time.Now().UnixMilli()
	w.eventually("later", func() bool { return time.Now().UnixMilli() > now })
}

// log publishes messages to their partitions' logs, in their order.
func (w *world) log(messages ...*message.Message) {
	w.t.Helper()
	for _, m := range messages {
		_, err := w.js.Publish(w.t.Context(), subject.Msg(subject.Partition(m.To, partitions), m.To),
			message.AppendEntry(nil, m.To, message.Entry{From: m.Seq, To: m.Seq, Message: m}))
		w.must(err)
	}
}

// publish stores and logs n messages to an address.
func (w *world) publish(to subject.Address, n int) []*message.Message {
	w.t.Helper()
	var messages []*message.Message
	heads, err := w.archive.Heads(w.t.Context(), []subject.Address{to})
	w.must(err)
	for i := range n {
		messages = append(messages, &message.Message{To: to, ID: fmt.Sprintf("%s/%d", to.ID, int(heads[to])+i+1)})
	}
	stored := w.store(messages...)
	w.log(stored...)
	return stored
}

// know stores a place for a device of a user, who may have had messages before.
func (w *world) know(to subject.Address, device string) {
	w.t.Helper()
	_, err := w.archive.Open(w.t.Context(), history.OpenRequest{Tenant: to.Tenant, User: to.ID, Device: device, Addresses: []string{to.Tokens()}})
	w.must(err)
}

// ack acknowledges what a user has up to a sequence.
func (w *world) ack(to subject.Address, device string, seq uint64) {
	w.t.Helper()
	w.know(to, device)
	w.must(w.archive.Advance(w.t.Context(), []history.Cursor{{Tenant: to.Tenant, User: to.ID, Device: device, Address: to.Tokens(), Seq: seq, At: time.Now().UnixMilli()}}))
}

// connect lets Redis say that a user's device is connected at a node.
func (w *world) connect(to subject.Address, device, at string) {
	w.t.Helper()
	_, err := w.table.Renew(w.t.Context(), at, time.Minute)
	w.must(err)
	_, err = w.table.Hold(w.t.Context(), []route.Claim{{User: to, Device: device, Holder: at + "/session", Write: true}})
	w.must(err)
}

// eventually waits until ok says so.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	look := time.NewTicker(time.Millisecond)
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

// recorded are the records of an action, the newest first.
func (w *world) recorded(action string) []admin.Record {
	w.t.Helper()
	answer, err := w.desk.records(w.t.Context(), admin.RecordsRequest{Action: action})
	w.must(err)
	return answer.Records
}

var errFault = errors.New("as the test wants")

// faulty is an archive that fails when a test wants it.
type faulty struct {
	archive.Archive

	mu      sync.Mutex // protects what follows
	records func(admin.Record) error
}

func (f *faulty) Record(ctx context.Context, r admin.Record) error {
	f.mu.Lock()
	fail := f.records
	f.mu.Unlock()
	if fail != nil {
		if err := fail(r); err != nil {
			return err
		}
	}
	return f.Archive.Record(ctx, r)
}

func (f *faulty) failRecords(fail func(admin.Record) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records = fail
}

// opening asks where a device of a user stands in another mailbox.
func opening(user subject.Address, device string, in subject.Address) history.OpenRequest {
	return history.OpenRequest{Tenant: user.Tenant, User: user.ID, Device: device, Addresses: []string{in.Tokens()}}
}

// storeAtOnce archives messages to one address, and does not log them.
func (w *world) storeAtOnce(messages []*message.Message) {
	w.t.Helper()
	for _, m := range messages {
		m.At, m.ContentType, m.Payload = time.Now().UnixMilli(), message.JSON, []byte(`1`)
	}
	_, err := w.archive.Append(w.t.Context(), subject.Partition(messages[0].To, partitions), messages, archive.Heads{})
	w.must(err)
}
