package client

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// asked reads the next object that is not an acknowledgement.
func (p *peer) asked(want string, topics ...string) (o protocol.FromClient) {
	for {
		var ok bool
		if o, ok = p.read(); !ok {
			p.t.Errorf("the client left before it said %s", want)
			return o
		}
		if o.T == protocol.TAck || o.T == protocol.TPong {
			continue
		}
		if slices.Sort(o.Topics); o.T != want || !slices.Equal(o.Topics, topics) {
			p.t.Errorf("the client says %+v, want %s %v", o, want, topics)
		}
		return o
	}
}

// has answers sub or unsub with the mailboxes of alice's session.
func (p *peer) has(answer string, next map[string]uint64) {
	boxes := map[string]protocol.Mailbox{"user:alice": {Next: 1}, "all": {Next: 1}}
	for address, n := range next {
		boxes[address] = protocol.Mailbox{Next: n}
	}
	line, err := json.Marshal(protocol.Subscribed{T: answer, Mailboxes: boxes})
	if err != nil {
		p.t.Error(err)
	}
	p.send(string(line))
}

func news(seq uint64) string {
	return strings.Replace(msg(seq), `"at":1`, `"at":1,"ch":"topic:news"`, 1)
}

// listenTo is listen, with the Subscriber.
func listenTo(t *testing.T, url string, change func(*Options)) (*Subscriber, *listener) {
	t.Helper()
	l := &listener{t: t, got: make(chan Message, 1000), gaps: make(chan Gap, 100), status: make(chan Status, 100), ended: make(chan error, 1)}
	options := Options{
		URL: url, Device: "d", OnStatus: func(s Status) { l.status <- s },
		Token: func(context.Context) (string, error) { return "token", nil },
	}
	if change != nil {
		change(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	s, err := Dial(ctx, options)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		l.ended <- s.Run(ctx, func(_ context.Context, m Message) error { l.got <- m; return nil })
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return s, l
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	t.Cleanup(cancel)
	return ctx
}

func TestSubscribeAndUnsubscribeWhileRunning(t *testing.T) {
	acked := make(chan struct{})
	url := serve(t,
		func(p *peer) {
			p.welcome(1)
			if o := p.asked(protocol.TSub, "news"); len(o.Cursors) != 0 || o.Epoch != "e" {
				t.Errorf("a topic that is new has the cursors %v, in %q", o.Cursors, o.Epoch)
			}
			p.has(protocol.TSub, map[string]uint64{"topic:news": 5})
			p.send(news(5), news(6))
			p.acked("topic:news", 6)
			close(acked)
			p.asked(protocol.TUnsub, "news")
			p.send(news(7)) // it crosses with the unsub
			p.has(protocol.TUnsub, nil)
			if o := p.asked(protocol.TSub, "news"); o.Cursors["topic:news"] != 6 {
				t.Errorf("the topic is to go on behind %v, want 6", o.Cursors)
			}
			p.has(protocol.TSub, map[string]uint64{"topic:news": 7})
			p.send(news(7))
			p.acked("topic:news", 7)
			_ = p.ws.NetConn().Close()
		},
		func(p *peer) {
			if !slices.Equal(p.hello.Topics, []string{"news"}) || p.hello.Cursors["topic:news"] != 7 {
				t.Errorf("the next hello is %+v", p.hello)
			}
			p.welcomeTo(welcome("e", map[string]uint64{"user:alice": 1, "topic:news": 8}))
			p.gone()
		})
	s, l := listenTo(t, url, nil)
	ctx := soon(t)
	if err := s.Subscribe(ctx, "news"); err != nil {
		t.Fatal(err)
	}
	l.want(5, 6)
	if err := s.Subscribe(ctx, "news", "news"); err != nil { // nothing to say
		t.Fatal(err)
	}
	receive(t, acked)
	if err := s.Unsubscribe(ctx, "news"); err != nil {
		t.Fatal(err)
	}
	if len(l.got) != 0 {
		t.Error("a message came after the topic was left")
	}
	if err := s.Subscribe(ctx, "news"); err != nil {
		t.Fatal(err)
	}
	l.want(7)
	_ = l.offline()
	l.end()
}

// A change that is wished for while there is no connection, or one is being made, is made with it or after it.
func TestTopicsChangeWithoutAConnection(t *testing.T) {
	helloed, wished := make(chan struct{}), make(chan struct{})
	url := serve(t,
		func(p *peer) { p.welcomeTo(welcome("e", map[string]uint64{"user:alice": 1, "topic:old": 1})) },
		func(p *peer) {
			if !slices.Equal(p.hello.Topics, []string{"old"}) {
				t.Errorf("the hello has the topics %v", p.hello.Topics)
			}
			close(helloed)
			<-wished
			p.welcomeTo(welcome("e", map[string]uint64{"user:alice": 1, "topic:old": 1}))
			p.asked(protocol.TSub, "news")
			p.has(protocol.TSub, map[string]uint64{"topic:old": 1, "topic:news": 1})
			p.asked(protocol.TUnsub, "old")
			p.has(protocol.TUnsub, map[string]uint64{"topic:news": 1})
			p.send(news(1))
			p.gone()
		})
	s, l := listenTo(t, url, func(o *Options) { o.Topics = []string{"old"} })
	receive(t, helloed)
	ctx := soon(t)
	var changing sync.WaitGroup
	changing.Go(func() {
		if err := s.Subscribe(ctx, "news"); err != nil {
			t.Error(err)
		}
	})
	receive(t, s.ledger.retopic) // the wish is noted
	signal(s.ledger.retopic)
	close(wished)
	changing.Wait()
	if err := s.Unsubscribe(ctx, "old"); err != nil {
		t.Error(err)
	}
	l.want(1)
	l.end()
}

// What is left, or wished for by somebody who did not wait, while a hello is under way is told to the session that it opens:
// nobody would acknowledge the messages of a topic that it has and the device has not, until they fill its window.
func TestTopicsThatChangeDuringAHelloAndThatNobodyWaitsFor(t *testing.T) {
	helloed, wished := make(chan struct{}), make(chan struct{})
	url := serve(t, (*peer).welcomeOld,
		func(p *peer) {
			close(helloed)
			<-wished
			p.welcomeOld()
			if o, ok := p.read(); !ok || o.T != protocol.TUnsub || !slices.Equal(o.Topics, []string{"old"}) {
				t.Errorf("the client says %+v, want that it leaves old", o)
			}
			p.asked(protocol.TSub, "news")
			p.has(protocol.TUnsub, nil)
			p.has(protocol.TSub, map[string]uint64{"topic:news": 1})
			p.send(news(1))
			p.gone()
		})
	s, l := listenTo(t, url, func(o *Options) { o.Topics = []string{"old"} })
	receive(t, helloed)
	if err := s.Unsubscribe(soon(t), "old"); err != nil {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for !s.ledger.wants("topic:news") { // a change that may not begin any more is none
		if err := s.Subscribe(over, "news"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	drop(s.ledger.retopic) // by a session that ends just now, say
	close(wished)
	l.want(1)
	l.end()
}

// A handler that waits for topics does not keep Run from ending, whatever context it waits with.
func TestRunEndsWhileTheHandlerWaitsForTopics(t *testing.T) {
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1))
		p.asked(protocol.TSub, "news")
		p.close(protocol.CloseReplaced)
		p.gone()
	})
	s, err := Dial(t.Context(), Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	asked, ended := make(chan error, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		ended <- s.Run(t.Context(), func(context.Context, Message) error {
			asked <- s.Subscribe(ctx, "news")
			return nil
		})
	})
	defer running.Wait()
	defer cancel()
	if err := receive(t, asked); !errors.Is(err, ErrEnded) {
		t.Errorf("nobody will confirm the topic, and Subscribe says %v", err)
	}
	if closed, ok := errors.AsType[*Closed](receive(t, ended)); !ok || closed.Code != protocol.CloseReplaced {
		t.Errorf("Run returned %v", closed)
	}
}

// A topic that the token does not allow costs a connection and not the Subscriber, and the others stay.
func TestATopicThatIsRefused(t *testing.T) {
	for name, refuse := range map[string]func(*peer){
		"on a live session": func(p *peer) { p.welcomeOld(); p.asked(protocol.TSub, "secret"); forbid(p) },
		"by a busy node first": func(p *peer) {
			p.welcomeOld()
			p.asked(protocol.TSub, "secret")
			p.send(`{"t":"error","code":"unavailable","message":"try again","retry":true}`)
			p.asked(protocol.TSub, "secret")
			forbid(p)
		},
		"in the next hello": func(p *peer) { p.welcomeOld(); p.asked(protocol.TSub, "secret") },
	} {
		t.Run(name, func(t *testing.T) {
			scripts := []func(*peer){refuse}
			if name == "in the next hello" {
				scripts = append(scripts, forbid)
			}
			url := serve(t, append(scripts, func(p *peer) {
				if !slices.Equal(p.hello.Topics, []string{"old"}) {
					t.Errorf("the hello has the topics %v", p.hello.Topics)
				}
				p.welcomeOld()
				p.send(msg(1))
				p.gone()
			})...)
			s, l := listenTo(t, url, func(o *Options) { o.Topics = []string{"old"} })
			err := s.Subscribe(soon(t), "secret")
			closed, ok := errors.AsType[*Closed](err)
			if !ok || closed.Code != protocol.CloseForbidden || !errors.Is(err, problem.New(problem.Forbidden, "")) {
				t.Errorf("refused with %v", err)
			}
			l.want(1)
			l.end()
		})
	}
}

// welcomeOld welcomes a session that has the topic old.
func (p *peer) welcomeOld() {
	p.welcomeTo(welcome("e", map[string]uint64{"user:alice": 1, "topic:old": 1}))
}

func forbid(p *peer) {
	p.send(`{"t":"error","code":"forbidden","message":"the token does not allow it","field":"topics"}`)
	p.close(protocol.CloseForbidden)
	p.gone()
}

// A topic of Options that is refused ends the Subscriber: nobody would hear of it otherwise.
func TestATopicOfTheOptionsThatIsRefusedIsFatal(t *testing.T) {
	url := serve(t, (*peer).welcomeOld, forbid, func(p *peer) { p.t.Errorf("it comes back with %v", p.hello.Topics) })
	_, l := listenTo(t, url, func(o *Options) { o.Topics = []string{"old"} })
	if closed, ok := errors.AsType[*Closed](receive(t, l.ended)); !ok || closed.Code != protocol.CloseForbidden {
		t.Errorf("Run returned %v", closed)
	}
}

func TestAChangeOfTopicsThatIsNotAnswered(t *testing.T) {
	asked := make(chan struct{})
	url := serve(t, func(p *peer) { p.welcome(1); p.asked(protocol.TSub, "news"); close(asked); p.gone() })
	s, l := listenTo(t, url, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	changing.Go(func() {
		if err := s.Subscribe(ctx, "news"); !errors.Is(err, context.Canceled) {
			t.Errorf("its context has ended, and it says %v", err)
		}
	})
	receive(t, asked)
	cancel()
	changing.Wait()
	if err := s.Subscribe(ctx, strings.Repeat("x", 200)); !errors.Is(err, problem.New(problem.IDTooLong, "")) {
		t.Errorf("a long topic: %v", err)
	}
	changing.Go(func() {
		if err := s.Subscribe(t.Context(), "other"); !errors.Is(err, ErrEnded) {
			t.Errorf("Run has ended, and it says %v", err)
		}
	})
	l.end()
	changing.Wait()
}

// A topic that is left and taken up again before the server has answered: what is queued of the first time is handed
// over at most once, and in order.
func TestATopicLeftAndTakenUpAgain(t *testing.T) {
	l := newLedger(State{}, []string{"news"})
	l.begin(welcome("e", map[string]uint64{"user:alice": 1, "topic:news": 1}))
	var queue []*event
	read := func(seqs ...uint64) {
		for _, seq := range seqs {
			e := ev("topic:news", seq, seq)
			fresh, err := l.read(e)
			if err != nil {
				t.Fatal(err)
			}
			if fresh {
				queue = append(queue, e)
			}
		}
	}
	var got []uint64
	deliver := func(n int) {
		for ; n > 0 && len(queue) > 0; n-- {
			if l.next(*queue[0]) {
				got = append(got, queue[0].to)
				l.handled(*queue[0])
			}
			queue = queue[1:]
		}
	}
	read(1, 2, 3, 4, 5)
	deliver(2)
	left := l.change(true, []string{"news"})
	deliver(1) // 3 is dropped
	back := l.change(false, []string{"news"})
	read(6) // on its way since before
	said := l.changes()
	if len(said) != 1 || said[0].(protocol.FromClient).T != protocol.TUnsub {
		t.Fatalf("the session has the topic and has to leave it first: %+v", said)
	}
	l.retopiced(protocol.Subscribed{Mailboxes: map[string]protocol.Mailbox{"user:alice": {Next: 1}}})
	if said = l.changes(); len(said) != 1 {
		t.Fatalf("said %+v", said)
	}
	saved(l)
	sub := said[0].(protocol.FromClient)
	if want := map[string]uint64{"topic:news": sub.Cursors["topic:news"]}; sub.T != protocol.TSub || !maps.Equal(sub.Cursors, want) {
		t.Errorf("said %+v", sub)
	}
	if len(back.done) != 0 || len(left.done) != 0 {
		t.Error("a change is done that is not")
	}
	next := sub.Cursors["topic:news"] + 1
	l.retopiced(protocol.Subscribed{Mailboxes: map[string]protocol.Mailbox{"user:alice": {Next: 1}, "topic:news": {Next: next}}})
	if len(back.done) != 1 {
		t.Error("the topic is not confirmed")
	}
	for seq := next; seq <= 7; seq++ {
		read(seq)
	}
	deliver(100)
	if !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("handed over %v", got)
	}
}
