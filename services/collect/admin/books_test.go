package admin

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// books is an archive and a log of one partition, which a test writes as collect does, and a desk that looks at them.
type books struct {
	t    testing.TB
	file string // of the archive
	js   jetstream.JetStream
	rows int // of a page, where the test wants small ones
	// owner is what the partition's owner says to a request that is none.
	owner  atomic.Pointer[problem.Problem]
	owning *nats.Subscription
	*Desk
}

func newBooks(t testing.TB) *books {
	t.Helper()
	server, err := embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: 1})
	must(t, err)
	t.Cleanup(server.Stop)
	b := &books{t: t, file: filepath.Join(t.TempDir(), "archive.db")}
	closed := make(chan struct{})
	nc, err := nats.Connect(server.URL(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	must(t, err)
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	b.js, err = jetstream.New(nc)
	must(t, err)
	b.owner.Store(problem.New(problem.BadRequest, "not a message")) // it is through with all that came before
	b.owning, err = nc.Subscribe(subject.Collect(0), func(m *nats.Msg) { _ = m.RespondMsg(rpc.Refusal(b.owner.Load())) })
	must(t, err)
	a, err := sqlite.Open(t.Context(), b.file, archive.Facts{Partitions: 1})
	must(t, err)
	t.Cleanup(func() { _ = a.Close() })
	must(t, fabric.Create(t.Context(), b.js, fabric.Facts{Epoch: a.Facts().Epoch, Partitions: 1}, fabric.Options{MaxPayload: nc.MaxPayload()}))
	b.Desk = New(Deps{
		Instance: "collect-1", NATS: nc, JS: b.js, Archive: a, Log: slog.New(slog.DiscardHandler),
		Policy: archive.Policy{Retention: 30 * 24 * time.Hour, MinAge: 24 * time.Hour}, Owns: func() []int { return []int{0} },
	})
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func person(id string) subject.Address { return subject.UserAddress("default", id) }

// archived archives messages, all as new.
func (b *books) archived(messages ...*message.Message) {
	b.t.Helper()
	for some := range slices.Chunk(messages, 500) {
		_, err := b.Archive.Append(b.t.Context(), 0, some, nil)
		must(b.t, err)
	}
}

// logged writes messages to the log, as collect does; again: although it knows them.
func (b *books) logged(again string, messages ...*message.Message) {
	b.t.Helper()
	for some := range slices.Chunk(messages, 1000) {
		acks := make([]jetstream.PubAckFuture, len(some))
		for i, m := range some {
			var err error
			acks[i], err = b.js.PublishMsgAsync(&nats.Msg{
				Subject: subject.Msg(0, m.To),
				Header:  nats.Header{jetstream.MsgIDHeader: {fmt.Sprintf("%s/%d%s", m.To.Tokens(), m.Seq, again)}},
				Data:    message.AppendEntry(nil, m.To, message.Entry{From: m.Seq, To: m.Seq, Message: m}),
			})
			must(b.t, err)
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				b.t.Fatal(err)
			}
		}
	}
}

// sent archives messages and writes them to the log.
func (b *books) sent(messages ...*message.Message) {
	b.t.Helper()
	b.archived(messages...)
	b.logged("", messages...)
}

func note(to subject.Address, id string) *message.Message {
	return &message.Message{To: to, ID: id, ContentType: message.JSON, At: time.Now().UnixMilli(), Payload: []byte(`{}`)}
}

// notes are n messages, to users in turn.
func notes(n, users int) []*message.Message {
	all := make([]*message.Message, n)
	for i := range all {
		all[i] = note(person(fmt.Sprintf("u%d", i%users)), fmt.Sprintf("id-%d", i))
	}
	return all
}

func (b *books) acked(device string, m *message.Message, at time.Time) {
	b.t.Helper()
	must(b.t, b.Archive.Advance(b.t.Context(), []history.Cursor{{
		Tenant: m.To.Tenant, User: m.To.ID, Device: device, Address: m.To.Tokens(), Seq: m.Seq, At: at.UnixMilli(), Node: "node-1",
	}}))
}

func (b *books) opened(user, device string) {
	b.t.Helper()
	to := subject.UserAddress("default", user)
	_, err := b.Archive.Open(b.t.Context(), history.OpenRequest{Tenant: "default", User: user, Device: device, Addresses: []string{to.Tokens()}})
	must(b.t, err)
}

// exec changes the archive behind its back. All that was archived becomes as old as it has to be to be judged.
func (b *books) exec(statement string, args ...any) {
	b.t.Helper()
	db, err := sql.Open("sqlite", "file:"+b.file+"?_pragma=busy_timeout(10000)")
	must(b.t, err)
	defer func() { must(b.t, db.Close()) }()
	_, err = db.ExecContext(b.t.Context(), statement, args...)
	must(b.t, err)
}

// aside puts a message into quarantine as collect does.
func (b *books) aside(to subject.Address, header nats.Header, partition int) {
	b.t.Helper()
	packed, data := quarantine.Pack(header, []byte("not JSON"))
	packed.Set(quarantine.HeaderReason, string(problem.BadJSON))
	packed.Set(quarantine.HeaderDetail, "the payload is not JSON")
	packed.Set(quarantine.HeaderSubject, subject.InPartition(partition, to))
	_, err := b.js.PublishMsg(b.t.Context(), &nats.Msg{Subject: subject.Quarantine(problem.BadJSON, to.Tokens()), Header: packed, Data: data})
	must(b.t, err)
}

// logStream is the partition's log.
func (b *books) logStream() jetstream.Stream {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), fabric.MsgStream(0))
	must(b.t, err)
	return stream
}

