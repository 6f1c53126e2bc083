package collect

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// outlet is a PublishStream of a test.
type outlet struct {
	*connect.ClientStreamForClient[weftv1.PublishStreamRequest, weftv1.PublishStreamResponse]
}

func (c *counter) stream(token string, options ...connect.ClientOption) outlet {
	c.t.Helper()
	return c.streamOf(limit(c.t), token, options...)
}

func (c *counter) streamOf(ctx context.Context, token string, options ...connect.ClientOption) outlet {
	options = append([]connect.ClientOption{connect.WithGRPC(), connect.WithInterceptors(bearing(token))}, options...)
	client := connect.NewClient[weftv1.PublishStreamRequest, weftv1.PublishStreamResponse](
		c.client, c.url+weftv1connect.PublishServicePublishStreamProcedure, options...)
	return outlet{client.CallClientStream(ctx)}
}

// receipts half-closes the stream.
func (s outlet) receipts() ([]*weftv1.PublishResponse, error) {
	answer, err := s.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return answer.Msg.GetReceipts(), nil
}

// end is the error that the server ends the stream with by itself.
func (s outlet) end() error {
	conn, err := s.Conn()
	if err == nil {
		err = conn.Receive(new(weftv1.PublishStreamResponse))
	}
	_, _ = s.CloseAndReceive()
	return err
}

// send puts a message into a stream; one that the server has ended takes none, which its answer tells.
func send(s outlet, to, id, data string) {
	_ = s.Send(&weftv1.PublishStreamRequest{Message: &weftv1.PublishRequest{To: to, Id: id, Data: []byte(data)}})
}

// owner stands in for the owner of all messages. It answers each when the test says what with.
type owner struct {
	asked chan *asked

	mu   sync.Mutex // protects what follows
	now  int
	most int // that were asked for at once
}

type asked struct {
	*message.Message
	from  *owner
	reply *nats.Msg
}

