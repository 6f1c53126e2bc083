package load

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	connectgo "connectrpc.com/connect"

	detail "github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
)

// call is a connection of a device over gRPC, or one of its kin: a stream of both directions, or one of the server with
// acknowledgements beside it.
type call struct {
	*thread
	visit

	receive func() (pushed, error)
	tell    func(acks []protocol.FromClient) error
	pong    func(*weftv1.Ping) error // nil where the client can't speak
	hangUp  func()
}

// pushed is what both streams of the server have in common.
type pushed interface {
	GetWelcome() *weftv1.Welcome
	GetMessage() *weftv1.Message
	GetGap() *weftv1.Gap
	GetPing() *weftv1.Ping
	GetDrain() *weftv1.Drain
}

// forms are the protocols of a call.
func forms(kind int) []connectgo.ClientOption {
	return [][]connectgo.ClientOption{{connectgo.WithGRPC()}, {connectgo.WithGRPCWeb()}, nil}[kind%3]
}

// newCall begins a call without encryption over HTTP/2.
func newCall(ctx context.Context, v visit) (context.Context, *call, weftv1connect.PushServiceClient) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	alive, t := spin(ctx, transport, v.dial)
	return authorized(alive, v.token), &call{thread: t, visit: v}, weftv1connect.NewPushServiceClient(t.client, v.url, forms(v.kind)...)
}

func authorized(ctx context.Context, token string) context.Context {
	ctx, info := connectgo.NewClientContext(ctx)
	info.RequestHeader().Set("Authorization", "Bearer "+token)
	return ctx
}

// openConnect implements opener.
func openConnect(ctx context.Context, v visit) (link, error) {
	alive, c, client := newCall(ctx, v)
	stream, err := client.Connect(alive)
	if err != nil {
		c.thread.close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	c.receive = func() (pushed, error) { return stream.Receive() }
	c.hangUp = func() { _ = stream.CloseResponse() }
	// While a request's body is open, net/http's HTTP/2 waits for more of it and does not see that the context has ended
	// (Go 1.26): a Receive on a dead path would never return.
	context.AfterFunc(alive, func() { _ = stream.CloseRequest() })
	c.pong = func(ping *weftv1.Ping) error {
		return stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Pong{Pong: &weftv1.Pong{Number: ping.GetNumber()}}})
	}
	c.tell = func(acks []protocol.FromClient) error {
		for _, ack := range acks {
			if err := stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Ack{Ack: &weftv1.Ack{Ch: ack.Ch, Seq: ack.Seq}}}); err != nil {
				return c.explain(err)
			}
		}
		return nil
	}
	h := v.hello
	hello := &weftv1.Hello{Device: h.Device, Epoch: h.Epoch, Cursors: h.Cursors, Topics: h.Topics, Client: h.Client}
	if err := stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		c.close()
		return nil, fmt.Errorf("say hello: %w", err)
	}
	return c.greeted()
}

// openSubscribe implements opener.
func openSubscribe(ctx context.Context, v visit) (link, error) {
	alive, c, client := newCall(ctx, v)
	h := v.hello
	stream, err := client.Subscribe(alive, &weftv1.SubscribeRequest{Device: h.Device, Epoch: h.Epoch, Cursors: h.Cursors, Topics: h.Topics, Client: h.Client})
	if err != nil {
		c.thread.close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	c.receive = func() (pushed, error) {
		if !stream.Receive() {
			if err := stream.Err(); err != nil {
				return nil, err
			}
			return nil, errors.New("the stream ended without a word")
		}
		return stream.Msg(), nil
	}
	c.hangUp = func() { _ = stream.Close() }
	c.tell = c.beside
	return c.greeted()
}

// greeted waits for the welcome.
func (c *call) greeted() (link, error) {
	o, err := c.receive()
	if err == nil && o.GetWelcome().GetHeartbeat() <= 0 {
		err = fmt.Errorf("the first object is %v", o)
	}
	if err != nil {
		err = c.explain(err)
		c.close()
		return nil, err
	}
	w := o.GetWelcome()
	mailboxes := make(map[string]protocol.Mailbox, len(w.GetMailboxes()))
	for address, m := range w.GetMailboxes() {
		mailboxes[address] = protocol.Mailbox{Head: m.GetHead(), Next: m.GetNext()}
	}
	c.begin(protocol.Welcome{
		Session: w.GetSession(), User: w.GetUser(), Device: w.GetDevice(), Node: w.GetNode(), Epoch: w.GetEpoch(),
		Heartbeat: w.GetHeartbeat(), Mailboxes: mailboxes,
	})
	return c, nil
}

// next implements link.
func (c *call) next() ([]object, error) {
	for {
		o, err := c.receive()
		if err != nil {
			return nil, c.explain(err)
		}
		c.heard()
		if ping := o.GetPing(); ping != nil && c.pong != nil {
			if err := c.pong(ping); err != nil {
				return nil, c.explain(err)
			}
		}
		switch m, g, d := o.GetMessage(), o.GetGap(), o.GetDrain(); {
		case m != nil:
			return []object{{T: protocol.TMsg, Ch: m.GetCh(), Seq: m.GetSeq(), ID: m.GetId(), Data64: m.GetData()}}, nil
		case g != nil:
			return []object{{T: protocol.TGap, Ch: g.GetCh(), From: g.GetFrom(), To: g.GetTo(), Why: g.GetWhy()}}, nil
		case d != nil:
			return []object{{T: protocol.TDrain, Within: d.GetWithin()}}, nil
		}
	}
}

// acknowledge implements link.
func (c *call) acknowledge(acks []protocol.FromClient) error { return c.tell(acks) }

// beside acknowledges by a call of its own, to any node.
func (c *call) beside(acks []protocol.FromClient) error {
	list := make([]*weftv1.Ack, len(acks))
	for i, ack := range acks {
		list[i] = &weftv1.Ack{Ch: ack.Ch, Seq: ack.Seq}
	}
	ctx, cancel := context.WithTimeout(context.Background(), besideTimeout)
	defer cancel()
	client := weftv1connect.NewPushServiceClient(beside, c.other, connectgo.WithProtoJSON())
	_, err := client.Acknowledge(authorized(ctx, c.token), &weftv1.AcknowledgeRequest{Device: c.hello.Device, Acks: list})
	if p, ok := detail.Detail[*weftv1.Problem](err); ok && !p.GetRetry() {
		return fmt.Errorf("an acknowledgement was refused: %s: %s", p.GetCode(), p.GetMessage())
	}
	return nil // that node is not there now, perhaps
}

// explain makes a refusal of an error with a problem.
func (c *call) explain(err error) error {
	p, ok := detail.Detail[*weftv1.Problem](err)
	if !ok {
		return err
	}
	return closedWith(protocol.CloseCode(p.GetClose()), p.GetCode()+": "+p.GetMessage())
}

// close implements link.
func (c *call) close() {
	c.cancel()
	if c.hangUp != nil {
		c.hangUp()
	}
	c.thread.close()
}
