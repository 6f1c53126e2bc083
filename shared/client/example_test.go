package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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

// Many messages at once: in order for each user, and all users together. The results are in the order of the messages.
func ExamplePublisher_PublishMany() {
	nc, stop := fabric()
	defer stop()

	var batch []client.Outgoing
	for _, user := range []string{"alice", "bob", "carol"} {
		batch = append(batch, client.Outgoing{
			To: subject.UserAddress(subject.DefaultTenant, user), Payload: []byte(`{"sale":"today"}`),
			Options: []client.Option{client.WithID("sale-17-" + user), client.WithType("sale.begun")},
		})
	}
	for i, result := range client.NewPublisher(nc).PublishMany(context.Background(), 100, batch) {
		fmt.Println(batch[i].To, result.Ack.ID, result.Err)
	}
	// Output:
	// user:alice sale-17-alice <nil>
	// user:bob sale-17-bob <nil>
	// user:carol sale-17-carol <nil>
}

// Through the request door the answer comes when the archive holds the message, with its place in the mailbox.
func ExamplePublisher_Request() {
	nc, stop := fabric()
	defer stop()

	to := subject.UserAddress(subject.DefaultTenant, "alice")
	receipt, err := client.NewPublisher(nc).Request(context.Background(), to, []byte(`{"order":17}`), client.WithID("order-17"))
	if errors.Is(err, client.ErrUnknown) {
		fmt.Println("try again with the same id", receipt.ID)
		return
	}
	fmt.Println(receipt.To, receipt.Seq, receipt.State, err)
	// Output: user:alice 1 archived <nil>
}

