package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const epoch = "e1"

var (
	alice = subject.UserAddress("default", "alice")
	news  = subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}
	all   = subject.Address{Tenant: "default", Kind: subject.All}
)

// wire is any object of a push node, with its bytes.
type wire struct {
	T     string             `json:"t"`
	Ch    string             `json:"ch"`
	Seq   uint64             `json:"seq"`
	From  uint64             `json:"from"`
	To    uint64             `json:"to"`
	Why   message.Why        `json:"why"`
	Code  string             `json:"code"`
	Boxes map[string]boxInfo `json:"mailboxes"`
	raw   []byte
}

type boxInfo = protocol.Mailbox

func parse(t testing.TB, raw []byte) wire {
	t.Helper()
	o := wire{raw: raw}
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return o
}

// paper is a transport that writes everything down.
type paper struct {
	t       testing.TB
	mu      sync.Mutex // protects the rest
	objects []wire
	codes   []protocol.CloseCode
	asked   []uint32
	cuts    int
	stuck   chan struct{} // writes wait for it, where there is one
	broken  error         // what writes fail with
}

func (p *paper) Write(objects [][]byte) error {
	p.mu.Lock()
	stuck := p.stuck
	p.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range objects {
		p.objects = append(p.objects, parse(p.t, bytes.Clone(o)))
	}
	return p.broken
}

func (p *paper) Ask(number uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, number)
	return p.broken
}

func (p *paper) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts++
}

func (p *paper) Close(code protocol.CloseCode, _ string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.codes = append(p.codes, code)
}

// take returns what was written since the last call.
func (p *paper) take() []wire {
	p.mu.Lock()
	defer p.mu.Unlock()
	objects := p.objects
	p.objects = nil
	return objects
}

func (p *paper) closed() []protocol.CloseCode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]protocol.CloseCode(nil), p.codes...)
}

// bench is a node without a network: its sessions write on paper, its fills are done by the test.
type bench struct {
	t       testing.TB
	node    *Service
	archive *model
	broken  bool // reads fail
}

func newBench(t testing.TB, window int) *bench {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Window = window
	n, err := New(cfg, nil, slog.New(slog.DiscardHandler))
	must(t, err)
	n.epoch = epoch
	n.acks = newAcknowledger(n.id, epoch, nil, nil, n.faults)
	n.pulse.clock = func() (time.Time, time.Duration) { return time.Time{}, 0 } // it runs, whatever the test's own clock says
	n.pulse.last.Store(&beat{})
	return &bench{t: t, node: n, archive: newModel()}
}

// session opens a session whose lanes begin at the cursors.
func (b *bench) session(device string, cursors map[subject.Address]uint64) (*session, *paper) {
	p := &paper{t: b.t}
	who := &identity.Identity{Tenant: "default", User: "alice", Topics: []string{"*"}, Expires: time.Now().Add(time.Hour).UnixMilli()}
	s := b.node.newSession(alice, device, p, time.Now(), who)
	for to, cursor := range cursors {
		l := &lane{session: s, to: to}
		b.node.hub.join(l)
		l.place(cursor, 0)
		s.lanes = append(s.lanes, l)
	}
	b.node.admit(s)
	must(b.t, s.begin(s.lanes, protocol.FromClient{}, func(map[string]protocol.Mailbox) any { return protocol.Beat{T: protocol.TWelcome} }))
	b.settle()
	if got := p.take(); len(got) != 1 || got[0].T != protocol.TWelcome {
		b.t.Fatalf("%v instead of a welcome", got)
	}
	return s, p
}

// settle waits until every writer has ended.
func (b *bench) settle() { b.node.tasks.Wait() }

// fill does what one worker does for one lane; false when none waits.
func (b *bench) fill() bool {
	if len(b.node.fills.lanes) == 0 {
		return false
	}
	l := b.node.fills.pop(context.Background())
	after, upTo, room, ok := l.session.reading(l)
	if !ok {
		return true
	}
	if b.broken {
		l.session.filled(l, after, nil, 0, errors.New("the archive is away"))
		return true
	}
	if l.to.Kind != subject.User {
		upTo, room = 0, sharedPage
	}
	page, err := b.archive.read(history.ReadRequest{Address: l.to.Tokens(), After: after, UpTo: upTo, Bytes: room})
	must(b.t, err)
	var items []item
	for _, e := range page.Entries {
		items = append(items, newItem(l.to, e))
	}
	if l.to.Kind != subject.User {
		b.node.hub.spread(l.to, items, page.Head)
	}
	l.session.filled(l, after, items, page.Head, nil)
	return true
}

// send archives a message and hands it to the sessions.
func (b *bench) send(to subject.Address, payload string) {
	b.node.hub.deliver(to, itemOf(b.archive.add(to, payload, 0)))
}

func itemOf(m *message.Message) item {
	return newItem(m.To, message.Entry{From: m.Seq, To: m.Seq, Message: m})
}

// seqs is what a list of objects says about one channel: message and gap positions.
func seqs(objects []wire, ch string) (list []uint64) {
	for _, o := range objects {
		switch {
		case o.Ch != ch:
		case o.T == protocol.TMsg:
			list = append(list, o.Seq)
		case o.T == protocol.TGap:
			for i := o.From; i <= o.To; i++ {
				list = append(list, i)
			}
		}
	}
	return list
}
