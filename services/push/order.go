package push

import (
	"strings"
	"unicode"

	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// clientMost is how much is kept of what a client calls itself, in bytes.
const clientMost = 64

// clientName is what a client calls itself, in a form that any terminal shows as one short line.
func clientName(said string) string {
	said = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, said[:min(len(said), clientMost)])
	return strings.Clone(strings.ToValidUTF8(said, ""))
}

// kick closes the sessions that an operator names and returns how many there were.
func (n *Service) kick(order node.Order) int {
	why := problem.New(problem.Kicked, "an operator has closed this session; connect again")
	if order.Final {
		why = problem.New(problem.Kicked, "an operator has closed this session; do not connect again").ForGood()
	}
	closed := 0
	for _, s := range n.named(order) {
		if s.kick(why) {
			closed++
		}
	}
	return closed
}

// kick closes a session, unless it is ending already.
func (s *session) kick(why *problem.Problem) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return false
	}
	s.finishLocked(kickCode(why), why)
	return true
}

// kickCode is the close code of a kick: it says to clients whether to come again.
func kickCode(why *problem.Problem) protocol.CloseCode {
	if why.Retry {
		return protocol.CloseDraining
	}
	return protocol.CloseForbidden
}

// named are the sessions of an order's user, or of its device.
func (n *Service) named(order node.Order) (list []*session) {
	user := subject.UserAddress(order.Tenant, order.User)
	for _, s := range n.hub.sessions(user) {
		if order.Device == "" || s.device == order.Device {
			list = append(list, s)
		}
	}
	return list
}

// sessions are those of a user, also ones that are opening.
func (h *hub) sessions(user subject.Address) (list []*session) {
	s := h.shard(user)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.mailboxes[user]; m != nil {
		for l := range m.lanes {
			list = append(list, l.session)
		}
	}
	return list
}

// described is what is to be said of the sessions of an order.
func (n *Service) described(order node.Order) []node.Session {
	list := []node.Session{}
	for _, s := range n.named(order) {
		if d, open := s.describe(); open {
			list = append(list, d)
		}
	}
	return list
}

// describe is what is to be said of a session, if it is open.
func (s *session) describe() (d node.Session, open bool) {
	door, remote := whence(s.out)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun || s.end != nil {
		return d, false
	}
	d = node.Session{
		Session: s.id, User: s.user.ID, Device: s.device, Door: door, Client: s.client.Value(), Remote: remote,
		Since: began(s.id), Heard: s.heard.UnixMilli(), Unacked: s.unacked,
		Acked: make(map[string]uint64, len(s.lanes)), Sent: make(map[string]uint64, len(s.lanes)),
	}
	for _, l := range s.lanes {
		if l.next > 0 {
			d.Acked[l.to.String()], d.Sent[l.to.String()] = l.acked, l.next-1
		}
	}
	return d, true
}

// whence is the door of a transport, and the other end of its connection: the client, or the proxy before it.
func whence(out transport) (door, remote string) {
	switch t := out.(type) {
	case *socket:
		return "websocket", t.conn.RemoteAddr().String()
	case *events:
		return "sse", t.conn.RemoteAddr().String()
	case *call:
		return "grpc", t.conn.RemoteAddr().String()
	}
	return "", ""
}
