package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/protocol"
)

const (
	handshakeTimeout = 5 * time.Second
	welcomeTimeout   = 10 * time.Second
	writeTimeout     = 10 * time.Second
	byeTimeout       = time.Second
	// wireBuffer is the size of a connection's buffers, in bytes: thousands of them are held.
	wireBuffer = 1024
)

// wire is a raw connection of a device: it speaks the protocol by itself, so as not to trust the client library.
type wire struct {
	ws      *websocket.Conn
	welcome protocol.Welcome
	silence time.Duration // how long the server may say nothing
	said    string        // its last `error`
	leaving *time.Timer   // says bye because the node drains; nil before it does
}

// object is anything a server sends.
type object struct {
	T       string `json:"t"`
	Ch      string `json:"ch"`
	Seq     uint64 `json:"seq"`
	ID      string `json:"id"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Why     string `json:"why"`
	Within  int64  `json:"within"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Data64  []byte `json:"data64"`
	raw     []byte
}

// data is the payload as it was published.
func (o *object) data() []byte {
	if b := protocol.Data(o.raw); b != nil {
		return b
	}
	return o.Data64
}

// refusal is how a server ended a connection, or did not begin one.
type refusal struct {
	code  protocol.CloseCode
	after time.Duration // how long it wants to be left alone
	said  string
}

// Error names the code and what the server said.
func (r *refusal) Error() string {
	return strings.TrimSpace(fmt.Sprintf("closed with %d %s", r.code, r.said))
}

// connect connects to a push node, says hello and waits for the welcome. sent says whether hello was sent.
func connect(ctx context.Context, dial netDial, url, token string, hello protocol.FromClient) (w *wire, sent bool, err error) {
	dialer := websocket.Dialer{
		NetDialContext: dial, HandshakeTimeout: handshakeTimeout, Subprotocols: []string{protocol.Name},
		ReadBufferSize: wireBuffer, WriteBufferSize: wireBuffer,
	}
	ws, response, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(url, "http")+protocol.Path, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		return nil, false, refused(err, response)
	}
	w = &wire{ws: ws, silence: welcomeTimeout}
	release := context.AfterFunc(ctx, func() { _ = ws.Close() })
	err = w.greet(hello)
	if !release() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = ws.Close()
		return nil, true, err
	}
	return w, true, nil
}

// netDial opens a network connection.
type netDial func(ctx context.Context, network, address string) (net.Conn, error)

// refused is what a handshake that failed means.
func refused(err error, response *http.Response) error {
	if response == nil {
		return fmt.Errorf("connect: %w", err)
	}
	_ = response.Body.Close()
	r := &refusal{said: response.Status, code: protocol.CloseDraining}
	switch {
	case response.StatusCode == http.StatusTooManyRequests:
		r.code, r.after = protocol.CloseBackOff, time.Second
	case response.StatusCode < http.StatusInternalServerError:
		r.code = protocol.CloseProtocol
	}
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 16); err == nil {
		r.after = time.Duration(seconds) * time.Second
	}
	return r
}

func (w *wire) greet(hello protocol.FromClient) error {
	if err := w.say(hello); err != nil {
		return err
	}
	for {
		objects, err := w.next()
		if err != nil {
			return err
		}
		for _, o := range objects {
			if o.T != protocol.TWelcome {
				continue
			}
			if err := json.Unmarshal(o.raw, &w.welcome); err != nil || w.welcome.Heartbeat <= 0 || len(objects) > 1 {
				return fmt.Errorf("the first text message is %.200s", o.raw)
			}
			w.silence = 2 * time.Duration(w.welcome.Heartbeat) * time.Millisecond
			return nil
		}
	}
}

// next returns the objects of the next text message. Pings are answered, errors remembered. It fails when the server
// says nothing for two heartbeats.
func (w *wire) next() ([]object, error) {
	if err := w.ws.SetReadDeadline(time.Now().Add(w.silence)); err != nil {
		return nil, err
	}
	kind, text, err := w.ws.ReadMessage()
	if err != nil {
		return nil, w.explain(err)
	}
	if kind != websocket.TextMessage {
		return nil, errors.New("a binary message came")
	}
	var objects []object
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		o := object{raw: line}
		if err := json.Unmarshal(line, &o); err != nil {
			return nil, fmt.Errorf("%.200q is not an object: %w", line, err)
		}
		switch o.T {
		case protocol.TPing:
			if err := w.say(protocol.Beat{T: protocol.TPong}); err != nil {
				return nil, err
			}
		case protocol.TError:
			w.said = o.Code + ": " + o.Message
		default:
			objects = append(objects, o)
		}
	}
	return objects, nil
}

func (w *wire) explain(err error) error {
	closed, ok := errors.AsType[*websocket.CloseError](err)
	if !ok || closed.Code == websocket.CloseAbnormalClosure {
		return err
	}
	r := &refusal{code: protocol.CloseCode(closed.Code), said: w.said}
	if r.code == protocol.CloseBackOff {
		r.after = time.Second
	}
	return r
}

// say sends objects in one text message. One goroutine may.
func (w *wire) say(objects ...any) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text) // which ends each with a newline
	for _, o := range objects {
		if err := e.Encode(o); err != nil {
			return err
		}
	}
	if err := w.ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return w.ws.WriteMessage(websocket.TextMessage, bytes.TrimRight(text.Bytes(), "\n"))
}

// bye ends the connection cleanly. Any goroutine may.
func (w *wire) bye() {
	frame := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = w.ws.WriteControl(websocket.CloseMessage, frame, time.Now().Add(byeTimeout))
	_ = w.ws.Close()
}

// leaveWithin says bye after d, as a draining node asks.
func (w *wire) leaveWithin(d time.Duration) {
	if w.leaving == nil {
		w.leaving = time.AfterFunc(d, w.bye)
	}
}

// close ends the connection without a word.
func (w *wire) close() {
	if w.leaving != nil {
		w.leaving.Stop()
	}
	_ = w.ws.Close()
}

const (
	// firstPause is the limit of the pause after a connection that was fine; it doubles up to mostPause.
	firstPause = 250 * time.Millisecond
	mostPause  = 5 * time.Second
	// finePeriod is how long a connection has to last to have been fine.
	finePeriod = 2 * time.Second
)

// ring is the push nodes that a raw device goes round. It belongs to one goroutine.
type ring struct {
	urls   []string
	at     int
	failed int // connections in a row that were not fine
	random *rand.Rand
}

func newRing(urls []string, random *rand.Rand) *ring {
	return &ring{urls: urls, at: random.IntN(len(urls)), random: random}
}

func (r *ring) url() string { return r.urls[r.at%len(r.urls)] }

// any is one of the nodes.
func (r *ring) any() string { return r.urls[r.random.IntN(len(r.urls))] }

// move goes to the next node and returns the pause before it is asked.
func (r *ring) move(err error, lasted time.Duration) time.Duration {
	r.at++
	if lasted >= finePeriod {
		r.failed = 0
	}
	limit := min(firstPause<<min(r.failed/len(r.urls), 10), mostPause)
	r.failed++
	pause := time.Duration(r.random.Int64N(int64(limit)))
	if refusal, ok := errors.AsType[*refusal](err); ok && len(r.urls) == 1 {
		pause += refusal.after
	} else if ok && r.failed > len(r.urls) { // all have failed
		pause += min(refusal.after, mostPause)
	}
	return pause
}
