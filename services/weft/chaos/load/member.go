package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// member is one of a crowd: a user with one device, in one goroutine.
type member struct {
	crowd    *Crowd
	user     string
	welcomed chan struct{}       // closed at the first welcome
	home     int                 // the place in the ring where it began
	wish     atomic.Pointer[int] // the place in the ring of the next connection; nil for the one whose turn it is
	// Of its goroutine:
	ring       *ring
	token      string
	epoch      string
	cursor     uint64
	known      bool // cursor counts
	unanswered time.Time

	publishing sync.Mutex // serialises send

	mu     sync.Mutex // protects what follows
	tcp    *net.TCPConn
	place  Place
	opened []time.Time // the moment of each welcome
	notes  []note      // of each message by its number, from 1
	counts Counts
}

// note is what became of a message.
type note struct {
	sent, got time.Time // zero if it was not
	accepted  bool
}

// word is the payload of a crowd's message.
type word struct {
	User string `json:"user"`
	N    int    `json:"n"` // of the messages of this user, from 1
}

// live is a member's life.
func (m *member) live(ctx context.Context) {
	select {
	case m.crowd.first <- struct{}{}:
	case <-ctx.Done():
		return
	}
	entered := sync.OnceFunc(func() { <-m.crowd.first })
	defer entered()
	for ctx.Err() == nil {
		began := time.Now()
		err := m.hold(ctx, entered)
		m.mu.Lock()
		m.place.Online, m.place.Why = false, err
		m.mu.Unlock()
		if refusal, ok := errors.AsType[*refusal](err); ok && refusal.code.Fatal() && !m.replacedItself(refusal) {
			m.mu.Lock()
			m.counts.Gone++
			m.mu.Unlock()
			return
		}
		_ = wait(ctx, m.ring.move(err, time.Since(began)))
		if wish := m.wish.Swap(nil); wish != nil {
			m.ring.at = *wish
		}
	}
}

// replacedItself says whether the member was replaced by a session of its own that it had given up.
func (m *member) replacedItself(r *refusal) bool {
	own := r.code == protocol.CloseReplaced && !m.unanswered.IsZero() && time.Since(m.unanswered) < ownReplaced
	if own {
		m.unanswered = time.Time{}
	}
	return own
}

// hold makes a connection, calls entered when it is welcome, and reads it to its end.
func (m *member) hold(ctx context.Context, entered func()) error {
	if m.token == "" {
		token, err := auth.Sign(m.crowd.o.Key, identity.Identity{Tenant: subject.DefaultTenant, User: m.user}, tokenTTL)
		if err != nil {
			return err
		}
		m.token = token
	}
	hello := protocol.FromClient{T: protocol.THello, Device: "d", Client: "weft-chaos"}
	if m.known {
		hello.Epoch, hello.Cursors = m.epoch, map[string]uint64{"user:" + m.user: m.cursor}
	}
	w, sent, err := connect(ctx, m.dial, m.ring.url(), m.token, hello)
	if err != nil {
		if _, answered := errors.AsType[*refusal](err); sent && !answered {
			m.unanswered = time.Now()
		}
		return err
	}
	defer context.AfterFunc(ctx, w.bye)()
	defer w.close()
	m.welcome(w.welcome)
	entered()
	for {
		objects, err := w.next()
		if err == nil {
			err = m.take(w, objects)
		}
		if err != nil {
			return err
		}
	}
}

func (m *member) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tcp, _ = conn.(*net.TCPConn)
	return conn, nil
}

// cut resets the member's connection.
func (m *member) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tcp != nil {
		_ = m.tcp.SetLinger(0)
		_ = m.tcp.Close() // the member learns of it from its next read
	}
}

func (m *member) welcome(w protocol.Welcome) {
	if !m.known || w.Epoch != m.epoch {
		m.known, m.epoch, m.cursor = true, w.Epoch, max(w.Mailboxes["user:"+m.user].Next, 1)-1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.place = Place{User: m.user, Node: w.Node, Since: now, Online: true}
	if m.opened = append(m.opened, now); len(m.opened) == 1 {
		close(m.welcomed)
	}
}

// take notes what came in one text message and acknowledges it.
func (m *member) take(w *wire, objects []object) error {
	before := m.cursor
	for i := range objects {
		switch o := &objects[i]; o.T {
		case protocol.TMsg:
			if o.Ch == "" { // what goes to all is not the crowd's
				m.got(o)
			}
		case protocol.TGap:
			if o.Ch == "" {
				m.cursor = max(m.cursor, o.To)
			}
		case protocol.TDrain:
			w.leaveWithin(time.Duration(m.ring.random.Int64N(max(o.Within, 1))) * time.Millisecond)
		}
	}
	if m.cursor == before {
		return nil
	}
	return w.say(protocol.FromClient{T: protocol.TAck, Seq: m.cursor})
}

// got notes one message.
func (m *member) got(o *object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case o.Seq <= m.cursor:
		m.counts.Doubled++
		return
	case o.Seq > m.cursor+1:
		m.counts.Jumped++
	}
	m.cursor = o.Seq
	var said word
	if err := json.Unmarshal(o.data(), &said); err != nil || said.User != m.user || said.N < 1 || said.N > len(m.notes) {
		m.counts.Mistaken++
		return
	}
	n := &m.notes[said.N-1]
	if !n.got.IsZero() { // under another sequence
		m.counts.Doubled++
		return
	}
	n.got = time.Now()
	if !n.sent.IsZero() {
		m.crowd.owing.Add(-1)
	}
}

// send publishes the member's next message.
func (m *member) send(ctx context.Context, publisher *client.Publisher) error {
	m.publishing.Lock()
	defer m.publishing.Unlock()
	m.mu.Lock()
	m.notes = append(m.notes, note{sent: time.Now()})
	i := len(m.notes) - 1
	m.mu.Unlock()
	m.crowd.owing.Add(1)
	text, err := json.Marshal(word{User: m.user, N: i + 1})
	if err != nil {
		return err
	}
	to := subject.UserAddress(subject.DefaultTenant, m.user)
	_, err = publisher.Publish(ctx, to, text, client.WithID(fmt.Sprintf("%s-%d", m.user, i+1)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notes[i].accepted = err == nil
	if err != nil && m.notes[i].got.IsZero() { // it may come, but nobody waits for it
		m.notes[i].sent = time.Time{}
		m.crowd.owing.Add(-1)
	}
	return err
}

func (m *member) placed() Place {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.place
}

func (m *member) openings() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.opened)
}
