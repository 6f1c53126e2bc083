package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
)

// ownReplaced is for how long a hello that got no answer can be what a session was replaced by: a node that was
// stopped opens it when it wakes.
const ownReplaced = 2 * time.Minute

// stay keeps the device connected, first by the connection of Dial, until ctx ends; a connection is held until line
// does. It returns an error when connecting again is pointless.
func (s *Subscriber) stay(ctx, line context.Context) error {
	c := s.first
	s.first = nil
	for c != nil || ctx.Err() == nil {
		lasted, err := s.once(ctx, line, c)
		c = nil
		if fatal(err) && !s.replacedItself(err) && !s.ledger.refused(err) {
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
func (s *Subscriber) once(ctx, line context.Context, c *conn) (lasted time.Duration, err error) {
	if c == nil {
		if c, err = s.connect(ctx); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err = s.hold(line, c); errors.Is(err, ErrProtocol) {
		return 0, err
	}
	return time.Since(began), err
}

// rest chooses the next node and waits before it is asked.
func (s *Subscriber) rest(ctx context.Context, err error, lasted time.Duration) {
	pause := s.nodes.move(err, lasted, time.Now())
	s.call(func() { s.options.OnStatus(Status{Err: err, Retry: pause}) })
	s.options.Log.Warn("weft disconnected", "err", err, "retry", pause)
	_ = wait(ctx, pause) // the caller looks at ctx
}

// connect gets a token and makes a connection with it. The hello names what was handled so far.
func (s *Subscriber) connect(ctx context.Context) (*conn, error) {
	if err := s.save(ctx); err != nil {
		return nil, err
	}
	token, err := s.options.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("client: get a token: %w", err)
	}
	hello := protocol.FromClient{T: protocol.THello, Device: s.options.Device, Client: clientName}
	s.ledger.hello(&hello)
	c, welcome, err := dial(ctx, s.dialer(), s.nodes.url(), token, hello)
	if err != nil {
		if errors.Is(err, errUnanswered) {
			s.unanswered = time.Now()
		}
		return nil, err
	}
	s.ledger.begin(welcome)
	s.call(func() { s.options.OnStatus(Status{Online: true, Welcome: welcome}) })
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

// hold reads and acknowledges on one connection until it ends, line ends or the node drains. What was handled is saved
// and, if the connection still takes it, acknowledged when it returns.
func (s *Subscriber) hold(line context.Context, c *conn) error {
	alive, fail := context.WithCancelCause(line)
	busy := make(chan struct{}, 1)
	drain := make(chan time.Duration, 1)
	var reader sync.WaitGroup
	reader.Go(func() { fail(s.read(alive, c, drain, busy)) })
	fail(s.tell(alive, c, drain, busy))
	err := s.save(line)
	if err == nil {
		_ = say(c, s.ledger.acks()) // on a connection that is gone, the next hello says it
	}
	c.close() // which ends the reader
	reader.Wait()
	s.ledger.end()
	return cmp.Or(err, context.Cause(alive))
}

// read queues messages and gaps until the connection ends. Objects that it does not know are of a later version and
// passed over.
func (s *Subscriber) read(alive context.Context, c *conn, drain chan<- time.Duration, busy chan struct{}) error {
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
			err = s.queue(alive, o)
		case protocol.TSub, protocol.TUnsub:
			err = s.retopiced(o)
		case protocol.TError:
			if c.said.Retry {
				signal(busy)
			}
		case protocol.TDrain:
			select {
			case drain <- time.Duration(o.Within) * time.Millisecond:
			default: // once is enough
			}
		}
		if err != nil {
			return err
		}
	}
}

// queue puts a message or gap before the handler, if it is news. While the queue is full it waits, and the connection
// is not read.
func (s *Subscriber) queue(alive context.Context, o object) error {
	e, err := eventOf(s.ledger.address(o.Ch), o)
	if err != nil {
		return err
	}
	if e.gap == nil || e.gap.Why != message.WhyEpoch {
		if news, err := s.ledger.read(&e); err != nil || !news {
			return err
		}
	}
	select {
	case s.events <- e:
		return nil
	case <-alive.Done():
		s.ledger.unread(e)
		return context.Cause(alive)
	}
}

func (s *Subscriber) retopiced(o object) error {
	var answer protocol.Subscribed
	if err := json.Unmarshal(o.raw, &answer); err != nil || len(answer.Mailboxes) == 0 {
		return fmt.Errorf("%w: its answer to `%s` has no mailboxes", ErrProtocol, o.T)
	}
	s.ledger.retopiced(answer)
	return nil
}

// tell acknowledges what was saved, says which topics are wanted, and ends the connection at a random moment of the
// time that a draining node gives.
func (s *Subscriber) tell(alive context.Context, c *conn, drain <-chan time.Duration, busy <-chan struct{}) error {
	var leave, again <-chan time.Time
	for {
		var objects []any
		select {
		case <-alive.Done():
			return context.Cause(alive)
		case within := <-drain:
			leave, drain = time.After(rand.N(max(within, 1))), nil //nolint:gosec // nobody gains by guessing it
		case <-leave:
			return errDrained
		case <-busy: // it can't change topics right now, perhaps
			again = time.After(retopicPause)
		case <-again:
			objects = s.ledger.changes()
		case <-s.ledger.retopic:
			objects = s.ledger.changes()
		case <-s.ledger.ackable:
			objects = s.ledger.acks()
		}
		if err := say(c, objects); err != nil {
			return err
		}
	}
}

// say sends objects, if there are any.
func say(c *conn, objects []any) error {
	if len(objects) == 0 {
		return nil
	}
	return c.say(objects...)
}
