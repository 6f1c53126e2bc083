package push

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

const (
	// frameMost is the largest text message of a client, in bytes. A hello with 100 topics and cursors fits.
	frameMost = 64 << 10
	// greetTimeout is how long a client may take for auth and hello.
	greetTimeout = 5 * time.Second
	// writeMost is how many bytes of objects go into one WebSocket message, unless one object alone is larger.
	writeMost = 32 << 10
	// readBuffer is how much is read from a socket at once, in bytes. What a client sends mostly is shorter; larger
	// payloads pass the buffer by. It is the largest part of an idle connection that can be chosen.
	readBuffer = 512
	// closeTimeout bounds the writing of a close frame, and the wait for the client's.
	closeTimeout = time.Second
)

// buffers are where objects are joined for writing; they are big only while they are used.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }} //nolint:gochecknoglobals // a pool has to outlive its users

// socket is a WebSocket as a session's transport.
type socket struct {
	conn  *websocket.Conn
	began time.Time // when it was asked for
	// patience is how long a client may take to read what is written at once. The watch cuts earlier one that is silent.
	patience time.Duration
	mu       sync.Mutex // serialises data writes; control frames have their own lock in gorilla
}

// ping is the session's sign that it wants to hear from its client.
var ping = object(protocol.Beat{T: protocol.TPing}) //nolint:gochecknoglobals // a constant in all but Go's word for it

// acceptor upgrades requests. The handler returns at once and the connection is read in a goroutine of its own: that
// halves its memory (design section 9).
func (n *Service) acceptor(ctx context.Context) http.Handler {
	upgrader := websocket.Upgrader{
		Subprotocols:     []string{protocol.Name},
		CheckOrigin:      n.mayConnect,
		HandshakeTimeout: greetTimeout,
		ReadBufferSize:   readBuffer,
		WriteBufferPool:  &sync.Pool{},
		// No compression: the library's read limit does not bound what a small message inflates to.
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) && !slices.Contains(websocket.Subprotocols(r), protocol.Name) {
			http.Error(w, "offer the WebSocket subprotocol "+protocol.Name, http.StatusBadRequest)
			return
		}
		began, token := time.Now(), bearer(r)
		if err := n.arrive(); err != nil {
			refuseHTTP(w, err)
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			n.gate.settle()
			return // the upgrader has answered
		}
		n.tasks.Go(func() { n.serve(ctx, &socket{conn: conn, began: began, patience: n.cfg.SlowAfter}, token) })
	})
}

// bearer is the token of a request, from its Authorization header or, from browsers, its subprotocols.
func bearer(r *http.Request) string {
	if token := authorization(r.Header); token != "" {
		return token
	}
	for _, p := range websocket.Subprotocols(r) {
		if encoded, ok := strings.CutPrefix(p, protocol.BearerPrefix); ok {
			if token, err := base64.RawURLEncoding.DecodeString(encoded); err == nil {
				return string(token)
			}
		}
	}
	return ""
}

// serve opens a session on a connection. The rest of the connection's life is read in yet another goroutine: it never
// gets the stack that opening takes, nor waits below serve's own frame, and so waits on 4 KiB instead of 8.
func (n *Service) serve(ctx context.Context, sock *socket, token string) {
	cut := context.AfterFunc(ctx, func() { _ = sock.conn.Close() })
	s, err := n.greet(ctx, sock, token)
	cut()
	n.gate.settle()
	if err != nil {
		sock.refuse(err)
		sock.hangUp()
		return
	}
	// A pong of the WebSocket counts as a sign of life: it is all that a simple program like wscat sends by itself.
	sock.conn.SetPongHandler(func(said string) error {
		s.hear()
		if number, err := strconv.ParseUint(said, 10, 32); err == nil {
			s.echo(uint32(number))
		}
		return nil
	})
	n.tasks.Go(func() {
		s.finish(verdict(n.converse(ctx, sock, s))) // the session's writer says why
		n.close(ctx, s)
		sock.hangUp()
	})
}

// greet takes auth and hello, which have n.greeting to arrive, and opens the session.
func (n *Service) greet(ctx context.Context, sock *socket, token string) (*session, error) {
	token, hello, err := n.introduction(sock, token)
	if err != nil {
		return nil, err
	}
	return n.welcome(ctx, visitor{out: sock, began: sock.began, token: token, hello: hello})
}

// introduction reads what a client says first: hello, or auth and then hello.
func (n *Service) introduction(sock *socket, token string) (string, protocol.FromClient, error) {
	var o protocol.FromClient
	if err := sock.conn.SetReadDeadline(time.Now().Add(n.greeting)); err != nil {
		return "", o, err
	}
	var first []protocol.FromClient
	next := func() (protocol.FromClient, error) {
		for len(first) == 0 {
			kind, r, err := sock.conn.NextReader()
			if err == nil {
				first, err = takeApart(kind, r)
			}
			if err != nil {
				return protocol.FromClient{}, err
			}
		}
		o := first[0]
		first = first[1:]
		return o, nil
	}
	o, err := next()
	if err == nil && o.T == protocol.TAuth {
		token = o.Token
		o, err = next()
	}
	switch {
	case err != nil:
		return "", o, err
	case o.T != protocol.THello:
		return "", o, problem.New(problem.HelloExpected, "the first object must be hello (or auth, then hello), not %q", o.T).In("t")
	case len(first) > 0:
		return "", o, problem.New(problem.HelloExpected, "wait for welcome before sending more")
	}
	return token, o, sock.conn.SetReadDeadline(time.Time{})
}

