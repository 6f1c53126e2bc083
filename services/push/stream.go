package push

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/service"
)

// stream is what those transports share whose life is the handler of an HTTP request: SSE, and the calls of gRPC. The
// session's writer writes the response; the handler waits in attend until nothing will be written any more, since no
// response may be touched once its handler has returned. A transport embeds it and adds Write, Ask and Close; the last
// thing that its Close does is end.
type stream struct {
	control *http.ResponseController
	conn    net.Conn
	ended   chan struct{} // closed by end

	mu      sync.Mutex // protects the rest; held while the response is cut
	cut     bool
	arrived bool // the request is there
	left    bool // the handler returns
}

func newStream(w http.ResponseWriter, r *http.Request) *stream {
	return &stream{control: http.NewResponseController(w), conn: service.Conn(r.Context()), ended: make(chan struct{})}
}

// end says that nothing will be written any more.
func (st *stream) end() { close(st.ended) }

// Cut implements transport: a write that is under way fails. If it does not, because the connection takes not even the end
// of one stream of HTTP/2, the next call closes the connection.
func (st *stream) Cut() {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.left:
	case st.cut:
		_ = st.conn.Close() // fails on a connection that is gone
	default:
		st.cut = true
		_ = st.control.SetWriteDeadline(time.Unix(1, 0)) // as well
	}
}

// readUntil bounds how long the request may take to arrive.
func (st *stream) readUntil(at time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.arrived && !st.left {
		_ = st.control.SetReadDeadline(at) // fails on a connection that is gone
	}
}

// arrive says that the request is there. Over HTTP/1.1 it would count as given up when the time passes that it had.
func (st *stream) arrive() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.arrived = true
	_ = st.control.SetReadDeadline(time.Time{}) // as above
}

// leave is the last thing that a handler does.
func (st *stream) leave() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.left = true
}

// attend serves a session on a stream until it has ended and nothing will be written any more: then the handler may
// return. ctx is the request's, whose end is the client's leaving. listen reads and handles what the client says until it
// says no more; it is nil where a client can't speak.
func (n *Service) attend(ctx context.Context, s *session, out *stream, listen func() error) {
	var listening sync.WaitGroup
	if listen != nil {
		listening.Go(func() { s.finish(verdict(listen())) })
	}
	select {
	case <-out.ended:
	case <-ctx.Done():
		s.finish(protocol.CloseNormal, nil)
		<-out.ended // soon: the connection is gone, and the watch cuts what does not end
	}
	if listen != nil {
		_ = out.control.SetReadDeadline(time.Unix(1, 0)) // listen would wait for a client that has nothing to say
		listening.Wait()
	}
	n.close(ctx, s)
	time.AfterFunc(endMost, out.Cut) // the watch does not see the session any more, and HTTP/2 may yet have to write its end
}

// streamKey is where withStream keeps a request's stream.
type streamKey struct{}

// withStream gives handlers that do not see their response itself the stream of it: see streamOf. Every handler whose
// transport is a stream has to be behind it. A node that ends waits for these handlers.
func (n *Service) withStream(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.tasks.Add(1)
		defer n.tasks.Done()
		out := newStream(w, r)
		defer out.leave()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), streamKey{}, out)))
	})
}

// streamOf is the stream of a request that came through withStream.
func streamOf(ctx context.Context) *stream {
	return ctx.Value(streamKey{}).(*stream) //nolint:forcetypeassert // a handler without withStream is a mistake of ours
}

// inTime bounds how long a request behind withStream may take to arrive, until its handler calls arrive; a node that ends waits
// no longer. connect reads the message of a call before the call's method runs, and so before the gate and the token.
func (n *Service) inTime(serving context.Context, limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := streamOf(r.Context()) //nolint:contextcheck // it is the request's
		out.readUntil(time.Now().Add(limit))
		defer context.AfterFunc(serving, func() { out.readUntil(time.Unix(1, 0)) })()
		next.ServeHTTP(w, r)
	})
}
