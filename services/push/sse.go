package push

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

const (
	// retryLeast and retryMost bound the time after which a browser connects again by itself. Each is told another one, so
	// that the clients of a node that died do not come back in step.
	retryLeast = time.Second
	retryMost  = 4 * time.Second
)

// events is a stream of Server-Sent Events as a session's transport. Its client can't answer: a heartbeat is a comment,
// and the session is a mute one. A `msg` is a plain event, which EventSource hands to onmessage; every other object is an event
// of its own kind.
type events struct {
	*stream
	w       http.ResponseWriter
	session atomic.Pointer[session] // set once the door has it; the writer begins before
	// The writer's own:
	places places
	begun  bool // the header is written
}

// sse is the door of Server-Sent Events. ctx ends when the node does.
func (n *Service) sse(serving context.Context) http.Handler {
	return n.withStream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := n.stream(serving, w, r); err != nil {
			refuseHTTP(w, err)
		}
	}))
}

// stream serves one request until its session has ended. After an error nothing has been written.
func (n *Service) stream(serving context.Context, w http.ResponseWriter, r *http.Request) error {
	began := time.Now()
	hello, err := helloOf(r)
	if err != nil {
		return err
	}
	if err := n.arrive(); err != nil {
		return err
	}
	out := &events{stream: streamOf(r.Context()), w: w, places: places{hello: hello}} //nolint:contextcheck // it is the request's
	s, err := n.enter(serving, r, visitor{out: out, began: began, token: authorization(r.Header), hello: hello, mute: true})
	if err != nil {
		return err
	}
	out.session.Store(s)
	n.attend(r.Context(), s, out.stream, nil) //nolint:contextcheck // it is the request's
	return nil
}

// enter opens the session of a request that has arrived, unless the client leaves or the node ends before.
func (n *Service) enter(serving context.Context, r *http.Request, v visitor) (*session, error) {
	defer n.gate.settle()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(serving, cancel)()
	return n.welcome(ctx, v) //nolint:contextcheck // it is the request's, ended early
}

// helloOf is what a request says: who it is in the query, and where it stands in Last-Event-ID. A parameter that nobody
// knows is refused: a misspelt topic would be one that never comes.
func helloOf(r *http.Request) (protocol.FromClient, error) {
	hello := protocol.FromClient{T: protocol.THello}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return hello, problem.New(problem.BadRequest, "the query can't be read: %v", err)
	}
	for name, values := range query {
		switch {
		case name == "token" || name == "access_token":
			return hello, problem.New(problem.BadRequest, "a token in a URL ends up in logs; send it as Authorization: Bearer, and get a new one instead of this").In(name)
		case name == "topic":
			hello.Topics = values
		case len(values) > 1:
			return hello, problem.New(problem.BadRequest, "%q is there more than once", name).In(name)
		case name == "device":
			hello.Device = values[0]
		case name == "client":
			hello.Client = values[0]
		default:
			return hello, problem.New(problem.BadRequest, "the parameter %q is unknown; there are device, client, and topic as often as wanted", name).In(name)
		}
	}
	if id := r.Header.Get(protocol.LastEventID); id != "" {
		hello.Epoch, hello.Cursors, err = protocol.ParseEventID(id)
	}
	return hello, err
}

// Write implements transport.
func (e *events) Write(objects [][]byte) error {
	b := buffers.Get().(*bytes.Buffer) //nolint:forcetypeassert // the pool holds nothing else
	defer buffers.Put(b)
	b.Reset()
	if s := e.session.Load(); s != nil {
		e.places.forget(s.settled)
	}
	for _, o := range objects {
		if bytes.Equal(o, ping) {
			b.WriteString(": heartbeat\n\n")
			continue
		}
		got, err := protocol.Decode(o)
		if err != nil {
			return err
		}
		if e.places.note(&got) {
			b.WriteString("id: ")
			b.Write(e.places.append(b.AvailableBuffer()))
			b.WriteByte('\n')
		}
		event(b, got.T, o)
	}
	return e.flush(b.Bytes())
}

// event writes one event with its kind, unless it is a message.
func event(b *bytes.Buffer, kind string, data []byte) {
	if kind != protocol.TMsg {
		b.WriteString("event: " + kind + "\n")
	}
	b.WriteString("data: ")
	b.Write(data)
	b.WriteString("\n\n")
}

// flush sends what was written to the client, behind the header if nothing was sent before.
func (e *events) flush(text []byte) error {
	if !e.begun {
		e.begun = true
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no")                   // nginx would collect events
		retry := retryLeast + rand.N(retryMost-retryLeast) //nolint:gosec // it spreads, and hides nothing
		if _, err := e.w.Write(append(strconv.AppendInt([]byte("retry: "), retry.Milliseconds(), 10), "\n\n"...)); err != nil {
			return err
		}
	}
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return e.control.Flush()
}

// Ask implements transport; nobody asks a client that can't answer.
func (e *events) Ask(uint32) error { return errors.ErrUnsupported }

// Close implements transport.
func (e *events) Close(code protocol.CloseCode, reason string) {
	defer e.end()
	if code == protocol.CloseNormal { // the client has left
		return
	}
	var b bytes.Buffer
	event(&b, protocol.TClose, object(protocol.Close{Code: code, Reason: problem.Code(reason), Retry: !code.Fatal()}))
	_ = e.flush(b.Bytes()) // fails on a connection that is gone
}
