package push

import (
	"context"
	"fmt"
	"net/http"
	"time"

	connectgo "connectrpc.com/connect"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/protocol"
)

// call is a stream of gRPC as a session's transport. The session writes the objects of weft.v1.json; here they become
// messages of weft.v1.
type call struct {
	*stream
	batch    *batch
	patience time.Duration // how long a client may take to read what is written at once; 0: the watch cuts a mute one
	to       receiver

	// The writer's until ended is closed, then the handler's.
	why *problem.Problem // the last error object
	err error            // what the call ends with
}

// receiver sends one object as a message of its call. data is the payload of a `msg`.
type receiver interface {
	send(o *protocol.FromServer, data []byte) error
}

func newCall(ctx context.Context, patience time.Duration, to receiver) *call {
	return &call{stream: streamOf(ctx), batch: batchOf(ctx), patience: patience, to: to}
}

// Write implements transport.
func (c *call) Write(objects [][]byte) error {
	if c.patience > 0 {
		defer time.AfterFunc(c.patience, c.Cut).Stop()
	}
	c.batch.hold = true
	for _, object := range objects {
		o, err := protocol.Decode(object)
		if err != nil {
			return err
		}
		if o.T == protocol.TError {
			c.why = o.Problem()
		}
		if err := c.to.send(&o, payload(object, &o)); err != nil {
			return err
		}
	}
	return c.batch.release()
}

// Ask implements transport with a Ping that has to be answered with its number.
func (c *call) Ask(number uint32) error {
	return c.Write([][]byte{object(answer{T: protocol.TPing, Number: number})})
}

// answer is a ping or a pong with a number, which WebSockets carry in their own way.
type answer struct {
	T      string `json:"t"`
	Number uint32 `json:"seq"`
}

// Close implements transport: the handler returns with the code.
func (c *call) Close(code protocol.CloseCode, reason string) {
	c.batch.hold = false
	switch {
	case code == protocol.CloseNormal: // the client has hung up; a status tells it nothing
	case c.why != nil && string(c.why.Code) == reason:
		c.err = refusal.Close(code, c.why)
	default:
		c.err = refusal.Close(code, nil)
	}
	c.end()
}

// payload is the payload of a `msg` as it was published.
func payload(object []byte, o *protocol.FromServer) []byte {
	if data := protocol.Data(object); data != nil {
		return data
	}
	return o.Data64
}

// subscribed sends objects to a client of Subscribe.
type subscribed struct {
	*connectgo.ServerStream[weftv1.SubscribeResponse]
}

func (s subscribed) send(o *protocol.FromServer, data []byte) error {
	var m weftv1.SubscribeResponse
	switch o.T {
	case protocol.TMsg:
		m.Object = &weftv1.SubscribeResponse_Message{Message: wireMessage(o, data)}
	case protocol.TGap:
		m.Object = &weftv1.SubscribeResponse_Gap{Gap: wireGap(o)}
	case protocol.TWelcome:
		m.Object = &weftv1.SubscribeResponse_Welcome{Welcome: wireWelcome(o)}
	case protocol.TPing:
		m.Object = &weftv1.SubscribeResponse_Ping{Ping: &weftv1.Ping{}}
	case protocol.TDrain:
		m.Object = &weftv1.SubscribeResponse_Drain{Drain: &weftv1.Drain{Within: o.Within}}
	default:
		return nil // an error, which the call ends with: the client has asked for nothing that could be refused
	}
	return s.Send(&m)
}

// connected sends objects to a client of Connect.
type connected struct {
	*connectgo.BidiStream[weftv1.ConnectRequest, weftv1.ConnectResponse]
}

func (c connected) send(o *protocol.FromServer, data []byte) error {
	var m weftv1.ConnectResponse
	switch o.T {
	case protocol.TMsg:
		m.Object = &weftv1.ConnectResponse_Message{Message: wireMessage(o, data)}
	case protocol.TGap:
		m.Object = &weftv1.ConnectResponse_Gap{Gap: wireGap(o)}
	case protocol.TWelcome:
		m.Object = &weftv1.ConnectResponse_Welcome{Welcome: wireWelcome(o)}
	case protocol.TPing:
		m.Object = &weftv1.ConnectResponse_Ping{Ping: &weftv1.Ping{Number: uint32(o.Seq)}} //nolint:gosec // an answer's
	case protocol.TPong:
		m.Object = &weftv1.ConnectResponse_Pong{Pong: &weftv1.Pong{Number: uint32(o.Seq)}} //nolint:gosec // an answer's
	case protocol.TDrain:
		m.Object = &weftv1.ConnectResponse_Drain{Drain: &weftv1.Drain{Within: o.Within}}
	case protocol.TSub:
		m.Object = &weftv1.ConnectResponse_Sub{Sub: &weftv1.Subscribed{Mailboxes: wireMailboxes(o)}}
	case protocol.TUnsub:
		m.Object = &weftv1.ConnectResponse_Unsub{Unsub: &weftv1.Subscribed{Mailboxes: wireMailboxes(o)}}
	case protocol.TError:
		m.Object = &weftv1.ConnectResponse_Error{Error: refusal.Message(o.Problem())}
	default:
		return fmt.Errorf("an object %q has no message in weft.v1", o.T)
	}
	return c.Send(&m)
}

func wireMessage(o *protocol.FromServer, data []byte) *weftv1.Message {
	if o.ContentType == "" {
		o.ContentType = message.JSON
	}
	return &weftv1.Message{
		Seq: o.Seq, Id: o.ID, Type: o.Type, At: o.At, Ch: o.Ch, ContentType: o.ContentType, Traceparent: o.Trace, Re: o.Again, Data: data,
	}
}

func wireGap(o *protocol.FromServer) *weftv1.Gap {
	return &weftv1.Gap{Ch: o.Ch, From: o.From, To: o.To, Why: string(o.Why)}
}

func wireWelcome(o *protocol.FromServer) *weftv1.Welcome {
	return &weftv1.Welcome{
		Session: o.Session, User: o.User, Device: o.Device, Node: o.Node, Epoch: o.Epoch, Heartbeat: o.Heartbeat, Mailboxes: wireMailboxes(o),
	}
}

func wireMailboxes(o *protocol.FromServer) map[string]*weftv1.Mailbox {
	list := make(map[string]*weftv1.Mailbox, len(o.Mailboxes))
	for to, m := range o.Mailboxes {
		list[to] = &weftv1.Mailbox{Head: m.Head, Next: m.Next}
	}
	return list
}

// batch is a response that is not flushed while a transport has more to write. connect flushes after every message,
// which makes a frame and a system call of each.
type batch struct {
	http.ResponseWriter
	hold bool // whoever writes
}

type batchKey struct{}

// inBatches gives a call the batch of its response: see batchOf.
func inBatches(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &batch{ResponseWriter: w}
		next.ServeHTTP(b, r.WithContext(context.WithValue(r.Context(), batchKey{}, b)))
	})
}

func batchOf(ctx context.Context) *batch {
	return ctx.Value(batchKey{}).(*batch) //nolint:forcetypeassert // a call without inBatches is a mistake of ours
}

// Unwrap is for http.ResponseController.
func (b *batch) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// Flush implements http.Flusher.
func (b *batch) Flush() {
	if !b.hold {
		_ = http.NewResponseController(b.ResponseWriter).Flush() // what is lost the next write tells
	}
}

// release flushes what was held back.
func (b *batch) release() error {
	b.hold = false
	return http.NewResponseController(b.ResponseWriter).Flush()
}
