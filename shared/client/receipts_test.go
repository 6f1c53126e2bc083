package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// receiptsOf makes the stream of receipts, and a function that tells a fact of an address's message.
func receiptsOf(t testing.TB, nc *nats.Conn) (jetstream.Stream, func(to subject.Address, id string) uint64) {
	t.Helper()
	if receiptStream != fabric.ReceiptStream {
		t.Fatalf("the stream is called %s", fabric.ReceiptStream)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: receiptStream, Subjects: []string{subject.ReceiptAll}})
	if err != nil {
		t.Fatal(err)
	}
	return s, func(to subject.Address, id string) uint64 {
		body, err := json.Marshal(message.Receipt{ID: id, To: to.String(), State: message.StateQuarantined, At: 5, Reason: problem.BadJSON, Message: "why"})
		if err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(t.Context(), subject.Receipt(to.Tokens()), body)
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
}

// take reads facts until it has n, and says them as id@position.
func take(t *testing.T, p *Publisher, f ReceiptFilter, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	var got []string
	for fact, err := range p.Receipts(ctx, f) {
		switch {
		case errors.Is(err, ErrReceiptsGone):
			got = append(got, "gone")
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprintf("%s@%d", fact.ID, fact.Position))
		}
		if len(got) == n {
			return got
		}
	}
	t.Errorf("the loop ended by itself behind %v", got)
	return got
}

