package push

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// openTimeout bounds what a client waits for while its session opens: auth, Redis, the archive.
const openTimeout = 5 * time.Second

const (
	// closeLimit bounds each of the two things that a session does in Redis when it ends. What is not done by then is void
	// with the lease, or found by the next session of the device.
	closeLimit = 2 * time.Second
	// orderTimeout is how long another node may take to close a session, and orderMost how often it is told. After that
	// it finds out by itself (see keeper).
	orderTimeout = time.Second
	orderMost    = 3
)

// open makes a session of a hello: the routes are written, then the heads are read, then the client is welcomed. From
// the welcome on nothing is missed: what was published before the route is below the head, what comes after is routed
// here. The error is a *problem.Problem; then nothing of the session is left, and nothing was written.
func (n *Service) open(ctx context.Context, v visitor, who *identity.Identity) (*session, error) {
	device, err := deviceOf(who, v.hello.Device)
	if err != nil {
		return nil, err
	}
	user := subject.UserAddress(who.Tenant, who.User)
	addresses := []subject.Address{user, {Tenant: who.Tenant, Kind: subject.All}}
	topics, err := n.topics(who, v.hello.Topics)
	if err != nil {
		return nil, err
	}
	s := n.newSession(user, device, v.out, v.began, who)
	s.mute, s.client = v.mute, unique.Make(clientName(v.hello.Client))
	if !n.admit(s) {
		return nil, leaving()
	}
	lanes, state, err := n.join(ctx, s, s.id, append(addresses, topics...))
	if err == nil {
		err = n.place(ctx, s, lanes, state, v.hello)
	}
	if err == nil && s.asked != n.pulse.check().pauses {
		err = problem.New(problem.Unavailable, "this node was paused while the session opened; connect again")
	}
	if err != nil {
		n.close(ctx, s)
		return nil, err
	}
	n.supersede(ctx, state.Previous, s.id)
	err = s.begin(lanes, v.hello, func(mailboxes map[string]protocol.Mailbox) any {
		return protocol.Welcome{
			T: protocol.TWelcome, Session: s.id, User: who.User, Device: device, Node: n.id, Epoch: n.epoch,
			Heartbeat: n.cfg.Heartbeat.Milliseconds(), Mailboxes: mailboxes,
		}
	})
	if err != nil {
		n.close(ctx, s)
		return nil, err
	}
	n.counts.opened.Add(1)
	n.presence.note(user)
	return s, nil
}

// newID is the id of a session whose connection began at a time. It begins with that time in ms: of two that claim a
// device, the later one has it.
func newID(began time.Time) string { return fmt.Sprintf("%013d-%.16s", began.UnixMilli(), rand.Text()) }

// began is the time at which the connection of a session began, in ms since 1970.
func began(id string) int64 {
	at, _, _ := strings.Cut(id, "-")
	ms, _ := strconv.ParseInt(at, 10, 64) // newID wrote it
	return ms
}

// newSession is a session that is not open.
func (n *Service) newSession(user subject.Address, device string, out transport, began time.Time, who *identity.Identity) *session {
	now, pauses := time.Now(), n.pulse.check().pauses
	return &session{
		id: newID(began), user: user, device: device, node: n, out: out, who: who,
		client: unique.Make(""), heard: now, asked: pauses, echoed: pauses, vouched: pauses,
	}
}

// close removes what open and subscribe made: the lanes, the routes that nobody needs any more, the device's entry.
func (n *Service) close(ctx context.Context, s *session) {
	n.dismiss(s)
	s.mu.Lock()
	lanes, begun := s.lanes, s.begun
	if s.end == nil {
		s.end = &ending{code: protocol.CloseNormal, at: time.Now()}
	}
	s.mu.Unlock()
	if begun {
		n.presence.note(s.user)
	}
	n.acks.hasten(s, lanes)
	n.leave(ctx, lanes)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if err := n.table.Release(ctx, s.user, s.device, s.holder()); err != nil {
		n.faults.Note("release a device", err)
	}
}

// leave takes lanes out of the hub and their routes out of Redis where no session needs them any more.
func (n *Service) leave(ctx context.Context, lanes []*lane) {
	var last []route.Registration
	for _, l := range lanes {
		if reg := n.hub.leave(l); reg != nil {
			last = append(last, *reg)
		}
	}
	if len(last) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if err := n.table.Unregister(ctx, n.id, last); err != nil {
		n.faults.Note("remove routes", err) // they are void when the lease lapses
	}
}

