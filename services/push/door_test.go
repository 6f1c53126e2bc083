package push

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// door is a transport as a client sees it. The suite in session_test.go and sessionend_test.go runs at every one.
type door struct {
	name string
	mute bool // its clients can't answer questions
	// open connects and says hello; who is refused has a client that has ended.
	open func(t testing.TB, to, token string, hello protocol.FromClient) peer
}

// doors are all there are.
func doors() []door {
	return append([]door{
		{name: "WebSocket", open: openSocket},
		{name: "SSE over HTTP 1.1", mute: true, open: func(t testing.TB, to, token string, hello protocol.FromClient) peer {
			return openEvents(t, to, token, hello, false)
		}},
		{name: "SSE over HTTP 2", mute: true, open: func(t testing.TB, to, token string, hello protocol.FromClient) peer {
			return openEvents(t, to, token, hello, true)
		}},
	}, callDoors()...)
}

// everyDoor runs a test at each.
func everyDoor(t *testing.T, test func(t *testing.T, d door)) {
	t.Helper()
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			beside(t) // most wait for clocks
			test(t, d)
		})
	}
}

// beside lets the doors of one test run at the same time. The tests themselves come one after the other, which the linter
// would not have: they do nothing after everyDoor.
func beside(t interface{ Parallel() }) { t.Parallel() }

// peer is a device at a door. It reads by itself and answers what its transport answers by itself, acknowledges nothing
// that it is not told to, and shows what came.
type peer interface {
	// objects are what came, as the WebSocket would have it, without heartbeats; closed when the session has ended.
	objects() <-chan wire
	// end is how it ended, once objects is closed; a code of 0 is a refusal before there was a session, or no word at all.
	end() (code protocol.CloseCode, why problem.Code)
	// ack acknowledges. Where a door answers, refused is what it says; else it ends the session.
	ack(ch string, seq uint64) (refused problem.Code)
	// said is told the hello, once.
	said(hello protocol.FromClient)
	// stand is where the client stands, for the hello of its next connection.
	stand() (epoch string, cursors map[string]uint64)
	// tap is what is below.
	tap() *tap
}

// record is what every client keeps.
type record struct {
	t      testing.TB
	came   chan wire
	line   *tap
	mu     sync.Mutex // protects the rest
	code   protocol.CloseCode
	why    problem.Code
	epoch  string
	user   string
	placed map[string]uint64
}

func newRecord(t testing.TB) *record {
	return &record{t: t, came: make(chan wire, 100_000), placed: map[string]uint64{}}
}

func (r *record) objects() <-chan wire { return r.came }

func (r *record) tap() *tap { return r.line }

func (r *record) end() (protocol.CloseCode, problem.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.code, r.why
}

func (r *record) stand() (string, map[string]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch, maps.Clone(r.placed)
}

// said implements peer: where the client stood is where it stands until something comes.
func (r *record) said(hello protocol.FromClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, seq := range hello.Cursors {
		r.placed[name] = max(r.placed[name], seq)
	}
}

// take notes an object that came.
func (r *record) take(raw []byte) {
	var o protocol.FromServer
	if err := json.Unmarshal(raw, &o); err != nil {
		r.t.Errorf("%s: %v", raw, err)
		return
	}
	r.mu.Lock()
	switch o.T {
	case protocol.TWelcome:
		r.epoch, r.user = o.Epoch, "user:"+o.User
	case protocol.TError:
		r.why = o.Code
	}
	if seq, ok := o.Position(); ok {
		name := o.Ch
		if name == "" {
			name = r.user
		}
		r.placed[name] = seq
	}
	r.mu.Unlock()
	if o.T != protocol.TPing && o.T != protocol.TPong {
		r.came <- parse(r.t, raw)
	}
}

// refused notes a refusal over HTTP.
func (r *record) refused(response *http.Response) {
	defer response.Body.Close()
	var p problem.Problem
	body, _ := io.ReadAll(response.Body)
	if err := json.Unmarshal(body, &p); err != nil {
		r.t.Errorf("%s, %s is no problem", response.Status, body)
	}
	if p.Retry != (response.Header.Get("Retry-After") != "") {
		r.t.Errorf("%s with Retry-After %q", body, response.Header.Get("Retry-After"))
	}
	r.mu.Lock()
	r.why = p.Code
	r.mu.Unlock()
	close(r.came)
}

// socketClient is a client of the WebSocket.
type socketClient struct {
	*record
	conn *websocket.Conn
}

