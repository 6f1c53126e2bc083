package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// sharing is how many writers write to the topics and to all, whose messages go to every device.
	sharing = 2
	// patience is how long an operation is driven; then its result is unknown.
	patience = 60 * time.Second
	// Of 100 operations so many go by the stream door, the request door and HTTP, and the rest by gRPC.
	oddsStream, oddsRequest, oddsHTTP = 60, 24, 8
)

// writer publishes to its addresses, each in a goroutine of its own: a partition that is stalled does not starve the
// others.
type writer struct {
	name      string
	o         *Options
	addresses []subject.Address
	owed      *owed
	acked     *atomic.Int64
	http      *http.Client
	http2     *http.Client
	token     string
	// Of Publish, before it starts the goroutines of the addresses:
	publisher *client.Publisher
}

func (l *Load) newWriter(name string, shares bool) *writer {
	w := &writer{name: name, o: &l.o, owed: l.owed, acked: &l.acked}
	for u := range l.o.Users {
		w.addresses = append(w.addresses, subject.UserAddress(subject.DefaultTenant, fmt.Sprintf("u%d", u+1)))
	}
	if shares {
		w.addresses = append(w.addresses, subject.Address{Tenant: subject.DefaultTenant, Kind: subject.All})
		for _, topic := range topics {
			w.addresses = append(w.addresses, subject.Address{Tenant: subject.DefaultTenant, Kind: subject.Topic, ID: topic})
		}
	}
	return w
}

// Publish runs the writers until ctx ends. Operations under way are driven to their end, which takes 60 s at most. The
// error is that of connecting. It is called once.
func (l *Load) Publish(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	pace := newPace(l.o.Rate)
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	for _, w := range l.writers {
		hangUp, err := w.connect()
		if err != nil {
			return fmt.Errorf("connect %s: %w", w.name, err)
		}
		var ours sync.WaitGroup
		for _, to := range w.addresses {
			ours.Go(func() { w.write(ctx, to, pace) })
		}
		writing.Go(func() { ours.Wait(); hangUp() })
	}
	<-ctx.Done()
	return nil
}

// connect gives the writer a connection of its own, so that they spread over the servers. Nothing is kept while there is
// no connection: an operation is either sent or not.
func (w *writer) connect() (hangUp func(), err error) {
	nc, err := nats.Connect(w.o.NATS, nats.Name("chaos-"+w.name), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(200*time.Millisecond, 0), nats.ReconnectBufSize(-1),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(2*time.Second))
	if err != nil {
		return nil, err
	}
	w.token, err = auth.Sign(w.o.Key, identity.Identity{Tenant: subject.DefaultTenant, User: w.name, Publish: []string{"*"}}, tokenTTL)
	if err != nil {
		nc.Close()
		return nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: len(w.addresses)}
	calls := &http.Transport{Protocols: new(http.Protocols)}
	calls.Protocols.SetUnencryptedHTTP2(true)
	w.publisher, w.http, w.http2 = client.NewPublisher(nc), &http.Client{Transport: transport}, &http.Client{Transport: calls}
	return func() {
		nc.Close()
		transport.CloseIdleConnections()
		calls.CloseIdleConnections()
	}, nil
}

// write publishes to one address, one operation after the other, until ctx ends.
func (w *writer) write(ctx context.Context, to subject.Address, pace *pace) {
	random := w.o.random(w.name + " " + to.String())
	for n := uint64(1); pace.wait(ctx) == nil; n++ {
		w.operate(context.WithoutCancel(ctx), to, n, random)
	}
}

// operate does one operation and records it.
func (w *writer) operate(ctx context.Context, to subject.Address, n uint64, random *rand.Rand) {
	address := to.String()
	op := record.Op{
		Writer: w.name, To: address, Counter: n, ID: fmt.Sprintf("%s-%s-%d", w.name, address, n),
		Door: doorOf(random.IntN(100)), Start: w.o.Log.Now(),
	}
	if w.o.TTL > 0 && to.ID == fmt.Sprintf("u%d", w.o.Users) {
		op.TTL = w.o.TTL.Microseconds()
	}
	body := payload{Writer: w.name, To: address, Counter: n}
	p := post{to: to, id: op.ID, ttl: time.Duration(op.TTL) * time.Microsecond, payload: body.encode(random)}
	if op.TTL == 0 { // else it may expire, and is owed to nobody
		w.owed.begin(op.ID, address)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := w.send(ctx, &op, p)
	op.End = w.o.Log.Now()
	op.Result, op.Code = resultOf(err)
	if op.TTL == 0 {
		w.owed.end(op.ID, op.Result == record.OK)
	}
	if op.Result == record.OK {
		w.acked.Add(1)
	}
	w.o.Log.Op(op)
}

func doorOf(n int) record.Door {
	switch {
	case n < oddsStream:
		return record.Stream
	case n < oddsStream+oddsRequest:
		return record.Request
	case n < oddsStream+oddsRequest+oddsHTTP:
		return record.HTTP
	default:
		return record.GRPC
	}
}

// resultOf is what a writer knows after its last try.
func resultOf(err error) (record.Result, string) {
	switch {
	case err == nil:
		return record.OK, ""
	case errors.Is(err, client.ErrUnknown):
		return record.Unknown, codeOf(err)
	default:
		return record.Failed, codeOf(err)
	}
}
