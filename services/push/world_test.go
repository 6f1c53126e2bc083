package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// world is everything around a push node: NATS and Redis in process, and stand-ins for auth, collect and dispatch.
type world struct {
	t        testing.TB
	nats     *embed.Server
	nc       *nats.Conn // of the stand-ins
	js       jetstream.JetStream
	redis    *miniredis.Miniredis
	redisURL string
	table    *route.Table
	archive  *model
}

func newWorld(t testing.TB) *world {
	t.Helper()
	server, err := embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: 1})
	must(t, err)
	t.Cleanup(server.Stop)
	w := &world{t: t, nats: server, redis: miniredis.RunT(t), archive: newModel()}
	w.redisURL = "redis://" + w.redis.Addr()
	w.nc = w.connect()
	w.js, err = jetstream.New(w.nc)
	must(t, err)
	must(t, fabric.Create(t.Context(), w.js, fabric.Facts{Epoch: epoch, Partitions: 1}, fabric.Options{MaxPayload: w.nc.MaxPayload()}))
	w.table, err = route.Open(w.redisURL, epoch)
	must(t, err)
	t.Cleanup(func() { must(t, w.table.Close()) })
	w.answer()
	return w
}

func (w *world) connect() *nats.Conn {
	w.t.Helper()
	nc, err := nats.Connect(w.nats.URL(), nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	must(w.t, err)
	w.t.Cleanup(nc.Close)
	return nc
}

// answer stands in for auth and collect. A token is an identity as JSON; one that is none is refused.
func (w *world) answer() {
	w.t.Helper()
	s, err := micro.AddService(w.nc, micro.Config{Name: "stand-in", Version: "1.0.0"})
	must(w.t, err)
	for subj, handler := range map[string]micro.Handler{
		subject.AuthVerify: rpc.Handle(verify),
		subject.HistoryRead: micro.HandlerFunc(func(r micro.Request) {
			var q history.ReadRequest
			must(w.t, json.Unmarshal(r.Data(), &q))
			go w.page(r, q)
		}),
		subject.HistoryOpen:  rpc.Handle(w.archive.open),
		subject.HistoryHeads: rpc.Handle(w.archive.heads),
	} {
		must(w.t, s.AddEndpoint(fmt.Sprint("e", len(subj), subj[len(subj)-4:]), handler, micro.WithEndpointSubject(subj)))
	}
	must(w.t, w.nc.Flush())
}

func (w *world) page(r micro.Request, q history.ReadRequest) {
	page, err := w.archive.read(q)
	if err != nil {
		rpc.Refuse(r, err)
		return
	}
	to, _ := subject.ParseTokens(q.Address)
	var body []byte
	for _, e := range page.Entries {
		body = message.AppendEntry(body, to, e)
	}
	_ = r.Respond(body, micro.WithHeaders(micro.Headers{history.HeaderHead: {strconv.FormatUint(page.Head, 10)}}))
}

func verify(q identity.VerifyRequest) (*identity.Identity, error) {
	who := new(identity.Identity)
	if err := json.Unmarshal([]byte(q.Token), who); err != nil || who.User == "" {
		return nil, problem.New(problem.Unauthorized, "the token is foreign")
	}
	if who.Expired(time.Now()) {
		return nil, problem.New(problem.TokenExpired, "the token has expired")
	}
	return who, nil
}

// token is one of a user who may read every topic that begins with n.
func token(user string, change ...func(*identity.Identity)) string {
	who := identity.Identity{Tenant: "default", User: user, Topics: []string{"n*"}, Expires: time.Now().Add(time.Hour).UnixMilli()}
	for _, fn := range change {
		fn(&who)
	}
	b, _ := json.Marshal(who)
	return string(b)
}

// running is a node that runs; stop ends it and waits for it.
type running struct {
	*Service
	stop func()
	nc   *nats.Conn
}

// node starts a node and waits until it is ready; what change changes has not been used yet.
func (w *world) node(change ...func(*Service)) *running {
	w.t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Redis = "127.0.0.1:0", w.redisURL
	nc := w.connect()
	n, err := New(cfg, nc, slog.New(slog.DiscardHandler))
	must(w.t, err)
	for _, fn := range change {
		fn(n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Error(err)
			}
		case <-time.After(patience):
			w.t.Error("the node does not end")
		}
	})
	w.t.Cleanup(stop)
	select {
	case <-n.Ready():
	case err := <-ended:
		w.t.Fatalf("the node has ended: %v", err)
	case <-time.After(patience):
		w.t.Fatal("the node is not ready")
	}
	return &running{Service: n, stop: stop, nc: nc}
}