// purged removes a message from the log.
func (b *books) purged(m *message.Message) {
	b.t.Helper()
	stream := b.logStream()
	for at := uint64(1); ; at++ {
		raw, err := stream.GetMsg(b.t.Context(), at, jetstream.WithGetMsgSubject(subject.Msg(0, m.To)))
		must(b.t, err)
		at = raw.Sequence
		entries, err := message.DecodeEntries(raw.Data)
		must(b.t, err)
		if entries[0].From == m.Seq {
			must(b.t, stream.DeleteMsg(b.t.Context(), at))
			return
		}
	}
}

// audited adds up all pages of an audit in which everything is old enough.
func (b *books) audited(change ...func(*admin.AuditRequest)) *admin.AuditPage {
	b.t.Helper()
	sum, pages := new(admin.AuditPage), 0
	q := admin.AuditRequest{Since: time.Now().Add(-time.Hour).UnixMilli()}
	for _, c := range change {
		c(&q)
	}
	for {
		page := b.page(q)
		sum.Breaks = append(sum.Breaks, page.Breaks...)
		sum.Broken += page.Broken
		sum.Logged += page.Logged
		sum.Incoming += page.Incoming
		sum.UnderWay += page.UnderWay
		sum.Addresses = max(sum.Addresses, page.Addresses)
		s, p := &sum.Balance, page.Balance
		s.Accepted, s.Delivered, s.Pending = s.Accepted+p.Accepted, s.Delivered+p.Delivered, s.Pending+p.Pending
		s.Expired, s.Superseded = s.Expired+p.Expired, s.Superseded+p.Superseded
		s.Quarantined, s.Deleted = s.Quarantined+p.Quarantined, s.Deleted+p.Deleted
		if pages++; page.Next == "" {
			return sum
		}
		if q.After = page.Next; pages > 1000 {
			b.t.Fatal("the audit has no end")
		}
	}
}

// page is one page of an audit, as of a time when all that there is now is old enough.
func (b *books) page(q admin.AuditRequest) *admin.AuditPage {
	b.t.Helper()
	a, err := b.auditing(q, time.Now().Add(auditYoung+time.Millisecond))
	must(b.t, err)
	if b.rows > 0 {
		a.rows, a.chunk = b.rows, b.rows/2+1
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	page, err := a.run(ctx, q)
	must(b.t, err)
	return page
}

// found are the breaks of an audit: what, address, sequence and id.
func found(page *admin.AuditPage) []string {
	var all []string
	for _, x := range page.Breaks {
		all = append(all, fmt.Sprintf("%s %s %d %s", x.What, x.To, x.Seq, x.ID))
		if strings.TrimSpace(x.Message) == "" {
			all = append(all, "without a sentence")
		}
	}
	slices.Sort(all)
	return all
}
