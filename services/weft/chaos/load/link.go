package load

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/shared/protocol"
)

// link is a connection of a raw device through one of the doors of push. One goroutine uses it, but for bye.
type link interface {
	greeting() protocol.Welcome
	// next returns objects as they came. It fails when the server says nothing for two heartbeats, or closes (*refusal).
	next() ([]object, error)
	// acknowledge sends acknowledgements; those that get lost are covered by later ones.
	acknowledge(acks []protocol.FromClient) error
	// leaveWithin says bye after d, as a draining node asks.
	leaveWithin(d time.Duration)
	// bye ends the connection; any goroutine may.
	bye()
	// close ends the connection and everything of it.
	close()
}

// visit is what a link needs: who says hello where.
type visit struct {
	dial  netDial
	url   string // of the push node
	other string // of any push node: where acknowledgements go that have a way of their own
	token string
	hello protocol.FromClient
	kind  int // any number: which of the forms of a door it takes
}

// opener opens a link. The error is a *refusal where the server has refused.
type opener func(context.Context, visit) (link, error)

// The doors of a device, as the history names them. A raw one goes from door to door as it goes from node to node.
const (
	overWebSocket = "websocket"
	overSSE       = "sse"
	overConnect   = "grpc-connect"
	overSubscribe = "grpc-subscribe"
	overClient    = "go-client" // not raw: the Go client's WebSocket
)

// doors are the doors in the order in which a device takes them; every second session is over a WebSocket.
var doors = [...]struct { //nolint:gochecknoglobals // a constant in all but Go's word for it
	name string
	open opener
}{
	{overWebSocket, openWebSocket},
	{overSSE, openEvents},
	{overWebSocket, openWebSocket},
	{overConnect, openConnect},
	{overWebSocket, openWebSocket},
	{overSubscribe, openSubscribe},
}

// openWebSocket implements opener.
func openWebSocket(ctx context.Context, v visit) (link, error) {
	w, sent, err := connect(ctx, v.dial, v.url, v.token, v.hello)
	switch _, answered := errors.AsType[*refusal](err); {
	case err == nil:
		return w, nil
	case !sent || answered:
		return nil, errors.Join(errUnsaid, err)
	default:
		return nil, err
	}
}

// errUnsaid is in the chain of an error after which no node can have the hello.
var errUnsaid = errors.New("no hello is under way")

// greeting implements link.
func (w *wire) greeting() protocol.Welcome { return w.welcome }

// acknowledge implements link.
func (w *wire) acknowledge(acks []protocol.FromClient) error {
	objects := make([]any, len(acks))
	for i, ack := range acks {
		objects[i] = ack
	}
	return w.say(objects...)
}

// thread is what the links over HTTP have in common: a context that ends them, and the clocks that end it.
type thread struct {
	cancel   context.CancelFunc
	client   *http.Client
	line     atomic.Pointer[net.Conn] // that it was dialled on; there is one
	silence  time.Duration
	quiet    *time.Timer // ends the link when the server says nothing
	leaving  *time.Timer
	released func() bool
	welcome  protocol.Welcome
}

// spin begins a link that ends with ctx.
func spin(ctx context.Context, transport *http.Transport, dial netDial) (context.Context, *thread) {
	t := &thread{client: &http.Client{Transport: transport}, silence: welcomeTimeout}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			t.line.Store(&conn)
		}
		return conn, err
	}
	// The end of ctx is for whoever leaves (see raw.hold); until the welcome it is ours.
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.cancel, t.quiet = cancel, time.AfterFunc(welcomeTimeout, cancel)
	t.released = context.AfterFunc(ctx, cancel)
	return alive, t
}

// heard notes that the server has said something.
func (t *thread) heard() { t.quiet.Reset(t.silence) }

// begin takes the welcome.
func (t *thread) begin(welcome protocol.Welcome) {
	t.welcome = welcome
	t.silence = 2 * time.Duration(welcome.Heartbeat) * time.Millisecond
	t.heard()
}

func (t *thread) greeting() protocol.Welcome { return t.welcome }

func (t *thread) bye() { t.cancel() }

func (t *thread) leaveWithin(d time.Duration) {
	if t.leaving == nil {
		t.leaving = time.AfterFunc(d, t.cancel)
	}
}

func (t *thread) close() {
	t.released()
	t.quiet.Stop()
	if t.leaving != nil {
		t.leaving.Stop()
	}
	t.cancel()
	if line := t.line.Load(); line != nil { // HTTP/2 keeps one whose last stream has just been given up
		_ = (*line).Close()
	}
	t.client.CloseIdleConnections()
}