func openSocket(t testing.TB, to, token string, hello protocol.FromClient) peer {
	t.Helper()
	made := make(chan *tap, 1)
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Name}, HandshakeTimeout: patience, NetDialContext: wireTap(made)}
	headers := http.Header{}
	if token != "" {
		headers.Set("Authorization", "Bearer "+token)
	}
	c := &socketClient{record: newRecord(t)}
	conn, response, err := dialer.Dial("ws://"+to+protocol.Path, headers)
	if err != nil {
		if response == nil {
			t.Fatal(err)
		}
		c.refused(response)
		return c
	}
	c.conn, c.line = conn, <-made
	must(t, conn.WriteMessage(websocket.TextMessage, object(hello)))
	var reading sync.WaitGroup
	reading.Go(c.read)
	t.Cleanup(func() {
		_ = c.line.Close()
		reading.Wait()
	})
	return c
}

func (c *socketClient) read() {
	defer close(c.came)
	for {
		_, text, err := c.conn.ReadMessage()
		if closed, ok := err.(*websocket.CloseError); ok && closed.Code != websocket.CloseAbnormalClosure { //nolint:errorlint // the library does not wrap it
			c.mu.Lock()
			c.code = protocol.CloseCode(closed.Code)
			c.mu.Unlock()
		}
		if err != nil {
			return
		}
		for _, line := range lines(text) {
			c.take(line)
		}
	}
}

func (c *socketClient) ack(ch string, seq uint64) problem.Code {
	_ = c.conn.WriteMessage(websocket.TextMessage, object(protocol.FromClient{T: protocol.TAck, Ch: ch, Seq: seq})) // ended, else
	return ""
}

// guest is a client with a test's manners.
type guest struct {
	peer
	t       testing.TB
	door    door
	welcome wire
}

// enterBy connects through a door and says hello.
func (n *running) enterBy(t testing.TB, d door, token, device string, hello ...func(*protocol.FromClient)) *guest {
	t.Helper()
	h := protocol.FromClient{T: protocol.THello, Device: device}
	for _, fn := range hello {
		fn(&h)
	}
	g := &guest{peer: d.open(t, n.listener.Addr().String(), token, h), t: t, door: d}
	g.said(h)
	return g
}

// guest connects alice, who is welcome.
func (n *running) guest(t testing.TB, d door, device string, hello ...func(*protocol.FromClient)) *guest {
	t.Helper()
	g := n.enterBy(t, d, token("alice"), device, hello...)
	g.welcome = g.want(protocol.TWelcome)
	return g
}

// again is what a client's next connection says.
func (g *guest) again() func(*protocol.FromClient) {
	epoch, cursors := g.stand()
	return func(h *protocol.FromClient) { h.Epoch, h.Cursors = epoch, cursors }
}

// next is the next object; ok is false when the session has ended.
func (g *guest) next() (o wire, ok bool) {
	g.t.Helper()
	select {
	case o, ok = <-g.objects():
		return o, ok
	case <-time.After(patience):
		g.t.Fatal("nothing comes")
		return o, false
	}
}

func (g *guest) want(kind string) wire {
	g.t.Helper()
	o, ok := g.next()
	if !ok || o.T != kind {
		code, why := g.end()
		g.t.Fatalf("%.200s came (or the end: %v, %d %s); want %s", o.raw, !ok, code, why, kind)
	}
	return o
}

// wants takes objects of a mailbox, which must be exactly from, from+1, … to.
func (g *guest) wants(ch string, from, to uint64) {
	g.t.Helper()
	for seq := from; seq <= to; {
		o, ok := g.next()
		got := seqs([]wire{o}, ch)
		if !ok || len(got) == 0 || got[0] != seq {
			code, why := g.end()
			g.t.Fatalf("%.200s came (or the end: %v, %d %s); want %q %d", o.raw, !ok, code, why, ch, seq)
		}
		seq += uint64(len(got))
	}
}

// quiet holds that nothing was sent before a message to everybody.
func (g *guest) quiet(w *world) {
	g.t.Helper()
	w.push(all, `"mark"`)
	if o := g.want(protocol.TMsg); o.Ch != "all" {
		g.t.Fatalf("%.200s came; want the mark", o.raw)
	}
}

// ends waits until the session has ended and holds that against the close code and the problem.
func (g *guest) ends(code protocol.CloseCode, why problem.Code) {
	g.t.Helper()
	for {
		if _, ok := g.next(); !ok {
			break
		}
	}
	if gotCode, gotWhy := g.end(); gotCode != code || gotWhy != why {
		g.t.Fatalf("closed with %d and %q; want %d and %q", gotCode, gotWhy, code, why)
	}
}

// id is the session that welcomed the client.
func (g *guest) id() string {
	var w protocol.Welcome
	must(g.t, json.Unmarshal(g.welcome.raw, &w))
	return w.Session
}

// leave closes the connection and waits until the node has noticed.
func (g *guest) leave(n *running) {
	g.t.Helper()
	_ = g.tap().Close()
	eventually(g.t, "the session has ended", func() bool { return n.session(g.id()) == nil })
}