// retopic gives a session more topics, or takes some away.
func (n *Service) retopic(ctx context.Context, s *session, wanted protocol.FromClient) error {
	topics, err := n.topics(s.identity(), wanted.Topics)
	if err != nil {
		return err
	}
	if wanted.T == protocol.TUnsub {
		dropped := s.drop(topics)
		n.acks.hasten(s, dropped)
		n.leave(ctx, dropped)
		s.say(protocol.Subscribed{T: protocol.TUnsub, Mailboxes: s.mailboxes()})
		return nil
	}
	fresh := s.without(topics)
	if len(fresh)+len(s.mailboxes()) > n.cfg.Topics+2 {
		return problem.New(problem.BadRequest, "a session may have at most %d topics; unsubscribe from some", n.cfg.Topics).In("topics")
	}
	lanes, state, err := n.join(ctx, s, "", fresh)
	if err == nil {
		err = n.place(ctx, s, lanes, state, wanted)
	}
	if err != nil {
		n.leave(ctx, s.drop(fresh))
		return err
	}
	return s.begin(lanes, wanted, func(mailboxes map[string]protocol.Mailbox) any {
		return protocol.Subscribed{T: protocol.TSub, Mailboxes: mailboxes}
	})
}

// join makes the lanes of a session, so that live messages find it, and writes their routes. Redis away is no reason
// to refuse: dispatch asks all nodes then, and the keeper writes the routes when it is back.
func (n *Service) join(ctx context.Context, s *session, takes string, addresses []subject.Address) ([]*lane, route.State, error) {
	lanes := make([]*lane, len(addresses))
	mailboxes := make([]*mailbox, len(addresses))
	now := time.Now()
	c := route.Connection{User: s.user, Device: s.device, Node: n.id, Session: takes}
	for i, to := range addresses {
		lanes[i] = &lane{session: s, to: to}
		mailboxes[i] = n.hub.join(lanes[i])
		c.Addresses = append(c.Addresses, route.Registration{
			Address: to, Generation: mailboxes[i].generation, Write: mailboxes[i].needsRoute(now),
		})
	}
	s.mu.Lock()
	s.lanes = append(s.lanes, lanes...)
	s.mu.Unlock()
	// What this node has yet to hand over counts too: a topic's cursor waits up to a minute. It is looked at first; what
	// goes to Redis meanwhile is found there.
	waiting := n.acks.waiting(s.user, s.device, addresses)
	state, err := n.table.Connect(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return lanes, state, problem.New(problem.Unavailable, "Redis does not answer; try again")
		}
		n.faults.Note("write routes", err)
		return lanes, route.State{Cursors: waiting}, nil
	}
	for to, seq := range waiting {
		state.Cursors[to] = max(state.Cursors[to], seq)
	}
	if takes != "" {
		s.setExamined(now)
	}
	for i, m := range mailboxes {
		if c.Addresses[i].Write { // else a busy address would count as written for ever, and its route lapse
			m.setRouted(now, true)
		}
	}
	return lanes, state, nil
}

// place finds the cursor of each lane. A hello cursor up to the head decides and counts as an acknowledgement; without
// one it is the higher of Redis and archive. The archive is not asked about a device that Redis knows and that says
// where it stands: that is every ordinary reconnect.
func (n *Service) place(ctx context.Context, s *session, lanes []*lane, state route.State, hello protocol.FromClient) error {
	claims, err := n.claims(s.user.Tenant, hello)
	if err != nil {
		return err
	}
	var ask []string
	for _, l := range lanes {
		claim, claimed := claims[l.to]
		_, known := state.Cursors[l.to]
		head, there := state.Heads[l.to] // absent is unknown, never 0
		if !claimed || !known || !there || claim > head {
			ask = append(ask, l.to.Tokens())
		}
	}
	positions, err := n.positions(ctx, s, ask, state)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lanes {
		head := max(state.Heads[l.to], positions[l.to.Tokens()].Head)
		cursor := max(state.Cursors[l.to], positions[l.to.Tokens()].Cursor)
		if claim, ok := claims[l.to]; ok {
			if claim > head {
				return problem.New(problem.CursorAhead, "the cursor %d of %s is above the head %d; forget it and say hello without it", claim, l.to, head).In("cursors")
			}
			if claim > cursor {
				n.acks.add(s.user, s.device, l.to, claim)
			}
			cursor = claim
		}
		l.place(cursor, head)
	}
	return nil
}

// claims are the cursors that a hello states, if they belong to the archive's epoch.
func (n *Service) claims(tenant string, hello protocol.FromClient) (map[subject.Address]uint64, error) {
	if hello.Epoch != "" && hello.Epoch != n.epoch {
		return nil, nil
	}
	claims := make(map[subject.Address]uint64, len(hello.Cursors))
	for name, seq := range hello.Cursors {
		to, err := subject.ParseAddress(tenant, name)
		if err != nil {
			return nil, err
		}
		claims[to] = seq
	}
	return claims, nil
}

func (n *Service) positions(ctx context.Context, s *session, ask []string, state route.State) (map[string]history.Position, error) {
	if len(ask) == 0 {
		return nil, nil
	}
	floors := make(map[string]uint64, len(state.Floor))
	for to, floor := range state.Floor {
		floors[to.Tokens()] = floor
	}
	answer, err := history.Open(ctx, n.nc, history.OpenRequest{
		Tenant: s.user.Tenant, User: s.user.ID, Device: s.device, Addresses: ask, Floors: floors,
	})
	if err != nil {
		return nil, err
	}
	return answer.Positions, nil
}