func TestReceiptsByAddressTenantPlaceAndTime(t *testing.T) {
	nc := natsServer(t)
	in, tell := receiptsOf(t, nc)
	bob, all := subject.UserAddress("default", "b.o b"), subject.Address{Tenant: "default", Kind: subject.All}
	for i, to := range []subject.Address{alice(), bob, all, subject.UserAddress("acme", "alice"), alice()} {
		tell(to, fmt.Sprint("m", i+1))
	}
	if _, err := nc.Request(subject.Receipt(subject.Unaddressed("default.x")), []byte(`{"id":"m6"}`), patienceOfTests); err != nil {
		t.Fatal(err)
	}
	four, err := in.GetMsg(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPublisher(nc)
	for name, c := range map[string]struct {
		filter ReceiptFilter
		want   []string
	}{
		"the default tenant": {ReceiptFilter{}, []string{"m1@1", "m2@2", "m3@3", "m5@5", "m6@6"}},
		"another tenant":     {ReceiptFilter{Tenant: "acme"}, []string{"m4@4"}},
		"an address":         {ReceiptFilter{To: alice()}, []string{"m1@1", "m5@5"}},
		"an odd address":     {ReceiptFilter{To: bob}, []string{"m2@2"}},
		"everybody":          {ReceiptFilter{To: all}, []string{"m3@3"}},
		"behind a place":     {ReceiptFilter{After: 2}, []string{"m3@3", "m5@5"}},
		"since a time":       {ReceiptFilter{Since: four.Time}, []string{"m5@5", "m6@6"}},
		"place, not time":    {ReceiptFilter{After: 1, Since: time.Now()}, []string{"m2@2"}},
	} {
		if got := take(t, p, c.filter, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	for fact, err := range p.Receipts(t.Context(), ReceiptFilter{}) {
		if err != nil || fact.Tenant != "default" || fact.To != "user:alice" || fact.State != message.StateQuarantined || fact.Reason != problem.BadJSON || fact.At != 5 {
			t.Errorf("the first fact is %+v, %v", fact, err)
		}
		break
	}
	// Every loop has removed its consumer.
	info, err := in.Info(t.Context())
	if err != nil || info.State.Consumers != 0 {
		t.Errorf("%d consumers are left, %v", info.State.Consumers, err)
	}
}

func TestReceiptsGoOnAsTheyCome(t *testing.T) {
	nc := natsServer(t)
	in, tell := receiptsOf(t, nc)
	tell(alice(), "m1")
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	want := uint64(1)
	for fact, err := range NewPublisher(nc).Receipts(ctx, ReceiptFilter{}) {
		if err != nil || fact.Position != want || fact.ID != fmt.Sprint("m", want) {
			t.Fatalf("got %+v, %v; want %d", fact, err, want)
		}
		if want == 6 {
			cancel() // which is no error
			continue
		}
		if want == 3 { // as after the loss of the server's memory
			consumers := in.ConsumerNames(ctx)
			for name := range consumers.Name() {
				if err := in.DeleteConsumer(ctx, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		want++
		tell(alice(), fmt.Sprint("m", want))
	}
	if want != 6 {
		t.Errorf("the loop ended at %d", want)
	}
}

func TestReceiptsSurviveARestartOfNATS(t *testing.T) {
	options := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()}
	start := func() *server.Server {
		s, err := server.NewServer(options)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(patienceOfTests) {
			t.Fatal("the NATS server is not ready")
		}
		return s
	}
	s := start()
	back := make(chan struct{}, 1)
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { signal(back) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() })
	_, tell := receiptsOf(t, nc)
	tell(alice(), "m1")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patienceOfTests)
	defer cancel()
	var got []uint64
	for fact, err := range NewPublisher(nc).Receipts(ctx, ReceiptFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, fact.Position); len(got) == 3 {
			break
		}
		if len(got) == 1 {
			tell(alice(), "m2") // which may be on its way when the server goes
			options.Port = s.Addr().(*net.TCPAddr).Port
			s.Shutdown()
			s.WaitForShutdown()
			s = start()
			receive(t, back)
			tell(alice(), "m3")
		}
	}
	if !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("got %v", got)
	}
}

func TestReceiptsSayWhatMayBeGone(t *testing.T) {
	nc := natsServer(t)
	in, tell := receiptsOf(t, nc)
	for i := range 5 {
		tell(alice(), fmt.Sprint("m", i+1))
	}
	if err := in.Purge(t.Context(), jetstream.WithPurgeSequence(4)); err != nil {
		t.Fatal(err)
	}
	p := NewPublisher(nc)
	for name, c := range map[string]struct {
		after uint64
		want  []string
	}{
		"purged":            {1, []string{"gone", "m4@4", "m5@5"}},
		"the last purged":   {3, []string{"m4@4", "m5@5"}},
		"of another stream": {9, []string{"gone", "m4@4", "m5@5"}},
	} {
		if got := take(t, p, ReceiptFilter{After: c.after}, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	for _, err := range p.Receipts(t.Context(), ReceiptFilter{After: 1}) {
		if !errors.Is(err, ErrReceiptsGone) {
			t.Error(err)
		}
		break // leaving there is no fault either
	}
}

func TestReceiptsThatCantBeRead(t *testing.T) {
	nc := natsServer(t)
	closed, err := nats.Connect(nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, c := range map[string]struct {
		nc     *nats.Conn
		filter ReceiptFilter
		want   error
	}{
		"no stream":  {nc, ReceiptFilter{}, problem.New(problem.Unavailable, "")},
		"no NATS":    {closed, ReceiptFilter{}, problem.New(problem.Unavailable, "")},
		"no tenant":  {nc, ReceiptFilter{Tenant: "\xff"}, problem.New(problem.BadAddress, "")},
		"no address": {nc, ReceiptFilter{To: subject.UserAddress("default", "")}, problem.New(problem.BadAddress, "")},
	} {
		loops := 0
		for _, err := range NewPublisher(c.nc).Receipts(t.Context(), c.filter) {
			if loops++; !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		if loops != 1 {
			t.Errorf("%s: %d errors", name, loops)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range NewPublisher(nc).Receipts(ended, ReceiptFilter{}) {
		t.Error("a loop whose context has ended says something")
	}
}

// lossy is a consumer that does not deliver its second message, as a connection would that dropped it.
type lossy struct {
	jetstream.MessagesContext

	next uint64
}

type lossyConsumer struct{ jetstream.Consumer }

type lossyServer struct{ jetstream.JetStream }

type lossyMessage struct {
	jetstream.Msg

	seq uint64
}

func (lossyConsumer) Messages(...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	return new(lossy), nil
}

func (lossyConsumer) CachedInfo() *jetstream.ConsumerInfo { return &jetstream.ConsumerInfo{Name: "c"} }

func (lossyServer) DeleteConsumer(context.Context, string, string) error { return nil }

func (l *lossy) Stop() {}

func (l *lossy) Next(...jetstream.NextOpt) (jetstream.Msg, error) {
	if l.next++; l.next == 2 {
		l.next++
	}
	if l.next > 3 {
		return nil, jetstream.ErrNoHeartbeat
	}
	return lossyMessage{seq: l.next}, nil
}

func (m lossyMessage) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Consumer: m.seq, Stream: 10 + 2*m.seq}}, nil
}

func (m lossyMessage) Data() []byte { return []byte(`{"id":"m"}`) }

func TestAReceiptThatWasLostOnTheWayIsReadAgain(t *testing.T) {
	var got []uint64
	r := &reader{js: lossyServer{}, take: func(position uint64, _ []byte) bool { got = append(got, position); return true }}
	if err := r.read(t.Context(), lossyConsumer{}); !errors.Is(err, errMissed) || r.after != 12 || !slices.Equal(got, []uint64{12}) {
		t.Errorf("%v; the facts %v, and it goes on behind %d", err, got, r.after)
	}
}
