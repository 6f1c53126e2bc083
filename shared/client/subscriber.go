package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	clientName = "weft-go/0.1"
	// ackEvery is how long a handled message waits for others to be acknowledged with.
	ackEvery = 50 * time.Millisecond
	// queueMost is how many messages and gaps wait for the handler. When there are more the connection is not read
	// on, and a server that finds it too slow closes it: what was not handled comes with the next one.
	queueMost = 4096
	// ownReplaced is for how long a hello that got no answer can be what a session was replaced by: a node that was
	// stopped opens it when it wakes.
	ownReplaced = 2 * time.Minute
)

// Options say who connects where. URL, Token and Device are needed.
type Options struct {
	// URL of any push node, ws://host:port or wss://host:port, or of several, separated by commas: when a connection
	// ends, the next one is tried.
	URL string
	// InOrder begins with the first URL and goes on in their order, which is random otherwise.
	InOrder bool
	// Token returns the token for the next connection: a fresh one, after the server has refused the last. An error is
	// tried again like any other failure.
	Token func(ctx context.Context) (string, error)
	// Device names this installation among those of the user, and keeps its name: the server remembers what each
	// device has acknowledged, and allows it one connection.
	Device  string
	Topics  []string // to subscribe to, without `topic:`
	Cursors Store    // Memory when nil
	Log     *slog.Logger
	// NetDial opens the network connections, for programs that have to say how; a net.Dialer when nil.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)

	// The callbacks may be nil. They are called one at a time, by Run, and by Dial for the first connection.
	OnGap    func(Gap)            // messages that will not come
	OnFailed func(Message, error) // a message that the handler has refused six times, and that is passed over
	OnStatus func(Status)
}

// Status is what became of the connection.
type Status struct {
	Online  bool
	Welcome protocol.Welcome // while online
	Err     error            // why it is not
	Retry   time.Duration    // when the next connection is tried
}

// Subscriber is a device. Make it with Dial and run it once.
type Subscriber struct {
	options Options
	ledger  *ledger
	// The goroutine of Dial, then of Run:
	first      *conn // from Dial; nil once Run has it
	nodes      *nodes
	unanswered time.Time // when a hello last got no answer; zero when none did, or it has been made up for
}

// Dial checks the options, loads the cursors and makes the first connection; topics are subscribed to when it
// returns. It tries each URL once: whether servers that are not there are worth waiting for, only the caller knows.
// After it, Run reconnects. Call Run, or Close.
func Dial(ctx context.Context, options Options) (*Subscriber, error) {
	if err := options.complete(); err != nil {
		return nil, err
	}
	nodes, err := newNodes(options.URL, options.InOrder)
	if err != nil {
		return nil, err
	}
	state, err := options.Cursors.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	s := &Subscriber{options: options, nodes: nodes, ledger: newLedger(state)}
	for range nodes.urls {
		if s.first, err = s.connect(ctx); err == nil {
			return s, nil
		}
		if fatal(err) || ctx.Err() != nil {
			return nil, err
		}
		s.nodes.move(err, 0, time.Now())
	}
	return nil, err
}