// supersede closes the connection that the device had before, here or at another node. It does not wait for that node.
func (n *Service) supersede(ctx context.Context, previous, by string) {
	where, id, ok := strings.Cut(previous, "/")
	switch {
	case !ok:
	case where == n.id:
		n.replace(id, by)
	default:
		ctx := context.WithoutCancel(ctx)
		n.tasks.Go(func() { n.orderReplaced(ctx, where, id, by) })
	}
}

// orderReplaced tells another node to close a session until it answers. A node that nobody knows any more has none.
func (n *Service) orderReplaced(ctx context.Context, where, id, by string) {
	order := object(node.Order{Op: node.Replaced, Session: id, By: by})
	for range orderMost {
		ctx, cancel := context.WithTimeout(ctx, orderTimeout)
		_, err := n.nc.RequestWithContext(ctx, subject.NodeControl(where), order)
		cancel()
		if err == nil || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrConnectionClosed) {
			return
		}
		n.faults.Note("replace a connection", err)
	}
}

// topics reads the topics that a client names and checks that it may read them.
func (n *Service) topics(who *identity.Identity, names []string) ([]subject.Address, error) {
	if len(names) > n.cfg.Topics {
		return nil, problem.New(problem.BadRequest, "%d topics are too many; the most is %d", len(names), n.cfg.Topics).In("topics")
	}
	seen := make(map[string]bool, len(names))
	var list []subject.Address
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		to := subject.Address{Tenant: who.Tenant, Kind: subject.Topic, ID: name}
		if err := to.Check(); err != nil {
			return nil, err
		}
		if !who.MayRead(name) {
			return nil, problem.New(problem.Forbidden, "the token does not allow to read the topic %q", name).In("topics")
		}
		list = append(list, to)
	}
	return list, nil
}

// deviceOf is the device of a session: what the token says, else what the client says, else a new one.
func deviceOf(who *identity.Identity, said string) (string, error) {
	switch {
	case who.Device != "" && said != "" && said != who.Device:
		return "", problem.New(problem.Forbidden, "the token is for the device %q, not %q", who.Device, said).In("device")
	case who.Device != "":
		return who.Device, nil
	case said == "":
		return rand.Text(), nil
	}
	return said, subject.CheckID(said)
}

// begin opens lanes behind the answer that announces them: nothing of them is written before it. The error is the
// problem with which the session has ended meanwhile.
func (s *session) begin(lanes []*lane, hello protocol.FromClient, answer func(map[string]protocol.Mailbox) any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return s.end.cause()
	}
	for _, l := range lanes {
		l.open()
	}
	s.sayLocked(object(answer(s.mailboxesLocked())))
	if !s.begun {
		s.begun = true
		s.sayDrain() // a node that began to drain meanwhile has not told this one
	}
	for _, l := range lanes {
		if _, claimed := hello.Cursors[l.to.String()]; claimed && l.acked > 0 && hello.Epoch != "" && hello.Epoch != s.node.epoch {
			s.sayLocked(object(protocol.Gap{T: protocol.TGap, Ch: channel(l.to), From: 1, To: l.acked, Why: message.WhyEpoch}))
		}
		s.fill(l)
	}
	return nil
}

// mailboxes is where the session stands in each address.
func (s *session) mailboxes() map[string]protocol.Mailbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mailboxesLocked()
}

func (s *session) mailboxesLocked() map[string]protocol.Mailbox {
	list := make(map[string]protocol.Mailbox, len(s.lanes))
	for _, l := range s.lanes {
		if l.next > 0 {
			list[l.to.String()] = protocol.Mailbox{Head: l.head, Next: l.next}
		}
	}
	return list
}

// without are the addresses that the session does not have yet.
func (s *session) without(addresses []subject.Address) []subject.Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	var fresh []subject.Address
	for _, to := range addresses {
		if s.lane(to.String()) == nil {
			fresh = append(fresh, to)
		}
	}
	return fresh
}

// drop removes the lanes of some addresses; what they had in the window is free.
func (s *session) drop(addresses []subject.Address) []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dropped, kept []*lane
	freed := 0
	for _, l := range s.lanes {
		if slices.Contains(addresses, l.to) {
			for _, waits := range l.sent {
				freed += waits.size
			}
			l.forget()
			l.next, l.sent = 0, nil
			dropped = append(dropped, l)
		} else {
			kept = append(kept, l)
		}
	}
	s.lanes = kept
	if freed > 0 {
		s.free(freed)
	}
	return dropped
}

// adopt takes a fresh identity and returns the lanes that it does not allow any more.
func (s *session) adopt(who *identity.Identity) []*lane {
	s.mu.Lock()
	s.who = who
	var lost []subject.Address
	for _, l := range s.lanes {
		if l.to.Kind == subject.Topic && !who.MayRead(l.to.ID) {
			lost = append(lost, l.to)
		}
	}
	s.mu.Unlock()
	return s.drop(lost)
}

func (s *session) identity() *identity.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.who
}
