package push

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// TestWhoMayNotEnter holds what a client is told that gets no session.
func TestWhoMayNotEnter(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = patience })
	hasty := w.node(func(n *Service) { n.greeting = 200 * time.Millisecond })
	hello := func(d *device) { d.hello("phone") }
	expired := token("alice", func(who *identity.Identity) { who.Expires = 1 })
	bound := token("alice", func(who *identity.Identity) { who.Device = "tablet" })
	for _, c := range []struct {
		name, token string
		say         func(*device)
		code        protocol.CloseCode
		why         problem.Code
	}{
		{"no token", "", hello, protocol.CloseToken, problem.Unauthorized},
		{"foreign token", "?", hello, protocol.CloseToken, problem.Unauthorized},
		{"expired token", expired, hello, protocol.CloseToken, problem.TokenExpired},
		{"another device's token", bound, hello, protocol.CloseForbidden, problem.Forbidden},
		{"forbidden topic", token("alice"), func(d *device) { d.hello("phone", topics("news", "secret")) }, protocol.CloseForbidden, problem.Forbidden},
		{"a device id that is too long", token("alice"), func(d *device) { d.hello(strings.Repeat("x", 129)) }, protocol.CloseProtocol, problem.IDTooLong},
		{"an unknown kind of address", token("alice"), func(d *device) { d.hello("phone", at(map[string]uint64{"group:1": 1})) }, protocol.CloseProtocol, problem.BadAddress},
		{"nothing", token("alice"), func(*device) {}, protocol.CloseSlow, problem.HelloExpected},
		{"auth and nothing", "", func(d *device) { d.say(protocol.FromClient{T: protocol.TAuth, Token: token("alice")}) }, protocol.CloseSlow, problem.HelloExpected},
		{"something else first", token("alice"), func(d *device) { d.ack("", 1) }, protocol.CloseProtocol, problem.HelloExpected},
		{"more than hello", token("alice"), func(d *device) {
			d.say(protocol.FromClient{T: protocol.THello}, protocol.FromClient{T: protocol.TPing})
		}, protocol.CloseProtocol, problem.HelloExpected},
		{"not JSON", token("alice"), func(d *device) { d.raw(websocket.TextMessage, "hello") }, protocol.CloseProtocol, problem.BadFrame},
		{"not UTF-8", token("alice"), func(d *device) { d.raw(websocket.TextMessage, "{\"t\":\"\xff\"}") }, protocol.CloseProtocol, problem.NotUTF8},
		{"binary", token("alice"), func(d *device) { d.raw(websocket.BinaryMessage, "{}") }, protocol.CloseProtocol, problem.BadFrame},
		{"too large", token("alice"), func(d *device) { d.raw(websocket.TextMessage, strings.Repeat(" ", frameMost+1)) }, protocol.CloseTooLarge, problem.TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := n
			if c.code == protocol.CloseSlow {
				at = hasty
			}
			d := at.dial(t, c.token)
			c.say(d)
			d.end(c.code, c.why)
		})
	}
	for _, n := range []*running{n, hasty} {
		eventually(t, "nobody is left", func() bool { return len(n.all()) == 0 && !n.hub.holds(alice) })
	}
}

func (d *device) raw(kind int, text string) {
	d.t.Helper()
	must(d.t, d.conn.WriteMessage(kind, []byte(text)))
}