// What could not be processed is told to whoever asks, for 24 hours. The position lets a program go on where it was.
func ExamplePublisher_Receipts() {
	nc, stop := fabric()
	defer stop()

	var position uint64 // from where the program keeps it
	for fact, err := range client.NewPublisher(nc).Receipts(context.Background(), client.ReceiptFilter{After: position}) {
		if errors.Is(err, client.ErrReceiptsGone) {
			fmt.Println("we were away for long: look into the quarantine")
			continue
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(fact.To, fact.ID, fact.State, fact.Reason)
		position = fact.Position
		break // a program would go on
	}
	fmt.Println("go on behind", position)
	// Output:
	// user:alice order-16 quarantined bad_json
	// go on behind 1
}

// An e-mail goes out for a message that nobody has acknowledged for long. An event may come twice, with the same ID; the
// position is kept once the e-mail is on its way.
func ExamplePublisher_Events() {
	nc, stop := fabric()
	defer stop()

	var position uint64 // from where the program keeps it
	filter := client.EventFilter{What: client.Undelivered, After: position}
	for e, err := range client.NewPublisher(nc).Events(context.Background(), filter) {
		if errors.Is(err, client.ErrEventsGone) {
			fmt.Println("we were away for long: look at `weft undelivered`")
			continue
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("an e-mail to", e.User, "about", e.Message.Type, e.Message.ID, "once for", e.ID)
		position = e.Position
		break // a program would go on
	}
	fmt.Println("go on behind", position)
	// Output:
	// an e-mail to alice about order order-17 once for yT7mS1dQ3m2a9b0J5uXxWw
	// go on behind 1
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

// The same as a loop. A message is handled when the loop asks for the next one.
func ExampleSubscriber_Messages() {
	node := pushNode()
	defer node.Close()

	device, err := client.Dial(context.Background(), client.Options{
		URL: node.URL, Device: "kitchen", Token: func(context.Context) (string, error) { return "from your own login", nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range device.Messages(context.Background()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(m.Address, m.Seq, string(m.Data))
		if m.Seq == 3 {
			break // 3 comes again next time: it was not handled
		}
	}
	// Output:
	// user:alice 1 {"hello":1}
	// user:alice 3 {"hello":3}
}

// A device that goes on where it was after a restart of its program keeps its cursors in a file.
func ExampleOpenFile() {
	node := pushNode()
	defer node.Close()
	folder, err := os.MkdirTemp("", "weft")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)

	for range 2 { // two lives of a program
		cursors, err := client.OpenFile(filepath.Join(folder, "alice-kitchen"))
		if err != nil {
			fmt.Println(err) // another process has it
			return
		}
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		device, err := client.Dial(ctx, client.Options{
			URL: node.URL, Device: "kitchen", Cursors: cursors, Token: func(context.Context) (string, error) { return "from your own login", nil },
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		err = device.Run(ctx, func(_ context.Context, m client.Message) error {
			fmt.Println(m.Seq)
			stop()
			return nil
		})
		fmt.Println("stopped", err, cursors.Close())
	}
	// Output:
	// 1
	// stopped <nil> <nil>
	// 3
	// stopped <nil> <nil>
}

// Topics come and go while the device runs; what is published after Subscribe has returned is received.
func ExampleSubscriber_Subscribe() {
	node := pushNode()
	defer node.Close()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	device, err := client.Dial(ctx, client.Options{
		URL: node.URL, Device: "kitchen", Token: func(context.Context) (string, error) { return "from your own login", nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	running := make(chan error)
	go func() { running <- device.Run(ctx, func(context.Context, client.Message) error { return nil }) }()

	fmt.Println(device.Subscribe(ctx, "news"))
	err = device.Subscribe(ctx, "board-room")
	fmt.Println(errors.Is(err, problem.New(problem.Forbidden, "")), err)
	stop()
	fmt.Println(<-running)
	// Output:
	// <nil>
	// true the server closed the connection (4403): forbidden: the token does not allow to read the topic "board-room"
	// <nil>
}

// How a server refuses: the error has the close code, the reason and what to do.
func ExampleClosed() {
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "2")
		http.Error(w, `{"code":"draining","message":"this node is going away; connect again","retry":true}`, http.StatusServiceUnavailable)
	}))
	defer away.Close()

	_, err := client.Dial(context.Background(), client.Options{
		URL: away.URL, Device: "kitchen", Token: func(context.Context) (string, error) { return "from your own login", nil },
	})
	if closed, ok := errors.AsType[*client.Closed](err); ok {
		fmt.Println(int(closed.Code), closed.Code.Fatal(), closed.RetryAfter)
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		fmt.Println(p.Code, p.Retry, p.Message)
	}
	// Output:
	// 4503 false 2s
	// draining true this node is going away; connect again
}

// fabric is a NATS server that answers the two doors as the fabric does, and has one receipt and one event.
func fabric() (nc *nats.Conn, stop func()) {
	folder, err := os.MkdirTemp("", "weft")
	must(err)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: folder,
	})
	must(err)
	s.Start()
	nc, err = nats.Connect(s.ClientURL())
	must(err)
	for door, answer := range map[string]string{
		"weft.in.>":      `{"stream":"WEFT_IN_0","seq":1}`,
		"weft.publish.>": `{"id":"order-17","to":"user:alice","seq":1,"state":"archived"}`,
	} {
		_, err = nc.Subscribe(door, func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
		must(err)
	}
	js, err := jetstream.New(nc)
	must(err)
	_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "WEFT_RECEIPT", Subjects: []string{"weft.receipt.>"}})
	must(err)
	_, err = js.Publish(context.Background(), "weft.receipt.default.user.alice",
		[]byte(`{"id":"order-16","to":"user:alice","state":"quarantined","reason":"bad_json"}`))
	must(err)
	_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "WEFT_EVENT", Subjects: []string{"weft.event.>"}})
	must(err)
	_, err = js.Publish(context.Background(), "weft.event.default.undelivered",
		[]byte(`{"event":"yT7mS1dQ3m2a9b0J5uXxWw","what":"undelivered","tenant":"default","user":"alice","at":5,"message":{"id":"order-17","to":"user:alice","seq":1,"type":"order"}}`))
	must(err)
	return nc, func() { nc.Close(); s.Shutdown(); s.WaitForShutdown(); must(os.RemoveAll(folder)) }
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// pushNode is a node with three messages for alice, of which one has expired, and a topic that she may read.
func pushNode() *httptest.Server {
	upgrader := websocket.Upgrader{Subprotocols: []string{protocol.Name}}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		var o protocol.FromClient
		if err = ws.ReadJSON(&o); err != nil {
			return
		}
		say := func(text string) { _ = ws.WriteMessage(websocket.TextMessage, []byte(text)) }
		next := o.Cursors["user:alice"] + 1
		say(fmt.Sprintf(`{"t":"welcome","user":"alice","device":"kitchen","epoch":"e","heartbeat":20000,"mailboxes":{"user:alice":{"head":3,"next":%d}}}`, next))
		for i, text := range []string{
			`{"t":"msg","seq":1,"id":"a","at":1,"data":{"hello":1}}`,
			`{"t":"gap","from":2,"to":2,"why":"expired"}`,
			`{"t":"msg","seq":3,"id":"c","at":1,"data":{"hello":3}}`,
		} {
			if uint64(i) >= next-1 {
				say(text)
			}
		}
		for ; err == nil; err = ws.ReadJSON(&o) {
			switch {
			case o.T != protocol.TSub:
			case o.Topics[0] == "news":
				say(`{"t":"sub","mailboxes":{"user:alice":{"head":3,"next":4},"topic:news":{"head":0,"next":1}}}`)
			default:
				say(`{"t":"error","code":"forbidden","message":"the token does not allow to read the topic \"board-room\"","field":"topics"}`)
				_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4403, ""), time.Now().Add(time.Second))
			}
			o = protocol.FromClient{}
		}
	}))
}