func (c *counter) owner() *owner {
	c.t.Helper()
	o := &owner{asked: make(chan *asked, 2*streamMost)}
	sub, err := c.nc.Subscribe(subject.Collect(0), func(m *nats.Msg) {
		entries, err := message.DecodeEntries(m.Data)
		if err != nil {
			c.t.Error(err)
			return
		}
		o.mu.Lock()
		o.now++
		o.most = max(o.most, o.now)
		o.mu.Unlock()
		one := *entries[0].Message
		one.To = entries[0].To
		o.asked <- &asked{Message: &one, from: o, reply: m}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := c.nc.Flush(); err != nil {
		c.t.Fatal(err)
	}
	return o
}

// next is the next message that the owner is asked to archive.
func (o *owner) next(t testing.TB) *asked {
	t.Helper()
	select {
	case a := <-o.asked:
		return a
	case <-time.After(patience):
		t.Fatal("the owner is not asked")
		return nil
	}
}

func (a *asked) archived() {
	a.answered()
	_ = a.reply.Respond(fmt.Appendf(nil, `{"id":%q,"to":%q,"seq":1,"state":"archived"}`, a.ID, a.To.String()))
}

func (a *asked) refused(code problem.Code) {
	a.answered()
	_ = a.reply.RespondMsg(rpc.Refusal(problem.New(code, "for the test")))
}

func (a *asked) answered() {
	a.from.mu.Lock()
	a.from.now--
	a.from.mu.Unlock()
}

// failed holds the error of a stream against its problem, the index that failed and how many were archived.
func failed(t testing.TB, err error, code connect.Code, why problem.Code, index, archived int) {
	t.Helper()
	p, _ := refusal.Detail[*weftv1.Problem](err)
	f, ok := refusal.Detail[*weftv1.PublishStreamFailure](err)
	if !ok || connect.CodeOf(err) != code || p.GetCode() != string(why) || f.GetProblem().GetCode() != string(why) ||
		int(f.GetIndex()) != index || int(f.GetArchived()) != archived {
		t.Errorf("%v with %v; want %s with %s at %d, %d archived", err, f, code, why, index, archived)
	}
}

// Every message is archived once, those of one address in the order of the stream, and the receipts have that order.
func TestStream(t *testing.T) {
	c := newCounter(t)
	for round, option := range []connect.ClientOption{connect.WithGRPC(), connect.WithGRPCWeb(), connect.WithProtoJSON()} {
		s := c.stream("good", option)
		const messages = 300
		var to []string
		for i := range messages {
			to = append(to, fmt.Sprintf("user:u%d", rand.IntN(7)))
			send(s, to[i], fmt.Sprintf("%d-%d", round, i), fmt.Sprint(i))
		}
		receipts, err := s.receipts()
		if err != nil || len(receipts) != messages {
			t.Fatal(len(receipts), err)
		}
		last := map[string]uint64{}
		for i, r := range receipts {
			if r.GetTo() != to[i] || r.GetId() != fmt.Sprintf("%d-%d", round, i) || r.GetState() != string(message.StateArchived) {
				t.Fatalf("receipt %d is %v", i, r)
			}
			if before, ok := last[to[i]]; ok && r.GetSeq() != before+1 {
				t.Fatalf("%v came after %d", r, before)
			}
			last[to[i]] = r.GetSeq()
		}
	}
	c.logged(1 + 3*300)
}

func TestStreamOfNothing(t *testing.T) {
	c := newCounterOf(t)
	if receipts, err := c.stream("good").receipts(); err != nil || len(receipts) != 0 {
		t.Error(receipts, err)
	}
	_, err := c.stream("bad").receipts()
	refused(t, err, connect.CodeUnauthenticated, problem.Unauthorized, "")
}

// Of one address only one message is under way; of different ones as many as there are places, and the publisher waits.
func TestStreamIsBounded(t *testing.T) {
	c := newCounterOf(t)
	o := c.owner()
	s := c.stream("good")
	const addresses, each = streamAtOnce + 20, 3
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range addresses * each {
			send(s, fmt.Sprintf("user:u%d", i%addresses), fmt.Sprint(i/addresses), `"`+strings.Repeat("x", 60<<10)+`"`)
		}
	})
	turn := map[string]int{}
	var waiting []*asked
	for range streamAtOnce {
		waiting = append(waiting, o.next(t))
	}
	for range addresses * each {
		for len(o.asked) > 0 || len(waiting) == 0 {
			waiting = append(waiting, o.next(t))
		}
		under := map[string]bool{}
		for _, a := range waiting {
			if under[a.To.ID] {
				t.Fatalf("two messages of %s are under way", a.To)
			}
			under[a.To.ID] = true
		}
		i := rand.IntN(len(waiting))
		a := waiting[i]
		waiting = append(waiting[:i], waiting[i+1:]...)
		if a.ID != fmt.Sprint(turn[a.To.ID]) {
			t.Fatalf("message %s of %s came, not %d", a.ID, a.To, turn[a.To.ID])
		}
		turn[a.To.ID]++
		a.archived()
	}
	sending.Wait()
	if receipts, err := s.receipts(); err != nil || len(receipts) != addresses*each {
		t.Fatal(len(receipts), err)
	}
	if o.most != streamAtOnce {
		t.Errorf("%d were under way at once; want %d", o.most, streamAtOnce)
	}
}

// At a problem the stream ends, without waiting for the publisher, who may not be about to send or to half-close.
func TestStreamEndsAtTheFirstProblem(t *testing.T) {
	c := newCounter(t)
	for name, bad := range map[string]struct {
		say  *weftv1.PublishRequest
		code connect.Code
		why  problem.Code
	}{
		"conflict": {&weftv1.PublishRequest{To: "user:alice", Id: "m0", Data: []byte("2")}, connect.CodeFailedPrecondition, problem.Conflict},
		"right":    {&weftv1.PublishRequest{To: "topic:news", Data: []byte("2")}, connect.CodePermissionDenied, problem.Forbidden},
		"address":  {nil, connect.CodeInvalidArgument, problem.BadAddress},
		"json":     {&weftv1.PublishRequest{To: "user:alice", Data: []byte("{")}, connect.CodeInvalidArgument, problem.BadJSON},
		"large":    {&weftv1.PublishRequest{To: "user:alice", Data: make([]byte, callMost+1)}, connect.CodeInvalidArgument, problem.TooLarge},
		"ttl":      {&weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Ttl: "x"}, connect.CodeInvalidArgument, problem.BadHeader},
		"receipt":  {&weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Receipt: "x"}, connect.CodeInvalidArgument, problem.BadHeader},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.stream("good")
			for i := range 5 {
				send(s, "user:alice", fmt.Sprint("m", i), "1")
			}
			_ = s.Send(&weftv1.PublishStreamRequest{Message: bad.say})
			failed(t, s.end(), bad.code, bad.why, 5, 5)
		})
	}
	c.logged(6)
}