// TestWhatEndsASession holds what a client is told that misbehaves later.
func TestWhatEndsASession(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, "1", "2")
	for _, c := range []struct {
		name string
		say  func(*device)
		code protocol.CloseCode
		why  problem.Code
	}{
		{"an acknowledgement ahead", func(d *device) { d.ack("", 3) }, protocol.CloseProtocol, problem.AckAhead},
		{"an acknowledgement of another's mailbox", func(d *device) { d.ack("user:bob", 1) }, protocol.CloseProtocol, problem.NotSubscribed},
		{"hello again", func(d *device) { d.hello("phone") }, protocol.CloseProtocol, problem.BadFrame},
		{"an unknown object", func(d *device) { d.say(protocol.FromClient{T: "x"}) }, protocol.CloseProtocol, problem.UnknownFrame},
		{"null", func(d *device) { d.raw(websocket.TextMessage, "null") }, protocol.CloseProtocol, problem.UnknownFrame},
		{"not UTF-8", func(d *device) { d.raw(websocket.TextMessage, "\x80") }, protocol.CloseProtocol, problem.NotUTF8},
		{"too large", func(d *device) {
			_ = d.conn.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", 1<<20))) // may end before it is out
		}, protocol.CloseTooLarge, problem.TooLarge},
		{"a forbidden topic", func(d *device) { d.say(protocol.FromClient{T: protocol.TSub, Topics: []string{"secret"}}) }, protocol.CloseForbidden, problem.Forbidden},
		{"another user's token", func(d *device) { d.say(protocol.FromClient{T: protocol.TAuth, Token: token("bob")}) }, protocol.CloseForbidden, problem.Forbidden},
		{"a foreign token", func(d *device) { d.say(protocol.FromClient{T: protocol.TAuth, Token: "?"}) }, protocol.CloseToken, problem.Unauthorized},
		{"too many topics", func(d *device) {
			d.say(protocol.FromClient{T: protocol.TSub, Topics: numbers(n.cfg.Topics + 1)})
		}, protocol.CloseProtocol, problem.BadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := n.device(t, "alice", "phone")
			d.wants("", 1, 2)
			c.say(d)
			d.end(c.code, c.why)
			if cursor := w.acked()["alice/phone/default.user.alice"]; cursor != 0 {
				t.Errorf("the cursor has moved to %d", cursor)
			}
			eventually(t, "the session has ended", func() bool { return len(n.all()) == 0 })
		})
	}
}

func TestAcknowledgementsThatMeanNothingAreIgnored(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, numbers(5)...)
	d := n.device(t, "alice", "phone", at(map[string]uint64{"user:alice": 3}))
	d.wants("", 4, 5)
	d.ack("", 3)
	d.ack("", 0)
	d.ack("user:alice", 5)
	d.ack("", 5)
	d.ack("", 4)
	d.quiet()
	eventually(t, "the cursor has moved", func() bool { return w.acked()["alice/phone/default.user.alice"] == 5 })
}

// TestTheHandshake holds what is refused before there is a WebSocket, and how a browser brings its token.
func TestTheHandshake(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Origins = "https://good.example" })
	at := n.listener.Addr().String()
	for _, c := range []struct {
		name, origin string
		protocols    []string
		status       int
	}{
		{"no subprotocol", "", nil, http.StatusBadRequest},
		{"another subprotocol", "", []string{"mqtt"}, http.StatusBadRequest},
		{"a foreign page", "https://evil.example", []string{protocol.Name}, http.StatusForbidden},
		{"a page with no origin of its own", "null", []string{protocol.Name}, http.StatusForbidden},
		{"an allowed page", "https://good.example", []string{protocol.Name}, http.StatusSwitchingProtocols},
		{"our own page", "http://" + at, []string{protocol.Name}, http.StatusSwitchingProtocols},
		{"a browser's token", "", []string{protocol.Name, protocol.BearerPrefix + base64.RawURLEncoding.EncodeToString([]byte(token("alice")))}, http.StatusSwitchingProtocols},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := http.Header{}
			if c.origin != "" {
				headers.Set("Origin", c.origin)
			}
			dialer := websocket.Dialer{Subprotocols: c.protocols, HandshakeTimeout: patience}
			conn, response, err := dialer.Dial("ws://"+at+protocol.Path, headers)
			if response == nil || response.StatusCode != c.status {
				t.Fatalf("answered %v, %v; want %d", response, err, c.status)
			}
			if err != nil {
				return
			}
			defer conn.Close()
			if conn.Subprotocol() != protocol.Name {
				t.Errorf("the subprotocol is %q", conn.Subprotocol())
			}
			if len(c.protocols) == 1 {
				return
			}
			must(t, conn.WriteMessage(websocket.TextMessage, []byte(`{"t":"hello"}`)))
			_, text, err := conn.ReadMessage()
			if err != nil || parse(t, text).T != protocol.TWelcome {
				t.Errorf("%s, %v instead of a welcome", text, err)
			}
		})
	}
}

