package push

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	connectgo "connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
)

// What gRPC-Web and Connect send from a page, and what a page has to be able to read of the answer.
const (
	callHeaders = "Connect-Protocol-Version, Connect-Timeout-Ms, Grpc-Timeout, X-Grpc-Web, X-User-Agent"
	callAnswers = "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin"
)

// reflectMost is how long a client may go on asking what is served. It needs no token for that, and asks anew if it has to.
const reflectMost = time.Minute

// calls serves weft.v1.PushService: the sessions that WebSockets have, as gRPC, gRPC-Web and Connect.
type calls struct {
	*Service
	atEnd func(do func()) (stop func() bool) // has something done when the node ends
}

// serveGRPC adds PushService to the doors, and reflection, so that grpcurl works without files. Nothing is compressed: a
// compressor costs more than everything else of a session.
func (n *Service) serveGRPC(serving context.Context, mux *http.ServeMux) {
	service := calls{Service: n, atEnd: func(do func()) func() bool { return context.AfterFunc(serving, do) }}
	path, handler := weftv1connect.NewPushServiceHandler(service, connectgo.WithReadMaxBytes(frameMost), connectgo.WithCompression("gzip", nil, nil))
	mux.Handle(path, n.crossOrigin(http.MethodPost, n.withStream(n.inTime(serving, n.greeting, inBatches(handler)))))
	reflector := grpcreflect.NewStaticReflector(weftv1connect.PushServiceName)
	reflect := func(path string, handler http.Handler) {
		mux.Handle(path, n.withStream(n.inTime(serving, reflectMost, handler)))
	}
	reflect(grpcreflect.NewHandlerV1(reflector))
	reflect(grpcreflect.NewHandlerV1Alpha(reflector))
}

// Subscribe implements the service: a session whose client can't say anything.
func (c calls) Subscribe(ctx context.Context, r *weftv1.SubscribeRequest, stream *connectgo.ServerStream[weftv1.SubscribeResponse]) error {
	out := newCall(ctx, 0, subscribed{stream})
	out.arrive()
	return c.serve(ctx, out, true, nil, func() (protocol.FromClient, error) {
		return protocol.FromClient{
			T: protocol.THello, Device: r.GetDevice(), Epoch: r.GetEpoch(), Cursors: r.GetCursors(), Topics: r.GetTopics(), Client: r.GetClient(),
		}, nil
	})
}

// Connect implements the service.
func (c calls) Connect(ctx context.Context, stream *connectgo.BidiStream[weftv1.ConnectRequest, weftv1.ConnectResponse]) error {
	out := newCall(ctx, c.cfg.SlowAfter, connected{stream})
	out.arrive() // its hello is waited for below
	listen := func(s *session) error { return c.converseCall(ctx, s, stream) }
	return c.serve(ctx, out, false, listen, func() (protocol.FromClient, error) {
		_ = out.control.SetReadDeadline(time.Now().Add(c.greeting)) // fails on a connection that is gone
		first, err := stream.Receive()
		switch {
		case err != nil:
			return protocol.FromClient{}, unread(err)
		case first.GetHello() == nil:
			return protocol.FromClient{}, problem.New(problem.HelloExpected, "the first message must be hello").In("hello")
		}
		return fromCall(first), out.control.SetReadDeadline(time.Time{})
	})
}

// serve opens a session for a call and serves it until it has ended. The error is what the client is told.
func (c calls) serve(ctx context.Context, out *call, mute bool, listen func(*session) error, greet func() (protocol.FromClient, error)) error {
	v := visitor{out: out, began: time.Now(), token: authorizationOf(ctx), mute: mute}
	if err := c.arrive(); err != nil {
		return refusal.Close(verdict(err))
	}
	s, err := c.meet(ctx, v, greet)
	c.gate.settle()
	if err != nil {
		return refusal.Close(verdict(err))
	}
	if listen == nil {
		c.attend(ctx, s, out.stream, nil)
	} else {
		c.attend(ctx, s, out.stream, func() error { return listen(s) })
	}
	if out.err != nil {
		return out.err
	}
	return ctx.Err() // the client has hung up, or named a time that is over
}