// complete checks the options and fills those in that may be absent.
func (o *Options) complete() error {
	if o.Token == nil {
		return errors.New("client: Options.Token is nil; without a token nobody is anybody")
	}
	if err := subject.CheckID(o.Device); err != nil {
		return fmt.Errorf("client: Options.Device: %w", err)
	}
	if o.Cursors == nil {
		o.Cursors = new(Memory)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnGap == nil {
		o.OnGap = func(Gap) {}
	}
	if o.OnFailed == nil {
		o.OnFailed = func(Message, error) {}
	}
	if o.OnStatus == nil {
		o.OnStatus = func(Status) {}
	}
	return nil
}

// Close ends a Subscriber that Run was not called on.
func (s *Subscriber) Close() {
	if s.first != nil {
		s.first.close()
		s.first = nil
	}
}

// Run hands messages to the handler, each once and in the order of its address, and reconnects whenever the
// connection ends, until ctx ends: then it acknowledges what was handled and returns nil. It returns an error when
// connecting again is pointless: a *Closed with a fatal code, or ErrStore. A refused token is not: the next one may do.
func (s *Subscriber) Run(ctx context.Context, handler Handler) error {
	c := s.first
	s.first = nil
	for ctx.Err() == nil {
		lasted, err := s.once(ctx, c, handler)
		c = nil
		if fatal(err) && !s.replacedItself(err) {
			s.options.OnStatus(Status{Err: err})
			return err
		}
		if ctx.Err() == nil {
			s.rest(ctx, err, lasted)
		}
	}
	return nil
}

// replacedItself says whether a session was replaced by one that this Subscriber had given up: its node, stopped
// perhaps, opened it late. Nobody holds that one, so the device comes back. Each hello replaces once.
func (s *Subscriber) replacedItself(err error) bool {
	closed, ok := errors.AsType[*Closed](err)
	if !ok || closed.Code != protocol.CloseReplaced || s.unanswered.IsZero() || time.Since(s.unanswered) > ownReplaced {
		return false
	}
	s.unanswered = time.Time{}
	return true
}

// once holds one connection, the one given or a new one, to its end. It returns how long that was welcome; a server
// that broke the protocol did not mean it.
func (s *Subscriber) once(ctx context.Context, c *conn, handler Handler) (lasted time.Duration, err error) {
	if c == nil {
		if c, err = s.connect(ctx); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err = s.hold(ctx, c, handler); errors.Is(err, ErrProtocol) {
		return 0, err
	}
	return time.Since(began), err
}

// rest chooses the next node and waits before it is asked.
func (s *Subscriber) rest(ctx context.Context, err error, lasted time.Duration) {
	pause := s.nodes.move(err, lasted, time.Now())
	s.options.OnStatus(Status{Err: err, Retry: pause})
	s.options.Log.Warn("weft disconnected", "err", err, "retry", pause)
	_ = wait(ctx, pause) // the caller looks at ctx
}

// connect gets a token and makes a connection with it.
func (s *Subscriber) connect(ctx context.Context) (*conn, error) {
	token, err := s.options.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("client: get a token: %w", err)
	}
	hello := protocol.FromClient{T: protocol.THello, Device: s.options.Device, Topics: s.options.Topics, Client: clientName}
	hello.Epoch, hello.Cursors = s.ledger.resume(s.options.Topics)
	c, welcome, err := dial(ctx, s.dialer(), s.nodes.url(), token, hello)
	if err != nil {
		if errors.Is(err, errUnanswered) {
			s.unanswered = time.Now()
		}
		return nil, err
	}
	s.ledger.begin(welcome)
	s.options.OnStatus(Status{Online: true, Welcome: welcome})
	s.options.Log.Info("weft connected", "node", welcome.Node, "session", welcome.Session)
	return c, nil
}

func (s *Subscriber) dialer() *websocket.Dialer {
	d := &websocket.Dialer{
		Proxy: http.ProxyFromEnvironment, NetDialContext: s.options.NetDial,
		HandshakeTimeout: greetTimeout, Subprotocols: []string{protocol.Name},
	}
	if len(s.nodes.urls) > 1 {
		d.HandshakeTimeout = otherTimeout
	}
	return d
}

// hold reads, delivers and acknowledges on one connection until it ends, ctx ends or the node drains. What was
// handled has been acknowledged when it returns, if the connection still took it.
func (s *Subscriber) hold(ctx context.Context, c *conn, handler Handler) error {
	alive, fail := context.WithCancelCause(ctx)
	events := make(chan event, queueMost)
	drain := make(chan time.Duration, 1)
	var reader, acknowledger sync.WaitGroup
	reader.Go(func() { fail(s.read(alive, c, events, drain)) })
	acknowledger.Go(func() { fail(s.acknowledge(alive, c, drain)) })
	fail(s.deliverAll(ctx, alive, events, handler))
	acknowledger.Wait()
	err := s.flush(ctx, c)
	c.close() // which ends the reader
	reader.Wait()
	if errors.Is(err, ErrStore) {
		return err
	}
	return context.Cause(alive)
}

// deliverAll delivers until the connection is over. A message that is with the handler stays with it; those behind it
// come again.
func (s *Subscriber) deliverAll(ctx, alive context.Context, events <-chan event, handler Handler) error {
	for {
		select {
		case <-alive.Done():
			return context.Cause(alive)
		case e := <-events:
			if err := s.deliver(ctx, e, handler); err != nil {
				return err
			}
		}
	}
}

// read queues messages and gaps until the connection ends. Objects that it does not know are of a later version and
// passed over.
func (s *Subscriber) read(alive context.Context, c *conn, events chan<- event, drain chan<- time.Duration) error {
	for {
		o, err := c.next()
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				c.abandon()
			}
			return err
		}
		switch o.T {
		case protocol.TMsg, protocol.TGap:
			e, err := s.ledger.eventOf(o)
			if err != nil {
				return err
			}
			select {
			case events <- e:
			case <-alive.Done():
				return nil
			}
		case protocol.TDrain:
			select {
			case drain <- time.Duration(o.Within) * time.Millisecond:
			default: // once is enough
			}
		}
	}
}

// acknowledge sends what was handled, every 50 ms or 64 messages, and ends the connection at a random moment of the
// time that a draining node gives.
func (s *Subscriber) acknowledge(alive context.Context, c *conn, drain <-chan time.Duration) error {
	leave := make(<-chan time.Time)
	for {
		select {
		case <-alive.Done():
			return nil
		case within := <-drain:
			timer := time.NewTimer(rand.N(max(within, 1))) //nolint:gosec // nobody gains by guessing it
			defer timer.Stop()
			leave, drain = timer.C, nil
			continue
		case <-leave:
			return errDrained
		case <-s.ledger.due:
		}
		timer := time.NewTimer(ackEvery)
		select {
		case <-alive.Done():
		case <-s.ledger.full:
		case <-timer.C:
		}
		timer.Stop()
		if err := s.flush(alive, c); err != nil {
			return err
		}
	}
}

// flush saves the cursors and then acknowledges them. The acknowledger calls it, and hold once more when that has
// ended. Saving is not cut short by the end of ctx: what was handled is to be remembered.
func (s *Subscriber) flush(ctx context.Context, c *conn) error {
	acks, state := s.ledger.take()
	if len(acks) == 0 {
		return nil
	}
	if err := s.options.Cursors.Save(context.WithoutCancel(ctx), state); err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return c.say(acks...)
}