// What stands behind a message that may not have been archived is not tried, of its address; nor is anything else that
// was not under way. What was read before it is.
func TestStreamStopsWhereTheArchiveDoes(t *testing.T) {
	c := newCounterOf(t)
	o := c.owner()
	s := c.stream("good")
	for i, to := range []string{"alice", "bob", "alice", "alice", "bob", "carol", "bob"} {
		send(s, "user:"+to, fmt.Sprint(i), "1")
	}
	under := map[string]*asked{}
	for range 3 {
		a := o.next(t)
		under[a.ID] = a
	}
	if under["0"] == nil || under["1"] == nil || under["5"] == nil {
		t.Fatalf("%v are under way", under)
	}
	under["0"].archived()
	second := o.next(t) // alice's
	if second.ID != "2" {
		t.Fatal(second.ID)
	}
	second.refused(problem.Unavailable)
	c.eventually("alice's third is let go", func() bool { return len(c.service.streamed) == 4 })
	under["5"].archived()
	under["1"].archived()
	failed(t, s.end(), connect.CodeUnavailable, problem.Unavailable, 2, 3)
	if len(o.asked) != 0 {
		t.Errorf("%s was tried", (<-o.asked).ID)
	}
}

// When several fail, the first in the order of the stream counts: all before it are archived.
func TestStreamNamesTheFirstThatFailed(t *testing.T) {
	c := newCounterOf(t)
	o := c.owner()
	s := c.stream("good")
	for i, to := range []string{"alice", "alice", "bob"} {
		send(s, "user:"+to, fmt.Sprint(i), "1")
	}
	under := map[string]*asked{}
	for range 2 {
		a := o.next(t)
		under[a.ID] = a
	}
	under["2"].refused(problem.Conflict)
	c.eventually("bob's is let go", func() bool { return len(c.service.streamed) == 2 })
	under["0"].archived()
	third := o.next(t) // it was read before the one that failed, so it is tried
	third.refused(problem.Unavailable)
	_, err := s.receipts()
	failed(t, err, connect.CodeUnavailable, problem.Unavailable, 1, 1)
}

func TestStreamTakesSoManyMessages(t *testing.T) {
	c := newCounterOf(t)
	o := c.owner()
	done := make(chan struct{})
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			select {
			case a := <-o.asked:
				a.archived()
			case <-done:
				return
			}
		}
	})
	s := c.stream("good")
	for i := range streamMost + 1 {
		send(s, fmt.Sprintf("user:u%d", i%100), fmt.Sprint(i), "1")
	}
	_, err := s.receipts()
	close(done)
	answering.Wait()
	failed(t, err, connect.CodeInvalidArgument, problem.TooLarge, streamMost, streamMost)
}

// A stream does not outlive its token, however long it stays open.
func TestStreamEndsWithItsToken(t *testing.T) {
	c := newCounter(t)
	s := c.stream("brief")
	send(s, "user:alice", "0", "0")
	c.logged(2)
	<-time.After(600 * time.Millisecond)
	send(s, "user:alice", "1", "1")
	failed(t, s.end(), connect.CodeUnauthenticated, problem.TokenExpired, 1, 1)
	c.logged(2)
}

// A collect that stops ends its streams and says so.
func TestStreamEndsWithTheDoor(t *testing.T) {
	c := newCounterOf(t)
	o := c.owner()
	s := c.stream("good")
	send(s, "user:alice", "0", "0")
	o.next(t).archived()
	idle := c.stream("good")
	send(idle, "user:bob", "0", "0")
	waiting := o.next(t)
	begun := time.Now()
	c.close()
	if took := time.Since(begun); took > ownerTimeout/2 {
		t.Errorf("it took %s", took)
	}
	failed(t, s.end(), connect.CodeUnavailable, problem.Unavailable, 1, 1)
	failed(t, idle.end(), connect.CodeUnavailable, problem.Unavailable, 0, 0)
	waiting.answered()
}

// A publisher that vanishes leaves no place taken.
func TestStreamOfOneThatVanishes(t *testing.T) {
	c := newCounterOf(t)
	o := c.owner()
	ctx, vanish := context.WithCancel(t.Context())
	s := c.streamOf(ctx, "good")
	for i := range streamAtOnce / 2 {
		send(s, "user:alice", fmt.Sprint(i), "1")
	}
	o.next(t)
	vanish()
	c.eventually("the places are free", func() bool { return len(c.service.streams) == 0 && len(c.service.streamed) == 0 })
	if len(o.asked) != 0 {
		t.Errorf("%s was tried", (<-o.asked).ID)
	}
}