// meet opens a session for a client once it has said hello, unless the node ends before.
func (c calls) meet(ctx context.Context, v visitor, greet func() (protocol.FromClient, error)) (s *session, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.atEnd(func() { cancel(); v.out.Cut() })() // it may wait for its client
	if v.hello, err = greet(); err != nil {
		return nil, err
	}
	return c.welcome(ctx, v)
}

// Acknowledge implements the service.
func (c calls) Acknowledge(ctx context.Context, r *weftv1.AcknowledgeRequest) (*weftv1.AcknowledgeResponse, error) {
	streamOf(ctx).arrive()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	acks := make([]protocol.Ack, len(r.GetAcks()))
	for i, a := range r.GetAcks() {
		acks[i] = protocol.Ack{Ch: a.GetCh(), Seq: a.GetSeq()}
	}
	if len(acks) == 0 {
		return nil, refusal.Of(problem.New(problem.BadRequest, "nothing is acknowledged").In("acks"))
	}
	who, err := c.verify(ctx, authorizationOf(ctx))
	if err == nil {
		err = c.acknowledge(ctx, who, r.GetDevice(), acks)
	}
	if err != nil {
		return nil, refusal.Of(err)
	}
	return &weftv1.AcknowledgeResponse{}, nil
}

func authorizationOf(ctx context.Context) string {
	info, ok := connectgo.CallInfoForHandlerContext(ctx)
	if !ok {
		return ""
	}
	return authorization(info.RequestHeader())
}

// converseCall handles what a client says until it says no more.
func (c calls) converseCall(ctx context.Context, s *session, stream *connectgo.BidiStream[weftv1.ConnectRequest, weftv1.ConnectResponse]) error {
	for {
		m, err := stream.Receive()
		if err != nil {
			return unread(err)
		}
		s.hear()
		switch o := m.GetObject().(type) {
		case *weftv1.ConnectRequest_Pong:
			s.echo(o.Pong.GetNumber())
		case *weftv1.ConnectRequest_Ping:
			s.say(answer{T: protocol.TPong, Number: o.Ping.GetNumber()})
		default:
			if err := c.handle(ctx, s, fromCall(m)); err != nil {
				return err
			}
		}
	}
}

// fromCall is a message of a client as the object that it would have sent over a WebSocket.
func fromCall(m *weftv1.ConnectRequest) protocol.FromClient {
	switch o := m.GetObject().(type) {
	case *weftv1.ConnectRequest_Hello:
		h := o.Hello
		return protocol.FromClient{
			T: protocol.THello, Device: h.GetDevice(), Epoch: h.GetEpoch(), Cursors: h.GetCursors(), Topics: h.GetTopics(), Client: h.GetClient(),
		}
	case *weftv1.ConnectRequest_Ack:
		return protocol.FromClient{T: protocol.TAck, Ch: o.Ack.GetCh(), Seq: o.Ack.GetSeq()}
	case *weftv1.ConnectRequest_Sub:
		return protocol.FromClient{T: protocol.TSub, Topics: o.Sub.GetTopics()}
	case *weftv1.ConnectRequest_Unsub:
		return protocol.FromClient{T: protocol.TUnsub, Topics: o.Unsub.GetTopics()}
	case *weftv1.ConnectRequest_Auth:
		return protocol.FromClient{T: protocol.TAuth, Token: o.Auth.GetToken()}
	default: // of a later version, or nothing at all
		return protocol.FromClient{}
	}
}

// unread is why nothing more can be read from a client: a problem where the client is to blame. The end of what it says
// is its farewell.
func unread(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case connectgo.CodeOf(err) == connectgo.CodeResourceExhausted:
		return problem.New(problem.TooLarge, "a message of a client may have %d bytes", frameMost)
	case connectgo.CodeOf(err) == connectgo.CodeInvalidArgument:
		return problem.New(problem.BadFrame, "a message can't be read: %v", err)
	default:
		return err
	}
}