// publish archives messages as collect does: heads are raised in Redis if it is there. Nobody is sent them yet.
func (w *world) publish(to subject.Address, payloads ...string) (frame []byte) {
	w.t.Helper()
	for _, p := range payloads {
		m := w.archive.add(to, p, 0)
		frame = message.AppendEntry(frame, to, message.Entry{From: m.Seq, To: m.Seq, Message: m})
		_ = w.table.RaiseHeads(w.t.Context(), map[subject.Address]uint64{to: m.Seq})
	}
	return frame
}

// send does what dispatch does with a frame when it knows no routes.
func (w *world) send(frame []byte) {
	w.t.Helper()
	must(w.t, w.nc.Publish(subject.Nodes, frame))
}

// push publishes and sends.
func (w *world) push(to subject.Address, payloads ...string) {
	w.t.Helper()
	w.send(w.publish(to, payloads...))
}

// holders is who has an address, as Redis knows.
func (w *world) holders(to subject.Address) []string {
	routes, err := w.table.Routes(w.t.Context(), []subject.Address{to})
	if err != nil {
		return nil
	}
	return routes[0]
}

// acked is what came through WEFT_ACK.
func (w *world) acked() map[string]uint64 {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fabric.AckStream)
	must(w.t, err)
	state := stream.CachedInfo().State
	highest := map[string]uint64{}
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := stream.GetMsg(w.t.Context(), seq)
		must(w.t, err)
		if !strings.HasPrefix(m.Subject, subject.Ack("")) {
			continue // presence
		}
		var batch []history.Cursor
		must(w.t, json.Unmarshal(m.Data, &batch))
		for _, c := range batch {
			key := c.User + "/" + c.Device + "/" + c.Address
			highest[key] = max(highest[key], c.Seq)
		}
	}
	return highest
}

// device is a client that shows the wire as it is and does nothing that it is not told to.
type device struct {
	t       testing.TB
	conn    *websocket.Conn
	objects chan wire
	code    int // why the connection ended; read after objects is closed
	welcome wire
}

// dial connects without saying anything. headers may be nil.
func (n *running) dial(t testing.TB, token string) *device {
	t.Helper()
	return dialTo(t, n.listener.Addr().String(), token)
}

func dialTo(t testing.TB, address, token string) *device {
	t.Helper()
	headers := http.Header{}
	if token != "" {
		headers.Set("Authorization", "Bearer "+token)
	}
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Name}, HandshakeTimeout: patience}
	conn, response, err := dialer.Dial("ws://"+address+protocol.Path, headers)
	if err != nil {
		t.Fatal(err, response)
	}
	d := &device{t: t, conn: conn, objects: make(chan wire, 10_000)}
	var reading sync.WaitGroup
	reading.Go(d.read)
	t.Cleanup(func() {
		_ = conn.Close()
		reading.Wait()
	})
	return d
}

func (d *device) read() {
	defer close(d.objects)
	for {
		_, text, err := d.conn.ReadMessage()
		if err != nil {
			if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
				d.code = closed.Code
			}
			return
		}
		for _, line := range lines(text) {
			d.objects <- parse(d.t, line)
		}
	}
}

// say sends objects in one text message.
func (d *device) say(objects ...protocol.FromClient) {
	d.t.Helper()
	var text []byte
	for _, o := range objects {
		text = append(append(text, object(o)...), '\n')
	}
	must(d.t, d.conn.WriteMessage(websocket.TextMessage, text))
}

// next is the next object, whatever it is; ok is false when the connection has ended.
func (d *device) next() (o wire, ok bool) {
	d.t.Helper()
	select {
	case o, ok = <-d.objects:
		return o, ok
	case <-time.After(patience):
		d.t.Fatal("nothing comes")
		return o, false
	}
}

// over says how the connection has ended, or that it has not.
func (d *device) over(open bool) string {
	if open {
		return "it goes on"
	}
	return fmt.Sprint("the end: ", d.code)
}

// want is the next object, which is of the kind named.
func (d *device) want(kind string) wire {
	d.t.Helper()
	o, ok := d.next()
	if !ok || o.T != kind {
		d.t.Fatalf("%s came (%s); want %s", o.raw, d.over(ok), kind)
	}
	return o
}

