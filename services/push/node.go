package push

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// fallbackBytes is how many bytes of frames for all nodes may wait for this one.
const fallbackBytes = 64 << 20

// subscribe listens on the node's subjects; stop ends that and returns when no handler runs any more.
func (n *Service) subscribe() (stop func(), err error) {
	var subs []*nats.Subscription
	stop = func() {
		var draining []<-chan nats.SubStatus
		for _, sub := range subs {
			ended := sub.StatusChanged(nats.SubscriptionClosed)
			if err := sub.Drain(); err == nil {
				draining = append(draining, ended)
			}
		}
		limit := time.After(time.Second)
		for _, ended := range draining {
			select {
			case <-ended:
			case <-limit:
				return // the connection is gone; nothing comes any more
			}
		}
	}
	for subj, handle := range map[string]nats.MsgHandler{
		subject.Node(n.id):        n.takeFrame,
		subject.NodeControl(n.id): n.takeOrder,
		subject.Nodes:             n.takeFrame,
	} {
		sub, err := n.nc.Subscribe(subj, handle)
		if err != nil {
			stop()
			return nil, fmt.Errorf("push: subscribe to %s: %w", subj, err)
		}
		// Frames are bounded by what dispatch leaves unanswered, not by a count of ours.
		limit := -1
		if subj == subject.Nodes { // nobody waits for our answer here; what is dropped the next sweep finds
			limit = fallbackBytes
		}
		if err := sub.SetPendingLimits(-1, limit); err != nil {
			stop()
			return nil, fmt.Errorf("push: %w", err)
		}
		subs = append(subs, sub)
	}
	return stop, nil
}

// takeFrame gives each message of a frame to the sessions of its address, then answers: the messages are in the
// sessions' hands, or will be read from the archive by them. It waits for no client.
func (n *Service) takeFrame(frame *nats.Msg) {
	n.counts.frames.Add(1)
	if frame.Header.Get(node.HeaderReplay) != "" {
		n.takeReplay(frame)
		return
	}
	entries, err := message.DecodeEntries(frame.Data)
	if err != nil {
		n.faults.Note("read a frame", err)
		return // without an answer dispatch tells us to sweep
	}
	now := time.Now()
	for _, e := range entries {
		if !n.hub.holds(e.To) {
			continue
		}
		if e.Message != nil {
			e.Entry = message.EntryOf(e.Message, now)
		}
		n.hub.deliver(e.To, newItem(e.To, e.Entry))
	}
	n.answer(frame)
}

// takeOrder does what an operator, dispatch or another node asks.
func (n *Service) takeOrder(msg *nats.Msg) {
	var order node.Order
	if err := json.Unmarshal(msg.Data, &order); err != nil {
		n.faults.Note("read an order", err)
		return
	}
	switch order.Op {
	case node.Probe:
	case node.Report:
		n.presence.wanted.Store(true)
	case node.Sweep:
		n.sweepSoon()
	case node.Replaced:
		n.replace(order.Session, order.By)
	case node.Ack:
		if err := n.ackHere(order.Session, order.Acks); err != nil {
			n.refuse(msg, problem.From(err))
			return
		}
	case node.Kick:
		n.reply(msg, object(node.Kicked{Sessions: n.kick(order)}))
		return
	case node.Drain:
		n.reply(msg, object(node.Drained{Sessions: n.drainForGood()}))
		return
	case node.Sessions:
		n.reply(msg, object(n.described(order)))
		return
	default:
		n.faults.Note("obey an order", fmt.Errorf("unknown order %q", order.Op))
		return
	}
	n.answer(msg)
}

// replace closes a session whose device another one has taken.
func (n *Service) replace(id, by string) {
	if s := n.session(id); s != nil {
		s.replaced(by)
	}
}

// refuse answers that an order can't be obeyed.
func (n *Service) refuse(msg *nats.Msg, p *problem.Problem) {
	if msg.Reply == "" {
		return
	}
	if err := msg.RespondMsg(rpc.Refusal(p)); err != nil {
		n.faults.Note("answer on "+msg.Subject, err)
	}
}

func (n *Service) answer(msg *nats.Msg) { n.reply(msg, nil) }

// reply answers a request, unless nobody waits for that.
func (n *Service) reply(msg *nats.Msg, body []byte) {
	if msg.Reply == "" {
		return
	}
	if err := msg.Respond(body); err != nil {
		n.faults.Note("answer on "+msg.Subject, err)
	}
}
