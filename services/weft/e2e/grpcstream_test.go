package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
)

// A program publishes on one gRPC stream, a device receives on another, and the node that serves it dies by kill -9,
// twice. The device resumes at another node with its cursor: each message comes exactly once and in order, and the stream of
// the publisher has all receipts.
func TestGRPCStreamsOutliveAKilledNode(t *testing.T) {
	f := &fabric{t: t, kind: "up", data: t.TempDir()}
	f.start()
	t.Cleanup(f.stop)
	for user, open := range map[string]func(*follower) (bool, error){"connect": (*follower).connect, "subscribe": (*follower).subscribe} {
		t.Run(user, func(t *testing.T) {
			const messages = 2000
			published := make(chan error, 1)
			go func() { published <- f.publishStream(user, messages) }()
			d := &follower{
				f: f, token: f.token(identity.Identity{User: user}, time.Hour), address: "user:" + user, upTo: messages, kills: []uint64{300, 950},
			}
			for attempts := 0; d.handled < messages; attempts++ {
				again, err := open(d)
				if err != nil || !again {
					t.Fatalf("after message %d and %d attempts: %v\n", d.handled, attempts, err)
				}
			}
			if len(d.kills) != 0 {
				t.Errorf("%d nodes were not killed", len(d.kills))
			}
			if err := <-published; err != nil {
				t.Error(err)
			}
		})
	}
}

// publishStream publishes numbered messages on one stream. Those of one address are archived one after the other, so it
// takes long enough for something to die.
func (f *fabric) publishStream(user string, messages int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	ctx = f.calling(ctx, f.token(identity.Identity{User: "shop", Publish: []string{"user:*"}}, time.Hour))
	client, end := h2c()
	defer end()
	stream, err := weftv1connect.NewPublishServiceClient(client, f.manifest.Collect[0], connect.WithGRPC()).PublishStream(ctx)
	if err != nil {
		return err
	}
	for n := 1; n <= messages; n++ {
		m := &weftv1.PublishRequest{To: "user:" + user, Id: strconv.Itoa(n), Data: fmt.Appendf(nil, `{ "n": %d }`, n)}
		if err := stream.Send(&weftv1.PublishStreamRequest{Message: m}); err != nil {
			break // the answer says why
		}
	}
	answer, err := stream.CloseAndReceive()
	if err != nil {
		return fmt.Errorf("the stream of %s: %w", user, err)
	}
	for i, r := range answer.GetReceipts() {
		if r.GetSeq() != uint64(i)+1 || r.GetId() != strconv.Itoa(i+1) {
			return fmt.Errorf("receipt %d is %v", i, r)
		}
	}
	if len(answer.GetReceipts()) != messages {
		return fmt.Errorf("%d receipts for %d messages", len(answer.GetReceipts()), messages)
	}
	return nil
}

// calling is a context of calls with a token.
func (f *fabric) calling(ctx context.Context, token string) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set("Authorization", "Bearer "+token)
	return ctx
}

// h2c is a client of HTTP/2 without TLS.
func h2c() (client *http.Client, end func()) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	return &http.Client{Transport: transport}, transport.CloseIdleConnections
}

// follower is a device that resumes where it is whatever happens to its node.
type follower struct {
	f       *fabric
	token   string
	address string
	upTo    uint64   // the last message
	kills   []uint64 // after which messages the node that serves it is killed
	node    int      // which node serves it
	epoch   string
	handled uint64
}

// connect is one stream that acknowledges as it goes; again says that another one is worth a try.
func (d *follower) connect() (again bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, end := h2c()
	defer end()
	stream, err := d.service(client, d.node).Connect(d.f.calling(ctx, d.token))
	if err != nil {
		return d.next(err)
	}
	defer func() { _, _ = stream.CloseRequest(), stream.CloseResponse() }()
	hello := &weftv1.Hello{Device: "phone", Epoch: d.epoch, Cursors: map[string]uint64{d.address: d.handled}}
	_ = stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: hello}}) // the answer says why
	for d.handled < d.upTo {
		m, err := stream.Receive()
		if err != nil {
			return d.next(err)
		}
		if err := d.take(m); err != nil {
			return false, err
		}
		_ = stream.Send(&weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Ack{Ack: &weftv1.Ack{Seq: d.handled}}})
	}
	return true, nil
}

