package collect

import (
	"context"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
)

const (
	// callMost is the largest message of a call, in bytes as it travels: maxPayload as base64 in Connect's JSON, with room
	// for the rest.
	callMost = 2 << 20
	// streamsAtOnce is how many PublishStreams a collect holds open.
	streamsAtOnce = 256
	// streamedAtOnce is how many messages of all streams are read and not answered, and streamAtOnce how many of one. With
	// payloads of 64 KiB the first are 64 MiB.
	streamedAtOnce = 1024
	streamAtOnce   = 64
	// streamMost is the most messages of one stream: their receipts, some 100 bytes each, are one answer, and gRPC clients
	// take 4 MiB.
	streamMost = 10_000
)

// grpcDoor serves weft.v1.PublishService with the answers of the request door, and reflection, so that grpcurl works
// without files.
type grpcDoor struct{ *Service }

// call is what the door knows of a request before its body is read.
type call struct {
	who *identity.Identity

	mu       sync.Mutex               // protects what follows
	http     *http.ResponseController // nil when the request is over: it must not be used then
	stopping bool                     // the door closes
}

type callKey struct{}

// readUntil sets until when the publisher may send; whoever reads then is told that the time is over.
func (c *call) readUntil(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		_ = c.http.SetReadDeadline(at) // a writer that has none is a test's
	}
}

// stop ends the request when the door closes: its handler may wait for the publisher.
func (c *call) stop() {
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	c.readUntil(time.Now())
}

func (c *call) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

func (c *call) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.http = nil
}

// serveGRPC adds the gRPC door to the HTTP door's mux. It serves until serving ends.
func (s *Service) serveGRPC(serving context.Context, mux *http.ServeMux) {
	door := &grpcDoor{Service: s}
	options := []connect.HandlerOption{connect.WithReadMaxBytes(callMost), connect.WithCompressMinBytes(1 << 10)}
	path, handler := weftv1connect.NewPublishServiceHandler(door, options...)
	mux.Handle(path, door.guard(serving, handler))
	reflector := grpcreflect.NewStaticReflector(weftv1connect.PublishServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
}

// guard lets a call in that has a good token and a place, before anything of its body is read. A call ends with the
// door: its message is archived, or the answer is to send it again.
func (d *grpcDoor) guard(serving context.Context, next http.Handler) http.Handler {
	refuse := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(lasting(r))
		defer cancel()
		c := &call{http: http.NewResponseController(w)}
		defer c.end()
		defer context.AfterFunc(serving, func() { cancel(); c.stop() })()
		leave, err := d.enter(ctx, c, r) //nolint:contextcheck // it is the request's, ended early
		if err != nil {
			_ = refuse.Write(w, r, refusal.Of(err)) // fails when the publisher is gone
			return
		}
		defer leave()
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callKey{}, c))) //nolint:contextcheck // as above
	})
}

// lasting is the context of a request. Over HTTP/1.1 a stream's would end when readUntil ends the reading, and with it the
// messages that were read before; there a publisher who has left is noticed by reading.
func lasting(r *http.Request) context.Context {
	if r.ProtoMajor == 1 && isStream(r) {
		return context.WithoutCancel(r.Context())
	}
	return r.Context()
}

func isStream(r *http.Request) bool {
	return r.URL.Path == weftv1connect.PublishServicePublishStreamProcedure
}

// enter verifies the token of a call and takes a place for it, which leave gives back. A call of one message has
// bodyTimeout to arrive.
func (d *grpcDoor) enter(ctx context.Context, c *call, r *http.Request) (leave func(), err error) {
	if c.who, err = d.bearer(ctx, r); err != nil {
		return nil, err
	}
	if isStream(r) {
		return occupy(d.streams)
	}
	if leave, err = occupy(d.posts); err == nil {
		c.readUntil(time.Now().Add(bodyTimeout))
	}
	return leave, err
}

// Publish implements the service.
func (d *grpcDoor) Publish(ctx context.Context, r *weftv1.PublishRequest) (*weftv1.PublishResponse, error) {
	c := callOf(ctx)
	c.readUntil(time.Time{}) // else the call would count as given up when it passes
	m, err := d.fromPost(c.who, postOf(r))
	if err != nil {
		return nil, refusal.Of(err)
	}
	receipt, err := d.pass(ctx, m)
	if err != nil {
		return nil, refusal.Of(byMember(err))
	}
	return receiptOf(receipt), nil
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call) // guard has put it there
	return c
}

func postOf(r *weftv1.PublishRequest) post {
	return post{
		To: r.GetTo(), ID: r.GetId(), Type: r.GetType(), Data: r.GetData(), ContentType: r.GetContentType(), TTL: r.GetTtl(),
		Trace: r.GetTraceparent(), NotBefore: r.GetNotBefore(), Collapse: r.GetCollapse(), Receipt: r.GetReceipt(),
	}
}

func receiptOf(r *message.Receipt) *weftv1.PublishResponse {
	return &weftv1.PublishResponse{Id: r.ID, To: r.To, Seq: r.Seq, State: string(r.State), At: r.At}
}

// tooLarge is what connect says of a message over callMost, as a problem.
func tooLarge() *problem.Problem {
	return problem.New(problem.TooLarge, "a message of a call may have %d bytes; publish a link to what is larger", callMost).In("data")
}