// wants takes objects of a mailbox, which must be exactly from, from+1, … to.
func (d *device) wants(ch string, from, to uint64) {
	d.t.Helper()
	for seq := from; seq <= to; {
		o, ok := d.next()
		got := seqs([]wire{o}, ch)
		if !ok || len(got) == 0 || got[0] != seq {
			d.t.Fatalf("%s came (%s); want %q %d", o.raw, d.over(ok), ch, seq)
		}
		seq += uint64(len(got))
	}
}

// end waits until the server has closed and holds it against the error object and the close code.
func (d *device) end(code protocol.CloseCode, why problem.Code) {
	d.t.Helper()
	said := ""
	for {
		o, ok := d.next()
		if !ok {
			break
		}
		if o.T == protocol.TError {
			said = o.Code
		}
	}
	if d.code != int(code) || said != string(why) {
		d.t.Fatalf("closed with %d and %q; want %d and %q", d.code, said, code, why)
	}
}

// quiet holds that nothing was sent before the answer to a ping.
func (d *device) quiet() {
	d.t.Helper()
	d.say(protocol.FromClient{T: protocol.TPing})
	d.want(protocol.TPong)
}

// device connects and says hello.
func (n *running) device(t testing.TB, user, name string, hello ...func(*protocol.FromClient)) *device {
	t.Helper()
	d := n.dial(t, token(user))
	d.hello(name, hello...)
	d.welcome = d.want(protocol.TWelcome)
	return d
}

func (d *device) hello(name string, change ...func(*protocol.FromClient)) {
	d.t.Helper()
	hello := protocol.FromClient{T: protocol.THello, Device: name}
	for _, fn := range change {
		fn(&hello)
	}
	d.say(hello)
}

func at(cursors map[string]uint64) func(*protocol.FromClient) {
	return func(h *protocol.FromClient) { h.Cursors = cursors }
}

func of(epoch string) func(*protocol.FromClient) {
	return func(h *protocol.FromClient) { h.Epoch = epoch }
}

func topics(ids ...string) func(*protocol.FromClient) {
	return func(h *protocol.FromClient) { h.Topics = ids }
}

func (d *device) ack(ch string, seq uint64) {
	d.t.Helper()
	d.say(protocol.FromClient{T: protocol.TAck, Ch: ch, Seq: seq})
}

// drop ends the connection and waits until the node has noticed.
func (d *device) drop(n *running) {
	d.t.Helper()
	must(d.t, d.conn.Close())
	id := struct {
		Session string `json:"session"`
	}{}
	must(d.t, json.Unmarshal(d.welcome.raw, &id))
	eventually(d.t, "the session has ended", func() bool { return n.session(id.Session) == nil })
}

func lines(text []byte) (list [][]byte) {
	start := 0
	for i, c := range text {
		if c == '\n' {
			list, start = append(list, text[start:i]), i+1
		}
	}
	return append(list, text[start:])
}

func ackStream() jetstream.StreamConfig {
	for _, s := range fabric.Streams(fabric.Facts{Epoch: epoch, Partitions: 1}, fabric.Options{MaxPayload: 1 << 20}) {
		if s.Config.Name == fabric.AckStream {
			return s.Config
		}
	}
	panic("no stream of acknowledgements")
}

// follow is a device that reconnects after every seventh message until it has seen all, and acknowledges each.
func (w *world) follow(n *running, name string, messages uint64) error {
	seen := map[string]uint64{"": 0, "topic:news": 0}
	for seen[""] < messages || seen["topic:news"] < messages {
		d := n.dial(w.t, token("alice"))
		d.hello(name, topics("news"), at(map[string]uint64{"user:alice": seen[""], "topic:news": seen["topic:news"]}))
		for range 8 {
			if seen[""] == messages && seen["topic:news"] == messages {
				break
			}
			o, ok := d.next()
			switch {
			case !ok:
				return fmt.Errorf("%s was closed: %d", name, d.code)
			case o.T == protocol.TWelcome:
				continue
			case o.T != protocol.TMsg || o.Seq != seen[o.Ch]+1:
				return fmt.Errorf("%s: %s came after %d", name, o.raw, seen[o.Ch])
			}
			seen[o.Ch] = o.Seq
			if err := d.conn.WriteMessage(websocket.TextMessage, object(protocol.FromClient{T: protocol.TAck, Ch: o.Ch, Seq: o.Seq})); err != nil {
				return err
			}
		}
		_ = d.conn.Close()
	}
	return nil
}

// ear keeps what is logged.
type ear struct {
	mu   sync.Mutex // protects text
	text strings.Builder
}

func (e *ear) Write(line []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.Write(line)
}

func (e *ear) has(what string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Contains(e.text.String(), what)
}