// subscribe is one stream that acknowledges by where it resumes, and now and then by a call to the node that does not
// serve it.
func (d *follower) subscribe() (again bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, end := h2c()
	defer end()
	stream, err := d.service(client, d.node).Subscribe(d.f.calling(ctx, d.token), &weftv1.SubscribeRequest{
		Device: "phone", Epoch: d.epoch, Cursors: map[string]uint64{d.address: d.handled},
	})
	if err != nil {
		return d.next(err)
	}
	defer stream.Close()
	for d.handled < d.upTo {
		if !stream.Receive() {
			return d.next(stream.Err())
		}
		if err := d.take(stream.Msg()); err != nil {
			return false, err
		}
		if d.handled%100 == 0 {
			_, err := d.service(client, d.node+1).Acknowledge(d.f.calling(ctx, d.token), &weftv1.AcknowledgeRequest{
				Device: "phone", Acks: []*weftv1.Ack{{Seq: d.handled}},
			})
			if p, ok := refusal.Detail[*weftv1.Problem](err); ok && !p.GetRetry() {
				return false, fmt.Errorf("acknowledge %d: %w", d.handled, err)
			}
		}
	}
	return true, nil
}

func (d *follower) service(client *http.Client, node int) weftv1connect.PushServiceClient {
	return weftv1connect.NewPushServiceClient(client, d.f.manifest.Push[node%len(d.f.manifest.Push)], connect.WithGRPC())
}

// next goes to another node after an error, unless the error is one that forbids it.
func (d *follower) next(err error) (again bool, _ error) {
	d.node++
	if p, ok := refusal.Detail[*weftv1.Problem](err); ok && !p.GetRetry() {
		return false, err
	}
	return true, nil
}

// take handles one message of the server: it must be exactly the next.
func (d *follower) take(m interface {
	GetWelcome() *weftv1.Welcome
	GetMessage() *weftv1.Message
	GetGap() *weftv1.Gap
},
) error {
	switch {
	case m.GetWelcome() != nil:
		if next := m.GetWelcome().GetMailboxes()[d.address].GetNext(); next != d.handled+1 {
			return fmt.Errorf("the session begins at %d, not %d", next, d.handled+1)
		}
		d.epoch = m.GetWelcome().GetEpoch()
	case m.GetGap() != nil:
		return fmt.Errorf("%v came", m)
	case m.GetMessage() != nil:
		got := m.GetMessage()
		if want := fmt.Sprintf(`{ "n": %d }`, d.handled+1); got.GetSeq() != d.handled+1 || string(got.GetData()) != want {
			return fmt.Errorf("%v came; want %s", got, want)
		}
		d.handled++
		if len(d.kills) > 0 && d.handled == d.kills[0] {
			d.kills = d.kills[1:]
			return d.kill()
		}
	}
	return nil
}

// kill kills the node that serves the stream, once the others are there.
func (d *follower) kill() error {
	u, err := url.Parse(d.f.manifest.Push[d.node%len(d.f.manifest.Push)])
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return err
	}
	for _, p := range d.f.manifest.Processes {
		if p.Role != "push" || slices.Contains(p.Ports, port) {
			continue
		}
		d.f.awaitProcess(p.Name, func(p manifest.Process) bool { return !p.Down })
	}
	for _, p := range d.f.awaitManifest().Processes {
		if p.Role == "push" && slices.Contains(p.Ports, port) {
			return syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
	return errors.New("the node is not in the manifest")
}
