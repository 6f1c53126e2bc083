package push

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// door is a transport as a client sees it. The suite in session_test.go runs at every one.
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
		t.Run(d.name, func(t *testing.T) { test(t, d) })
	}
}

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

// tap is a connection of a client that can go wrong.
type tap struct {
	net.Conn
	frozen chan struct{} // closed: reads nothing any more
	ended  chan struct{} // closed when the connection is
	freeze func()
	close  func() error
	gone   chan struct{} // closed: writes nothing any more
}

func newTap(conn net.Conn) *tap {
	t := &tap{Conn: conn, frozen: make(chan struct{}), gone: make(chan struct{}), ended: make(chan struct{})}
	t.freeze = sync.OnceFunc(func() { close(t.frozen) })
	t.close = sync.OnceValue(func() error {
		close(t.ended)
		return conn.Close()
	})
	return t
}

func (t *tap) Read(b []byte) (int, error) {
	select {
	case <-t.frozen:
		<-t.ended
		return 0, net.ErrClosed
	default:
	}
	n, err := t.Conn.Read(b)
	select {
	case <-t.frozen:
		<-t.ended
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (t *tap) Write(b []byte) (int, error) {
	select {
	case <-t.gone:
		return len(b), nil
	default:
		return t.Conn.Write(b)
	}
}

func (t *tap) Close() error { return t.close() }

// vanish lets the client's host be gone: the kernel drops whatever comes before TCP sees it, so that nothing is
// acknowledged, and nothing leaves.
func (t *tap) vanish(tb testing.TB) {
	tb.Helper()
	t.freeze()
	close(t.gone)
	raw, err := t.Conn.(*net.TCPConn).SyscallConn()
	must(tb, err)
	must(tb, raw.Control(func(fd uintptr) {
		err = syscall.AttachLsf(int(fd), []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}}) //nolint:staticcheck // keep 0 bytes: golang.org/x/net/bpf is a module more for one instruction
	}))
	must(tb, err)
}

// wireTap is a dialer whose connection can go wrong.
func wireTap(made chan<- *tap) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		t := newTap(conn)
		made <- t
		return t, nil
	}
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

// eventsClient is a client of Server-Sent Events, and as strict as can be.
type eventsClient struct {
	*record
	to, token, device string
	id                string // of the last event; protected by record.mu
	http              *http.Client
}

func openEvents(t testing.TB, to, token string, hello protocol.FromClient, two bool) peer {
	t.Helper()
	made := make(chan *tap, 10)
	transport := &http.Transport{DialContext: wireTap(made), DisableCompression: true}
	if two {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	c := &eventsClient{record: newRecord(t), to: to, token: token, device: hello.Device, http: &http.Client{Transport: transport}}
	query := url.Values{"topic": hello.Topics}
	if hello.Device != "" {
		query.Set("device", hello.Device)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to+protocol.PathSSE+"?"+query.Encode(), nil)
	must(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if hello.Cursors != nil || hello.Epoch != "" {
		c.id = eventID(t, hello)
		r.Header.Set(protocol.LastEventID, c.id)
	}
	response, err := c.http.Do(r)
	must(t, err)
	c.line = <-made
	var reading sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		_ = c.line.Close()
		transport.CloseIdleConnections()
		reading.Wait()
	})
	if response.StatusCode != http.StatusOK {
		c.refused(response)
		return c
	}
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" || response.ProtoMajor != map[bool]int{false: 1, true: 2}[two] {
		t.Errorf("it is %s of %s", kind, response.Proto)
	}
	reading.Go(func() { c.read(response.Body) })
	return c
}

// eventID is a hello's epoch and cursors as the id of an event.
func eventID(t testing.TB, hello protocol.FromClient) string {
	t.Helper()
	epoch := hello.Epoch
	if epoch == "" {
		epoch = "e1" // an id always has one
	}
	b := protocol.AppendEventID(nil, epoch)
	for _, name := range slices.Sorted(maps.Keys(hello.Cursors)) {
		b = protocol.AppendCursor(b, protocol.CursorToken(address(t, name)), hello.Cursors[name])
	}
	return string(b)
}

func (c *eventsClient) read(body io.ReadCloser) {
	defer close(c.came)
	defer body.Close()
	lines := bufio.NewReader(body)
	event := map[string]string{}
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // half a line counts for nothing
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			c.event(event)
			event = map[string]string{}
		case name == "" || name == "retry":
		case name == "id" || name == "event" || name == "data":
			if _, twice := event[name]; twice {
				c.t.Errorf("%s is there twice", name)
			}
			event[name] = value
		default:
			c.t.Errorf("%q is no field of an event", line)
		}
	}
}

// event takes one event. Its kind has to be that of its object, and it has an id if and only if it takes the client on.
func (c *eventsClient) event(event map[string]string) {
	data, ok := event["data"]
	if !ok {
		return // a comment, or retry
	}
	if event["event"] == protocol.TClose {
		var end protocol.Close
		must(c.t, json.Unmarshal([]byte(data), &end))
		c.mu.Lock()
		defer c.mu.Unlock()
		c.code = end.Code
		if end.Reason != c.why || end.Retry == end.Code.Fatal() {
			c.t.Errorf("it ends with %s behind the error %q", data, c.why)
		}
		return
	}
	o, err := protocol.Decode([]byte(data))
	must(c.t, err)
	kind := o.T
	if kind == protocol.TMsg {
		kind = ""
	}
	_, moves := o.Position()
	_, id := event["id"]
	if event["event"] != kind || (moves && !id) || (id && !moves && o.T != protocol.TWelcome) {
		c.t.Errorf("%v is an event of another kind, or its id is missing or wrong", event)
	}
	if id {
		c.mu.Lock()
		c.id = event["id"]
		c.mu.Unlock()
	}
	c.take([]byte(data))
}

// stand is what Last-Event-ID says.
func (c *eventsClient) stand() (string, map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" {
		return "", nil
	}
	epoch, cursors, err := protocol.ParseEventID(c.id)
	must(c.t, err)
	return epoch, cursors
}

func (c *eventsClient) ack(ch string, seq uint64) problem.Code {
	status, p := postAck(c.t, c.to, c.token, c.device, string(object(protocol.Ack{Ch: ch, Seq: seq})))
	if (status == http.StatusNoContent) != (p.Code == "") {
		c.t.Errorf("status %d with %+v", status, p)
	}
	return p.Code
}

// postAck posts acknowledgements.
func postAck(t testing.TB, to, token, device, body string) (int, problem.Problem) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+to+protocol.PathAck+"?device="+url.QueryEscape(device), strings.NewReader(body))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Do(r)
	must(t, err)
	defer response.Body.Close()
	var p problem.Problem
	if text, _ := io.ReadAll(response.Body); len(bytes.TrimSpace(text)) > 0 {
		must(t, json.Unmarshal(text, &p))
	}
	return response.StatusCode, p
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
