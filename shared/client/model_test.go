package client

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/protocol"
)

// The model: a server with two mailboxes that sends some messages twice, cuts, closes, drains and falls silent at
// random; a handler that is slow, fails and ends Run at random; a clock that costs nothing. In each mailbox the
// application sees every sequence once and in order, over any number of sessions and Subscribers; nothing is acknowledged
// that was not saved, or not sent on the very session.

const (
	modelHead      = 150 // messages in each mailbox in the end
	modelWindow    = 20  // messages that the server sends without an acknowledgement
	modelHeartbeat = 20 * time.Second
)

type model struct {
	t      *testing.T
	store  Memory
	conns  chan net.Conn
	closed chan struct{}
	live   sync.WaitGroup // connections

	mu     sync.Mutex // protects what follows
	random *rand.Rand
	head   map[string]uint64
	done   map[string]uint64 // what the application has seen
	tries  map[string]int    // of the message behind done
	deaths map[string]int    // how sessions ended
	ended  chan struct{}     // closed when the application has seen all
}

// Accept, Close and Addr make the model a net.Listener of pipes.
func (m *model) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *model) Close() error { return nil }

func (m *model) Addr() net.Addr { return &net.TCPAddr{} }

func (m *model) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case m.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *model) intn(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.random.IntN(n)
}

// gone says which sequences are a gap.
func gone(seq uint64) bool { return seq%11 == 5 || seq%11 == 6 }

// line is the object of a sequence: a message, or the gap that it belongs to, and where that ends.
func (m *model) line(address string, seq uint64) (string, uint64) {
	ch := ""
	if strings.HasPrefix(address, topicPrefix) {
		ch = fmt.Sprintf(`"ch":%q,`, address)
	}
	if !gone(seq) {
		return fmt.Sprintf(`{"t":"msg",%s"seq":%d,"id":"m%d","at":1,"data":%d}`, ch, seq, seq, seq), seq
	}
	to := seq
	for gone(to + 1) {
		to++
	}
	return fmt.Sprintf(`{"t":"gap",%s"from":%d,"to":%d,"why":"expired"}`, ch, seq, to), to
}

// saved is the cursor that the store has.
func (m *model) saved(address string) uint64 {
	s, _ := m.store.Load(context.Background())
	return s.Cursors[address]
}

// modelSession is the server's side of a connection.
type modelSession struct {
	*model

	ws    *websocket.Conn
	guard sync.Mutex // protects next and acked
	next  map[string]uint64
	acked map[string]uint64
	left  chan struct{} // closed when the client has gone
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.live.Add(1)
	defer m.live.Done()
	upgrader := websocket.Upgrader{Subprotocols: []string{protocol.Name}}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	var hello protocol.FromClient
	if ws.ReadJSON(&hello) != nil {
		return
	}
	s := &modelSession{model: m, ws: ws, next: make(map[string]uint64), acked: make(map[string]uint64), left: make(chan struct{})}
	welcome := protocol.Welcome{T: protocol.TWelcome, User: "alice", Epoch: "e", Heartbeat: modelHeartbeat.Milliseconds(), Mailboxes: make(map[string]protocol.Mailbox)}
	for _, address := range []string{"user:alice", "topic:news"} {
		cursor := hello.Cursors[address]
		if saved := m.saved(address); cursor > saved {
			m.t.Errorf("hello says %d of %s, saved is %d", cursor, address, saved)
		}
		s.next[address], s.acked[address] = cursor+1, cursor
		welcome.Mailboxes[address] = protocol.Mailbox{Next: cursor + 1}
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer ws.Close()
	if m.intn(10) == 0 {
		m.died("unanswered")
		return
	}
	if ws.WriteJSON(welcome) != nil {
		return
	}
	reading.Go(s.read)
	s.play()
}

// read checks what the client acknowledges, until it has gone.
func (s *modelSession) read() {
	defer close(s.left)
	for {
		_, text, err := s.ws.ReadMessage()
		if err != nil {
			return
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			var o protocol.FromClient
			if err := json.Unmarshal([]byte(line), &o); err != nil {
				s.t.Error(err)
			}
			if o.T != protocol.TAck {
				continue
			}
			if o.Ch == "" {
				o.Ch = "user:alice"
			}
			s.guard.Lock()
			if o.Seq >= s.next[o.Ch] || o.Seq > s.saved(o.Ch) || o.Seq <= s.acked[o.Ch] {
				s.t.Errorf("%s: %d is acknowledged, behind %d; sent was up to %d, saved %d", o.Ch, o.Seq, s.acked[o.Ch], s.next[o.Ch]-1, s.saved(o.Ch))
			}
			s.acked[o.Ch] = max(s.acked[o.Ch], o.Seq)
			s.guard.Unlock()
		}
	}
}

// play sends until the session dies in some way.
func (s *modelSession) play() {
	beat := time.Now()
	for {
		select {
		case <-s.left:
			s.died("left")
			return
		case <-time.After(time.Duration(s.intn(3000)) * time.Millisecond):
		}
		var err error
		switch n := s.intn(400); {
		case n < 6:
			s.died("cut")
			_ = s.ws.NetConn().Close()
			return
		case n < 9:
			s.died("silent")
			<-s.left
			return
		case n < 12:
			s.died("closed")
			code := []protocol.CloseCode{protocol.CloseDraining, protocol.CloseSlow, protocol.CloseToken, protocol.CloseBackOff}[s.intn(4)]
			_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(int(code), ""), time.Now().Add(time.Second))
			<-s.left
			return
		case n < 15:
			err = s.ws.WriteMessage(websocket.TextMessage, []byte(`{"t":"drain","within":3000}`))
		case time.Since(beat) >= modelHeartbeat-3*time.Second:
			beat = time.Now()
			err = s.ws.WriteMessage(websocket.TextMessage, []byte(`{"t":"ping"}`))
		default:
			err = s.some()
		}
		if err != nil {
			s.died("write")
			return
		}
	}
}