// TestAuthAsTheFirstObject: a client that can set no header.
func TestAuthAsTheFirstObject(t *testing.T) {
	w := newWorld(t)
	d := w.node().dial(t, "")
	d.say(protocol.FromClient{T: protocol.TAuth, Token: token("alice")}, protocol.FromClient{T: protocol.THello})
	d.want(protocol.TWelcome)
}

// TestAFreshToken holds that a session goes on beyond its first token, and loses the topics that the new one does not
// allow; what the client still acknowledges of them does not end it.
func TestAFreshToken(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.dial(t, token("alice", func(who *identity.Identity) { who.Expires = time.Now().Add(1500 * time.Millisecond).UnixMilli() }))
	d.hello("phone", topics("news"))
	d.want(protocol.TWelcome)
	w.push(news, "1")
	d.wants("topic:news", 1, 1)
	d.say(protocol.FromClient{T: protocol.TAuth, Token: token("alice", func(who *identity.Identity) { who.Topics = nil })})
	if o := d.want(protocol.TUnsub); len(o.Boxes) != 2 {
		t.Errorf("the topic is taken away with %s", o.raw)
	}
	d.ack("topic:news", 1)
	if o := d.want(protocol.TError); o.Code != string(problem.NotSubscribed) {
		t.Errorf("%s came", o.raw)
	}
	w.push(news, "2")
	w.push(alice, "1")
	d.wants("", 1, 1)
	if n.hub.holds(news) {
		t.Error("the topic is still held")
	}
	s := n.all()[0]
	s.tick(time.Now().Add(10 * time.Second)) // the first token has expired by then
	d.quiet()
}

func TestSubscribe(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(news, "1", "2")
	d := n.device(t, "alice", "phone")
	d.say(protocol.FromClient{T: protocol.TSub, Topics: []string{"news", "news", "new.*"}})
	o := d.want(protocol.TSub)
	if len(o.Boxes) != 4 || o.Boxes["topic:news"] != (boxInfo{Head: 2, Next: 3}) {
		t.Errorf("sub is answered %s", o.raw)
	}
	w.push(news, "3")
	d.wants("topic:news", 3, 3)
	odd := subject.Address{Tenant: "default", Kind: subject.Topic, ID: "new.*"}
	w.push(odd, "1")
	d.wants("topic:new.*", 1, 1)
	d.say(protocol.FromClient{T: protocol.TUnsub, Topics: []string{"news"}})
	if o := d.want(protocol.TUnsub); len(o.Boxes) != 3 {
		t.Errorf("unsub is answered %s", o.raw)
	}
	w.push(news, "4")
	d.quiet()
	eventually(t, "the route is gone", func() bool { return len(w.holders(news)) == 0 && len(w.holders(odd)) == 1 })
	d.say(protocol.FromClient{T: protocol.TSub, Topics: []string{"news"}})
	d.want(protocol.TSub)
	d.wants("topic:news", 3, 4) // it was not acknowledged
}