// converse handles what the client sends until the connection ends or has to end. It waits with as little on its stack
// as can be.
func (n *Service) converse(ctx context.Context, sock *socket, s *session) error {
	for {
		kind, r, err := sock.conn.NextReader()
		if err != nil {
			return err
		}
		if err := n.hear(ctx, s, kind, r); err != nil {
			return err
		}
	}
}

// hear handles one message of an open session.
func (n *Service) hear(ctx context.Context, s *session, kind int, r io.Reader) error {
	objects, err := takeApart(kind, r)
	if err != nil {
		return err
	}
	s.hear()
	for _, o := range objects {
		if err := n.handle(ctx, s, o); err != nil {
			return err
		}
	}
	return nil
}

// takeApart reads and decodes a message of a client. Errors are problems where the client is to blame.
func takeApart(kind int, r io.Reader) ([]protocol.FromClient, error) {
	raw, err := io.ReadAll(io.LimitReader(r, frameMost+1))
	switch {
	case err != nil:
		return nil, err
	case len(raw) > frameMost:
		return nil, problem.New(problem.TooLarge, "a message of a client may have %d bytes", frameMost)
	case kind != websocket.TextMessage:
		return nil, problem.New(problem.BadFrame, "a binary message came; %s is text", protocol.Name)
	case !utf8.Valid(raw): // the library does not check
		return nil, problem.New(problem.NotUTF8, "a text message was not UTF-8")
	}
	var objects []protocol.FromClient
	for line := range bytes.SplitSeq(raw, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var o protocol.FromClient
		if err := json.Unmarshal(line, &o); err != nil {
			return nil, problem.New(problem.BadFrame, "a line is not the JSON object it should be: %v", err)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// Write implements transport.
func (sock *socket) Write(objects [][]byte) error {
	sock.mu.Lock()
	defer sock.mu.Unlock()
	if err := sock.conn.SetWriteDeadline(time.Now().Add(sock.patience)); err != nil {
		return err
	}
	joined := buffers.Get().(*bytes.Buffer) //nolint:forcetypeassert // the pool holds nothing else
	defer buffers.Put(joined)
	joined.Reset()
	for i, o := range objects {
		if bytes.Equal(o, ping) { // also in the way that libraries answer by themselves
			if err := sock.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(sock.patience)); err != nil {
				return err
			}
		}
		joined.Write(o)
		if rest := objects[i+1:]; len(rest) > 0 && joined.Len()+len(rest[0]) < writeMost {
			joined.WriteByte('\n')
			continue
		}
		if err := sock.conn.WriteMessage(websocket.TextMessage, joined.Bytes()); err != nil {
			return err
		}
		joined.Reset()
	}
	return nil
}

// Ask implements transport with a ping of the WebSocket, which every client answers with the same number, whatever else
// it does.
func (sock *socket) Ask(number uint32) error {
	return sock.conn.WriteControl(websocket.PingMessage, strconv.AppendUint(nil, uint64(number), 10), time.Now().Add(sock.patience))
}

// Close implements transport. The connection's reader hangs up; it does not wait for a client that was silent.
func (sock *socket) Close(code protocol.CloseCode, reason string) {
	frame := websocket.FormatCloseMessage(int(code), reason)
	wait := closeTimeout
	if reason == string(problem.Silent) {
		wait = 0
	}
	// Both only fail on a connection that is gone, which is what is wanted.
	_ = sock.conn.WriteControl(websocket.CloseMessage, frame, time.Now().Add(closeTimeout))
	_ = sock.conn.SetReadDeadline(time.Now().Add(wait))
}

// Cut implements transport.
func (sock *socket) Cut() { _ = sock.conn.NetConn().Close() } // fails on a connection that is gone

// hangUp reads what is left until the client has closed as well, which Close bounds, and ends the connection. A
// connection that is ended with bytes unread is reset, and the client may never see the code that tells it not to
// come again.
func (sock *socket) hangUp() {
	_ = sock.conn.SetReadDeadline(time.Now().Add(2 * closeTimeout)) // Close may have to wait for a last Write
	for {
		if _, _, err := sock.conn.NextReader(); err != nil {
			break
		}
	}
	_ = sock.conn.Close()
}

// refuse ends a connection that has no session.
func (sock *socket) refuse(err error) {
	code, why := verdict(err)
	if why != nil {
		_ = sock.Write([][]byte{object(protocol.Error{T: protocol.TError, Problem: *why})})
		sock.Close(code, string(why.Code))
		return
	}
	sock.Close(code, "")
}
