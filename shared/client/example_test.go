package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// A business system publishes an order to a user. The id makes the publish safe to repeat, by this program or by the
// next one after a crash.
func ExamplePublisher_Publish() {
	nc, stop := fabric()
	defer stop()

	publisher := client.NewPublisher(nc)
	to := subject.UserAddress(subject.DefaultTenant, "alice")
	ack, err := publisher.Publish(context.Background(), to, []byte(`{"order":17,"state":"shipped"}`),
		client.WithID("order-17-shipped"), client.WithType("order.shipped"), client.WithTTL(24*time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("accepted", ack.ID)
	// Output: accepted order-17-shipped
}

// An error says what to do. Unavailable is worth another try with the same id.
func ExamplePublisher_Publish_refused() {
	nc, stop := fabric()
	defer stop()

	to := subject.UserAddress(subject.DefaultTenant, "alice")
	_, err := client.NewPublisher(nc).Publish(context.Background(), to, []byte("hello"))
	refusal, ok := errors.AsType[*problem.Problem](err)
	fmt.Println(ok, refusal.Code, refusal.Retry)
	// Output: true bad_json false
}

// A device takes its messages, until it has seen what it waited for.
func ExampleDial() {
	node := pushNode()
	defer node.Close()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	device, err := client.Dial(ctx, client.Options{
		URL:    node.URL,
		Device: "kitchen",
		Token:  func(context.Context) (string, error) { return "from your own login", nil },
		OnGap:  func(g client.Gap) { fmt.Println(g.Address, g.From, "to", g.To, "will not come:", g.Why) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = device.Run(ctx, func(_ context.Context, m client.Message) error {
		fmt.Println(m.Address, m.Seq, string(m.Data))
		if m.Seq == 3 {
			stop()
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// user:alice 1 {"hello":1}
	// user:alice 2 to 2 will not come: expired
	// user:alice 3 {"hello":3}
	// <nil>
}

// fabric is a NATS server that answers the stream door as the fabric does.
func fabric() (nc *nats.Conn, stop func()) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	if nc, err = nats.Connect(s.ClientURL()); err != nil {
		panic(err)
	}
	if _, err = nc.Subscribe("weft.in.>", func(m *nats.Msg) { _ = m.Respond([]byte(`{"stream":"WEFT_IN_0","seq":1}`)) }); err != nil {
		panic(err)
	}
	return nc, func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() }
}

// pushNode is a node with three messages for alice, of which one has expired.
func pushNode() *httptest.Server {
	upgrader := websocket.Upgrader{Subprotocols: []string{protocol.Name}}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for _, text := range []string{
			`{"t":"welcome","user":"alice","device":"kitchen","epoch":"e","heartbeat":20000,"mailboxes":{"user:alice":{"head":3,"next":1}}}`,
			`{"t":"msg","seq":1,"id":"a","at":1,"data":{"hello":1}}` + "\n" + `{"t":"gap","from":2,"to":2,"why":"expired"}`,
			`{"t":"msg","seq":3,"id":"c","at":1,"data":{"hello":3}}`,
		} {
			_ = ws.WriteMessage(websocket.TextMessage, []byte(text))
		}
		for err == nil {
			_, _, err = ws.ReadMessage()
		}
	}))
}