// TestWhatWasAcknowledgedDoesNotComeAgain: the cursor of a topic goes out once a minute, but whoever asks for the topic
// again before that, on the same connection or on the next one, is not sent what it has acknowledged.
func TestWhatWasAcknowledgedDoesNotComeAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone", topics("news"))
	w.push(news, "1", "2")
	d.wants("topic:news", 1, 2)
	d.ack("topic:news", 2)
	d.say(protocol.FromClient{T: protocol.TUnsub, Topics: []string{"news"}}, protocol.FromClient{T: protocol.TSub, Topics: []string{"news"}})
	d.want(protocol.TUnsub)
	if o := d.want(protocol.TSub); o.Boxes["topic:news"].Next != 3 {
		t.Errorf("sub is answered %s; want to go on at 3", o.raw)
	}
	w.push(news, "3")
	d.wants("topic:news", 3, 3)
	d.ack("topic:news", 3)
	d.say(protocol.FromClient{T: protocol.TPing})
	d.want(protocol.TPong) // the acknowledgement has arrived
	again := n.device(t, "alice", "phone", topics("news"))
	if next := again.welcome.Boxes["topic:news"].Next; next != 4 {
		t.Errorf("the next connection goes on at %d; want 4", next)
	}
}

// TestALiveSessionOutlivesAnArchiveThatIsAway: the client is told to ask again, and its messages go on coming.
func TestALiveSessionOutlivesAnArchiveThatIsAway(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	d := n.device(t, "alice", "phone")
	w.archive.set(func() { w.archive.down = true })
	d.say(protocol.FromClient{T: protocol.TSub, Topics: []string{"news"}})
	if o := d.want(protocol.TError); o.Code != string(problem.Unavailable) {
		t.Errorf("sub without the archive is answered %s", o.raw)
	}
	w.push(alice, "1")
	d.wants("", 1, 1)
	w.archive.set(func() { w.archive.down = false })
	d.say(protocol.FromClient{T: protocol.TSub, Topics: []string{"news"}})
	d.want(protocol.TSub)
}

// TestASubscriptionDoesNotTakeTheDeviceBack: an older connection that asks for a topic, before it learns that a newer
// one has its device, must not be held for the newer one.
func TestASubscriptionDoesNotTakeTheDeviceBack(t *testing.T) {
	w := newWorld(t)
	old, other := w.node(), w.node()
	d := old.device(t, "alice", "phone")
	taken := route.Connection{User: alice, Device: "phone", Node: other.id, Session: "newer"}
	_, err := w.table.Connect(t.Context(), taken)
	must(t, err)
	d.say(protocol.FromClient{T: protocol.TSub, Topics: []string{"news"}})
	d.want(protocol.TSub)
	taken.Session = "newest"
	state, err := w.table.Connect(t.Context(), taken)
	must(t, err)
	if want := other.id + "/newer"; state.Previous != want {
		t.Errorf("the device is held by %q, not %q", state.Previous, want)
	}
}

// FuzzTakeApart holds that whatever a client sends is objects or a problem with a close code that says so.
func FuzzTakeApart(f *testing.F) {
	for _, seed := range []string{
		`{"t":"hello","device":"d","epoch":"e","cursors":{"user:alice":1},"topics":["a"],"client":"c/1"}`,
		"{\"t\":\"ack\",\"seq\":18446744073709551615}\n{\"t\":\"ping\"}", "\n\r\n ", "null", "[]", "\xff", `{"seq":-1}`, `{"t":1}`, "{}{}",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, isText bool) {
		kind := websocket.TextMessage
		if !isText {
			kind = websocket.BinaryMessage
		}
		objects, err := takeApart(kind, strings.NewReader(text))
		if err == nil {
			for _, o := range objects {
				if _, err := json.Marshal(o); err != nil {
					t.Errorf("%q became %+v: %v", text, o, err)
				}
			}
			return
		}
		if code, why := verdict(err); why == nil || (code != protocol.CloseProtocol && code != protocol.CloseTooLarge) || objects != nil {
			t.Errorf("%q is refused with %v: %d", text, err, code)
		}
	})
}

// TestANodeThatCantListenSaysSo, and leaves nothing running.
func TestANodeThatCantListenSaysSo(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Redis = l.Addr().String(), w.redisURL
	n, err := New(cfg, w.connect(), slog.New(slog.DiscardHandler))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.Run(ctx); err == nil || !strings.Contains(err.Error(), "-listen") || ctx.Err() != nil {
		t.Errorf("it ended with %v", err)
	}
}
