package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

const (
	greetTimeout = 10 * time.Second // for handshake and welcome, each
	// otherTimeout is for the handshake while there is another node: one that is stopped accepts connections, says
	// nothing, and must not keep a device from those that live. A handshake takes no more of a node than its own CPU.
	otherTimeout = 4 * time.Second
	writeTimeout = 10 * time.Second
	closeTimeout = time.Second
	// slackMost is how much later than after two heartbeats a server counts as silent.
	slackMost = 2 * time.Second
	// readMost is the largest text message taken, in bytes: many times what a server joins or a payload may have.
	readMost = 16 << 20
	// refusalMost is how much of a refused handshake's answer is read, in bytes.
	refusalMost = 1024
)

// object is anything a server sends; T says which members count. It is one type, so that each object is read once.
type object struct {
	T           string      `json:"t"`
	Ch          string      `json:"ch"`
	Seq         uint64      `json:"seq"`
	ID          string      `json:"id"`
	Type        string      `json:"type"`
	At          int64       `json:"at"`
	ContentType string      `json:"content_type"`
	Trace       string      `json:"traceparent"`
	Again       bool        `json:"re"`
	Data64      []byte      `json:"data64"`
	From        uint64      `json:"from"`
	To          uint64      `json:"to"`
	Why         message.Why `json:"why"`
	Within      int64       `json:"within"` // ms
	raw         []byte      // the object as it came
}

// conn is one connection. One goroutine reads; any may write.
type conn struct {
	ws      *websocket.Conn
	writing sync.Mutex // serialises writes
	// The reader's own:
	silence time.Duration    // how long the server may say nothing
	lines   [][]byte         // read and not yet returned by next
	said    *problem.Problem // the last `error` object
}

// dial connects, says hello and waits for the welcome. Errors are a *Closed where the server refused.
func dial(ctx context.Context, dialer *websocket.Dialer, to, token string, hello protocol.FromClient) (*conn, protocol.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*greetTimeout)
	defer cancel()
	ws, response, err := dialer.DialContext(ctx, to, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		return nil, protocol.Welcome{}, refusal(err, response)
	}
	ws.SetReadLimit(readMost)
	c := &conn{ws: ws, silence: greetTimeout}
	// The handshake is over and ctx no longer guards the connection; this does.
	release := context.AfterFunc(ctx, func() { _ = ws.Close() })
	welcome, err := c.greet(hello)
	if !release() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = ws.Close()
		return nil, protocol.Welcome{}, err
	}
	return c, welcome, nil
}

// refusal is what a handshake that failed means. The address is not repeated: the caller knows it.
func refusal(err error, response *http.Response) error {
	if response == nil || !errors.Is(err, websocket.ErrBadHandshake) {
		return fmt.Errorf("connect: %w", err)
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, refusalMost)) // what can be read will do
	_ = response.Body.Close()
	return refusedHTTP(response, strings.TrimSpace(string(text)), time.Now())
}

// greet says hello and reads up to the welcome.
func (c *conn) greet(hello protocol.FromClient) (welcome protocol.Welcome, err error) {
	if c.ws.Subprotocol() != protocol.Name {
		return welcome, fmt.Errorf("%w: it does not speak %s; is the URL right?", ErrProtocol, protocol.Name)
	}
	if err := c.say(hello); err != nil {
		return welcome, err
	}
	for {
		o, err := c.next()
		if _, refused := errors.AsType[*Closed](err); err != nil && !refused {
			return welcome, fmt.Errorf("%w: %w", errUnanswered, err)
		} else if refused {
			return welcome, err
		}
		if o.T != protocol.TWelcome {
			continue // next has seen to pings and errors; nothing else has a meaning yet
		}
		if err := json.Unmarshal(o.raw, &welcome); err != nil || welcome.Heartbeat <= 0 || welcome.User == "" {
			return welcome, fmt.Errorf("%w: its welcome has no user or no heartbeat", ErrProtocol)
		}
		beat := time.Duration(welcome.Heartbeat) * time.Millisecond
		c.silence = 2*beat + min(beat/2, slackMost)
		return welcome, nil
	}
}

// next returns the next object. It answers pings, and remembers errors for the case that the connection ends with them.
// It fails when the server says nothing for two heartbeats and what a loaded machine adds.
func (c *conn) next() (object, error) {
	for {
		for len(c.lines) == 0 {
			if err := c.read(); err != nil {
				return object{}, c.explain(err)
			}
		}
		o, err := parse(c.lines[0])
		c.lines = c.lines[1:]
		if err != nil {
			return object{}, err
		}
		switch o.T {
		case protocol.TPing:
			if err := c.say(protocol.Beat{T: protocol.TPong}); err != nil {
				return object{}, err
			}
		case protocol.TError:
			c.said = new(problem.Problem)
			_ = json.Unmarshal(o.raw, c.said) // it has been read once as an object; members of another kind stay empty
			return o, nil
		default:
			return o, nil
		}
	}
}

func parse(line []byte) (object, error) {
	o := object{raw: line}
	if err := json.Unmarshal(line, &o); err != nil {
		return object{}, fmt.Errorf("%w: an object is not the JSON it should be: %w", ErrProtocol, err)
	}
	return o, nil
}

// read takes one text message apart.
func (c *conn) read() error {
	if err := c.ws.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return err
	}
	kind, text, err := c.ws.ReadMessage()
	if err != nil {
		return err
	}
	if kind != websocket.TextMessage {
		return fmt.Errorf("%w: a binary message", ErrProtocol)
	}
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if len(line) > 0 {
			c.lines = append(c.lines, line)
		}
	}
	return nil
}

// explain turns the end of reading into Closed where the server gave a reason.
func (c *conn) explain(err error) error {
	closed, ok := errors.AsType[*websocket.CloseError](err)
	if !ok || closed.Code == websocket.CloseAbnormalClosure {
		return fmt.Errorf("read: %w", err)
	}
	return &Closed{Code: protocol.CloseCode(closed.Code), Problem: c.said}
}

// say sends objects in one text message.
func (c *conn) say(objects ...any) error {
	var text []byte
	for i, o := range objects {
		line, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		if i > 0 {
			text = append(text, '\n')
		}
		text = append(text, line...)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := c.ws.WriteMessage(websocket.TextMessage, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// abandon ends a connection on which nothing can be read any more, and a write that is stuck on it.
func (c *conn) abandon() { _ = c.ws.NetConn().Close() }

// close says goodbye, if there is anybody, and ends a read that is waiting.
func (c *conn) close() {
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	// Both only fail on a connection that is gone, which is what is wanted.
	_ = c.ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(closeTimeout))
	_ = c.ws.Close()
}

// endpoint is the WebSocket URL of a push node that was named in any usual way.
func endpoint(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("client: the URL can't be read: %w", err)
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	case "ws", "wss":
	default:
		return "", fmt.Errorf("client: the URL %q is not ws://host:port or wss://host:port", raw)
	}
	if u.Host == "" {
		return "", fmt.Errorf("client: the URL %q names no host", raw)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = protocol.Path
	}
	return u.String(), nil
}
