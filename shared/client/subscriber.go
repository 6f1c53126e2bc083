package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	clientName = "weft-go/0.1"
	// ackEvery is how long a handled message waits for others to be acknowledged with.
	ackEvery = 50 * time.Millisecond
	// queueMost is how many messages and gaps wait for the handler. When there are more the connection is not read
	// on, and a server that finds it too slow closes it: what was not handled comes with the next one. A server sends
	// less than that unacknowledged (256 KiB, of which the smallest object takes 64 bytes, as push is configured).
	queueMost = 4096
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
	Topics  []string // to subscribe to from the beginning, without `topic:`; see Subscribe
	Cursors Store    // Memory when nil; see File
	Log     *slog.Logger
	// NetDial opens the network connections, for programs that have to say how; a net.Dialer when nil.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)

	// The callbacks may be nil. They are called one at a time, during Run, and by Dial for the first connection. The
	// connection waits for them, so they must be quick.
	OnGap    func(Gap)            // messages that will not come; in order with those that the handler gets
	OnFailed func(Message, error) // a message that the handler has refused six times, and that is passed over
	OnStatus func(Status)         // also while the handler works
}

// Status is what became of the connection.
type Status struct {
	Online  bool
	Welcome protocol.Welcome // while online
	Err     error            // why it is not
	Retry   time.Duration    // when the next connection is tried
}

// Subscriber is a device. Make it with Dial and run it once, with Run or Messages.
type Subscriber struct {
	options Options
	ledger  *ledger
	events  chan event    // read and not yet handled, in order
	turn    chan struct{} // has a place for the one change of topics that is under way
	ran     atomic.Bool   // Run was called
	over    chan struct{} // closed when Run makes no connection any more
	calling sync.Mutex    // serialises callbacks
	saving  sync.Mutex    // serialises the store
	// The goroutine of Dial, then the one of Run that connects:
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
	s := newSubscriber(options, state)
	s.nodes = nodes
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

func newSubscriber(options Options, state State) *Subscriber {
	return &Subscriber{
		options: options, ledger: newLedger(state, options.Topics), events: make(chan event, queueMost),
		turn: make(chan struct{}, 1), over: make(chan struct{}),
	}
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
//
// The handler is called by the goroutine that calls Run. Others read, acknowledge, save and reconnect meanwhile. A slow
// handler costs no connection before the server's window is full for 30 s (256 KiB not acknowledged, as push is
// configured), and then a reconnect; the loss of a connection costs no message. All have ended when Run returns. A second
// Run is ErrEnded: Dial anew.
func (s *Subscriber) Run(ctx context.Context, handler Handler) (err error) {
	if s.ran.Swap(true) {
		return ErrEnded
	}
	ctx, stop := context.WithCancel(ctx)
	// The connection outlives ctx until the handler has returned and what it did is acknowledged.
	line, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	var lost, unsaved error
	var connecting, saving sync.WaitGroup
	connecting.Go(func() {
		defer stop()
		defer close(s.over) // not at the end of Run: the handler may wait for topics, with a context of its own
		lost = s.stay(ctx, line)
	})
	saving.Go(func() { defer stop(); unsaved = s.saveAll(ctx) })
	defer func() { // also when the handler panics
		stop()
		saving.Wait()
		if unsaved == nil {
			unsaved = s.save(ctx)
		}
		hangUp()
		connecting.Wait()
		if err = cmp.Or(unsaved, lost); err != nil {
			s.call(func() { s.options.OnStatus(Status{Err: err}) })
		}
	}()
	s.deliverAll(ctx, handler)
	return nil
}

// Messages runs the Subscriber as Run does, in the form of a loop. A message is handled when the loop asks for the next
// one: it comes again, to the next Subscriber, when the loop is left at it. The loop ends when ctx does, or with the
// error that Run would return.
func (s *Subscriber) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		left := false
		err := s.Run(ctx, func(_ context.Context, m Message) error {
			if left = !yield(m, nil); left {
				stop()
				return context.Canceled
			}
			return nil
		})
		if err != nil && !left {
			yield(Message{}, err)
		}
	}
}

// saveAll saves what was handled, every 50 ms or 64 messages, until ctx ends.
func (s *Subscriber) saveAll(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ledger.due:
		}
		timer := time.NewTimer(ackEvery)
		select {
		case <-ctx.Done():
		case <-s.ledger.full:
		case <-timer.C:
		}
		timer.Stop()
		if err := s.save(ctx); err != nil {
			return err
		}
	}
}

// save saves the cursors, which lets them be acknowledged. It is not cut short by the end of ctx: what was handled is to
// be remembered.
func (s *Subscriber) save(ctx context.Context) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	state, news := s.ledger.take()
	if news {
		if err := s.options.Cursors.Save(context.WithoutCancel(ctx), state); err != nil {
			return fmt.Errorf("%w: %w", ErrStore, err)
		}
	}
	s.ledger.saved(state)
	return nil
}
