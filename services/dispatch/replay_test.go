package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// again is a message of an address, as a replay hands it in.
func again(to subject.Address, seq uint64) message.Addressed {
	m := &message.Message{To: to, Seq: seq, ID: fmt.Sprint(seq), ContentType: message.JSON, Payload: []byte("1"), Again: true}
	return message.Addressed{To: to, Entry: message.Entry{From: seq, To: seq, Message: m}}
}

// replay asks the owner of the partition to send messages again.
func (w *world) replay(entries ...message.Addressed) ([]node.Fate, error) {
	var frame []byte
	for _, e := range entries {
		frame = message.AppendEntry(frame, e.To, e.Entry)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	reply, err := rpc.Send(ctx, w.nc, &nats.Msg{
		Subject: subject.Dispatch(0), Data: frame, Header: nats.Header{node.HeaderReplay: {"run 1"}},
	})
	if err != nil {
		return nil, err
	}
	var done node.Replayed
	if err := json.Unmarshal(reply.Data, &done); err != nil {
		w.t.Fatal(err)
	}
	return done.Fates, nil
}

// owned waits until somebody owns the partition.
func (w *world) owned() {
	w.t.Helper()
	w.eventually("an owner replays", func() bool {
		_, err := w.replay()
		return err == nil
	})
}

// does lets a node say of each message what becomes of it there.
func (n *fake) does(fates map[string]node.Fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fates = fates
}

func (w *world) fates(want []node.Fate, entries ...message.Addressed) {
	w.t.Helper()
	got, err := w.replay(entries...)
	if err != nil || !slices.Equal(got, want) {
		w.t.Errorf("%v: %v; want %v", got, err, want)
	}
}

const (
	away = node.FateAway
	full = node.FateFull
	sent = node.FateSent
)

// TestReplay: each node is sent its part, in order and marked; of what several nodes say the best counts.
func TestReplay(t *testing.T) {
	w := newWorld(t)
	one, two := w.node("one", true, address(1), address(2)), w.node("two", true, address(2), address(3))
	one.does(map[string]node.Fate{"user:u1/1": sent, "user:u1/2": full, "user:u2/1": full, "user:u2/2": away})
	two.does(map[string]node.Fate{"user:u2/1": away, "user:u2/2": sent, "user:u3/1": away, "user:u3/2": away})
	w.start()
	w.owned()
	w.fates([]node.Fate{sent, away, full, full, away, away, sent},
		again(address(1), 1), again(address(3), 1), again(address(2), 1), again(address(1), 2), again(address(9), 1), again(address(3), 2), again(address(2), 2))
	if got := one.got(); !slices.Equal(got, []string{"user:u1/1", "user:u2/1", "user:u1/2", "user:u2/2"}) {
		t.Errorf("one was sent %q", got)
	}
	if got := two.got(); !slices.Equal(got, []string{"user:u3/1", "user:u2/1", "user:u3/2", "user:u2/2"}) {
		t.Errorf("two was sent %q", got)
	}
	for _, n := range []*fake{one, two} {
		n.mu.Lock()
		if n.runs != "run 1" {
			t.Errorf("%s was told of the runs %q", n.id, n.runs)
		}
		for _, e := range slices.Concat(n.frames...) {
			if !e.Message.Again {
				t.Errorf("%s was sent %s/%d as if it were new", n.id, e.To, e.From)
			}
		}
		n.mu.Unlock()
	}
	if heads, err := w.table.Heads(t.Context(), []subject.Address{address(1)}); err != nil || heads[0] != 0 {
		t.Errorf("the head in Redis is %v, %v: a replay knows no heads", heads, err)
	}
}

// TestReplayKeepsOrder: requests that come at once are done one after the other.
func TestReplayKeepsOrder(t *testing.T) {
	w := newWorld(t)
	n := w.node("one", true, address(1))
	w.start()
	w.owned()
	inbox := w.nc.NewRespInbox()
	answers := make(chan *nats.Msg, 40)
	sub, err := w.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var want []string
	for seq := uint64(1); seq <= 40; seq++ {
		e := again(address(1), seq)
		want = append(want, fmt.Sprintf("user:u1/%d", seq))
		err := w.nc.PublishMsg(&nats.Msg{
			Subject: subject.Dispatch(0), Reply: inbox, Data: message.AppendEntry(nil, e.To, e.Entry), Header: nats.Header{node.HeaderReplay: {"r"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("all answered", func() bool { return len(answers) == 40 })
	if got := n.got(); !slices.Equal(got, want) {
		t.Errorf("it came as %q", got)
	}
}

// TestReplayPastASilentNode: its messages are away, within two hops and once; then it is passed over.
func TestReplayPastASilentNode(t *testing.T) {
	w := newWorld(t)
	silent, well := w.node("silent", true, address(1), address(2)), w.node("well", true, address(2))
	silent.set(true)
	w.start(silence(brief))
	w.owned()
	begun := time.Now()
	w.fates([]node.Fate{away, sent}, again(address(1), 1), again(address(2), 1))
	if took := time.Since(begun); took < 2*brief {
		t.Errorf("it took %s; a node has two hops", took)
	}
	framed := silent.framed()
	for seq := uint64(2); seq < 30; seq++ {
		w.fates([]node.Fate{away, sent}, again(address(1), seq), again(address(2), seq))
	}
	if silent.framed() != framed || well.framed() != 29 {
		t.Errorf("%d more went to the silent node, %d to the other", silent.framed()-framed, well.framed())
	}
	silent.set(false)
	w.eventually("it sweeps", func() bool { return silent.told(node.Sweep) })
	w.fates([]node.Fate{sent}, again(address(1), 40))
}

// TestReplayWithoutRedis asks all nodes that are known, and refuses where none is.
func TestReplayWithoutRedis(t *testing.T) {
	w := newWorld(t)
	one, two := w.node("one", true, address(1)), w.node("two", true)
	two.does(map[string]node.Fate{"user:u1/1": away})
	s := w.start()
	w.owned()
	w.eventually("the nodes are known", func() bool { return len(s.peers.all()) == 3 })
	w.stopRedis()
	w.fates([]node.Fate{sent}, again(address(1), 1))
	if !one.has("user:u1/1") || !two.has("user:u1/1") || one.framed() != 1 {
		t.Errorf("one was sent %q, two %q", one.got(), two.got())
	}
	s.stop()
	w.start()
	w.eventually("somebody answers, and knows nobody", func() bool {
		_, err := w.replay(again(address(1), 1))
		p := problem.From(err)
		return err != nil && p.Code == problem.Unavailable && p.Retry && p.Message[:5] == "Redis"
	})
}

// TestReplayIsRefused where it can't be read, and where nobody owns the partition (any more): nobody waits for that.
func TestReplayIsRefused(t *testing.T) {
	w := newWorld(t)
	s := w.start()
	w.owned()
	for name, m := range map[string]*nats.Msg{
		"garbage":   {Data: []byte{9, 9}, Header: nats.Header{node.HeaderReplay: {"r"}}},
		"no header": {Data: message.AppendEntry(nil, address(1), again(address(1), 1).Entry)},
	} {
		m.Subject = subject.Dispatch(0)
		if _, err := rpc.Send(t.Context(), w.nc, m); problem.From(err).Code != problem.BadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	// While a node holds an answer back the term ends; what waits behind it is refused, too.
	n := w.node("one", true, address(1))
	hold := make(chan struct{})
	n.mu.Lock()
	n.hold = hold
	n.mu.Unlock()
	failures := make(chan error, 5)
	for range cap(failures) {
		go func() {
			_, err := w.replay(again(address(1), 1))
			failures <- err
		}()
	}
	w.eventually("the node works", func() bool { return n.framed() > 0 })
	begun := time.Now()
	s.stop()
	close(hold)
	for range cap(failures) {
		if err := <-failures; !errors.Is(err, problem.New(problem.Unavailable, "")) {
			t.Errorf("at the end of the term: %v", err)
		}
	}
	if took := time.Since(begun); took >= patience {
		t.Errorf("it took %s to be refused: it waited for the node", took)
	}
	if _, err := w.replay(again(address(1), 1)); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("without an owner: %v", err)
	}
}

// TestShownAsAService: `nats micro ls` lists it.
func TestShownAsAService(t *testing.T) {
	w := newWorld(t)
	s := w.start()
	w.owned() // and so the server knows its subscriptions
	subj, err := micro.ControlSubject(micro.InfoVerb, "weft-dispatch", "")
	if err != nil {
		t.Fatal(err)
	}
	reply, err := w.nc.Request(subj, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(reply.Data, &info); err != nil || info.Metadata["instance"] != s.id {
		t.Errorf("%s, %v", reply.Data, err)
	}
}