// some sends what is next of each mailbox, as far as the window allows, and some of what was sent.
func (s *modelSession) some() error {
	for _, address := range []string{"user:alice", "topic:news"} {
		s.mu.Lock()
		head := s.head[address]
		s.mu.Unlock()
		s.guard.Lock()
		var lines []string
		from := s.next[address]
		if back := uint64(s.intn(40)); back < 5 && back < from {
			from -= back // again
		}
		for n := s.intn(12); n > 0 && from <= head && from <= s.acked[address]+modelWindow; n-- {
			line, to := s.line(address, from)
			lines = append(lines, line)
			from = to + 1
		}
		s.next[address] = max(s.next[address], from)
		s.guard.Unlock()
		if len(lines) == 0 {
			continue
		}
		if err := s.ws.WriteMessage(websocket.TextMessage, []byte(strings.Join(lines, "\n"))); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) died(how string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaths[how]++
}

// seen notes that the application has seen the sequences from to to.
func (m *model) seen(address string, from, to uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from != m.done[address]+1 {
		m.t.Errorf("%s: %d to %d came behind %d", address, from, to, m.done[address])
	}
	m.done[address], m.tries[address] = to, 0
	for _, done := range m.done {
		if done < modelHead {
			return
		}
	}
	if len(m.done) == len(m.head) {
		close(m.ended)
	}
}

// handle is the handler. stop ends Run.
func (m *model) handle(ctx context.Context, stop func(), msg Message) error {
	m.mu.Lock()
	if msg.Seq != m.done[msg.Address]+1 {
		m.t.Errorf("%s: %d is handed over behind %d", msg.Address, msg.Seq, m.done[msg.Address])
	}
	m.tries[msg.Address]++
	bad := gone(msg.Seq + 1) // such a message always fails
	tries := m.tries[msg.Address]
	m.mu.Unlock()
	if m.intn(20) == 0 {
		if err := wait(ctx, time.Duration(m.intn(60))*time.Second); err != nil && m.intn(2) == 0 {
			return err // not handled; else it is, although Run ends
		}
	}
	if bad || (m.intn(15) == 0 && tries < 3) {
		return errBusy
	}
	if m.intn(40) == 0 {
		stop()
	}
	m.seen(msg.Address, msg.Seq, msg.Seq)
	return nil
}

// lives is the application's life: one Subscriber after the other.
func (m *model) lives() (subscribers int) {
	for {
		select {
		case <-m.ended:
			return subscribers
		default:
		}
		ctx, stop := context.WithCancel(m.t.Context())
		release := context.AfterFunc(m.until(), stop)
		s, err := Dial(ctx, Options{
			URL: "ws://model", Device: "d", Topics: []string{"news"}, Cursors: &m.store, NetDial: m.dial,
			Token:    func(context.Context) (string, error) { return "token", nil },
			OnGap:    func(g Gap) { m.seen(g.Address, g.From, g.To) },
			OnFailed: func(msg Message, _ error) { m.seen(msg.Address, msg.Seq, msg.Seq) },
		})
		if err == nil {
			subscribers++
			err = s.Run(ctx, func(ctx context.Context, msg Message) error { return m.handle(ctx, stop, msg) })
			if err != nil {
				m.t.Errorf("Run returned %v", err)
			}
		}
		release()
		stop()
	}
}

// until is a context that ends when the application has seen all.
func (m *model) until() context.Context {
	ctx, end := context.WithCancel(m.t.Context())
	m.live.Go(func() { <-m.ended; end() })
	return ctx
}

// publish raises the heads now and then.
func (m *model) publish() {
	for n := uint64(0); n < modelHead; {
		n += uint64(m.intn(6))
		m.mu.Lock()
		for address := range m.head {
			m.head[address] = min(n, modelHead)
		}
		m.mu.Unlock()
		<-time.After(time.Duration(m.intn(4000)) * time.Millisecond)
	}
}

func TestModel(t *testing.T) {
	deaths, subscribers := make(map[string]int), 0
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{
				t: t, conns: make(chan net.Conn), closed: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1)), ended: make(chan struct{}),
				head: map[string]uint64{"user:alice": 0, "topic:news": 0}, done: make(map[string]uint64), tries: make(map[string]int), deaths: deaths,
			}
			server := &http.Server{Handler: m}
			var serving sync.WaitGroup
			serving.Go(func() { _ = server.Serve(m) })
			serving.Go(m.publish)
			subscribers += m.lives()
			close(m.closed)
			_ = server.Close()
			serving.Wait()
			m.live.Wait()
		})
	}
	t.Logf("sessions ended: %v; %d subscribers", deaths, subscribers)
	for _, how := range []string{"unanswered", "cut", "silent", "closed", "left"} {
		if deaths[how] < 5 {
			t.Errorf("the model tests little: sessions ended %v", deaths)
		}
	}
}
