package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/protocol"
)

// patienceOfTests bounds every wait, so that a fault fails a test and does not hang it.
const patienceOfTests = 10 * time.Second

// peer is the server's side of one connection.
type peer struct {
	t     *testing.T
	ws    *websocket.Conn
	token string
	hello protocol.FromClient
	lines []string // read and not yet returned
}

// serve starts a push node that plays scripts, one per connection; the last one is played again for those that
// follow. It waits at the end of the test until all have ended.
func serve(t *testing.T, scripts ...func(*peer)) string {
	t.Helper()
	var mu sync.Mutex
	var playing sync.WaitGroup
	upgrader := websocket.Upgrader{Subprotocols: []string{protocol.Name}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		mu.Lock()
		script := scripts[0]
		if len(scripts) > 1 {
			scripts = scripts[1:]
		}
		playing.Add(1)
		mu.Unlock()
		defer playing.Done()
		p := &peer{t: t, ws: ws, token: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
		if first, ok := p.read(); ok {
			p.hello = first
			script(p)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		playing.Wait()
	})
	return server.URL
}

// read is the client's next object; ok is false when the client has gone.
func (p *peer) read() (o protocol.FromClient, ok bool) {
	if len(p.lines) == 0 {
		_ = p.ws.SetReadDeadline(time.Now().Add(patienceOfTests))
		_, text, err := p.ws.ReadMessage()
		if err != nil {
			return o, false
		}
		p.lines = strings.Split(string(text), "\n")
	}
	if err := json.Unmarshal([]byte(p.lines[0]), &o); err != nil {
		p.t.Errorf("the client sent %s: %v", p.lines[0], err)
	}
	p.lines = p.lines[1:]
	return o, true
}

// acked reads until everything of an address up to seq is acknowledged, and returns how many objects that took.
func (p *peer) acked(ch string, seq uint64) int {
	for n := 1; ; n++ {
		o, ok := p.read()
		if !ok {
			p.t.Errorf("the client left before it acknowledged %d", seq)
			return n
		}
		if o.T == protocol.TAck && o.Ch == ch && o.Seq > seq {
			p.t.Errorf("the client acknowledged %d, it was sent %d", o.Seq, seq)
		}
		if o.T == protocol.TAck && o.Ch == ch && o.Seq >= seq {
			return n
		}
	}
}

// gone reads until the client leaves.
func (p *peer) gone() {
	for {
		if _, ok := p.read(); !ok {
			return
		}
	}
}

func (p *peer) send(lines ...string) {
	if err := p.ws.WriteMessage(websocket.TextMessage, []byte(strings.Join(lines, "\n"))); err != nil {
		p.t.Logf("send: %v", err)
	}
}

func (p *peer) welcome(next uint64) { p.welcomeTo(welcome("e", map[string]uint64{"user:alice": next})) }

func (p *peer) welcomeTo(w protocol.Welcome) {
	line, err := json.Marshal(w)
	if err != nil {
		p.t.Error(err)
	}
	p.send(string(line))
}

func (p *peer) close(code protocol.CloseCode) {
	_ = p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(int(code), ""), time.Now().Add(time.Second))
}

func msg(seq uint64) string {
	return fmt.Sprintf(`{"t":"msg","seq":%d,"id":"m%d","at":1,"data":%d}`, seq, seq, seq)
}

// listener is a running Subscriber whose messages and states go to channels.
type listener struct {
	t      *testing.T
	got    chan Message
	gaps   chan Gap
	status chan Status
	ended  chan error
	cancel context.CancelFunc
}

func listen(t *testing.T, url string, change func(*Options)) *listener {
	t.Helper()
	l := &listener{t: t, got: make(chan Message, 1000), gaps: make(chan Gap, 100), status: make(chan Status, 100), ended: make(chan error, 1)}
	options := Options{
		URL: url, Device: "d",
		Token:    func(context.Context) (string, error) { return "token", nil },
		OnGap:    func(g Gap) { l.gaps <- g },
		OnStatus: func(s Status) { l.status <- s },
	}
	if change != nil {
		change(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	s, err := Dial(ctx, options)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		l.ended <- s.Run(ctx, func(_ context.Context, m Message) error { l.got <- m; return nil })
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return l
}

// want takes messages and compares their sequences.
func (l *listener) want(seqs ...uint64) {
	l.t.Helper()
	for _, seq := range seqs {
		if m := receive(l.t, l.got); m.Seq != seq {
			l.t.Fatalf("got %s %d, want %d", m.Address, m.Seq, seq)
		}
	}
}

// offline waits for the end of a connection and says why it came.
func (l *listener) offline() error {
	l.t.Helper()
	return l.pause().Err
}

// pause waits for the end of a connection.
func (l *listener) pause() Status {
	l.t.Helper()
	for {
		if s := receive(l.t, l.status); !s.Online {
			return s
		}
	}
}

// end stops the listener and checks that nothing more had come.
func (l *listener) end() {
	l.t.Helper()
	l.cancel()
	if err := receive(l.t, l.ended); err != nil {
		l.t.Errorf("Run returned %v", err)
	}
	select {
	case m := <-l.got:
		l.t.Errorf("%s %d came too", m.Address, m.Seq)
	default:
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patienceOfTests):
		t.Fatalf("no %T came", *new(T))
		panic("unreachable")
	}
}
