package push

import (
	"context"
	"errors"
	"time"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// visitor is a client at one of the doors, whatever its transport: all that a session needs to open.
type visitor struct {
	out   transport
	began time.Time // when it asked for the connection: of two that claim a device, the later one has it
	token string
	hello protocol.FromClient
	mute  bool // it can't answer a question; see session.mute
}

// arrive lets a client in, before anything is done for it. Who was let in has to call n.gate.settle when it has its
// session, or will never have one. The error is a *problem.Problem that is worth a retry.
func (n *Service) arrive() error {
	if n.until.Load() != 0 {
		return leaving()
	}
	return n.gate.arrive()
}

// welcome opens a session for a client that has said hello, when its turn has come. From then on the session writes to
// v.out, the welcome first, and calls its Close once, after the last Write; whoever asked for the session has to finish it
// when the client leaves, and to call n.close when it has ended. After an error nothing was written and nothing
// will be: the door tells its client, in the words of verdict.
func (n *Service) welcome(ctx context.Context, v visitor) (*session, error) {
	done, err := n.gate.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	who, err := n.verify(ctx, v.token)
	if err != nil {
		return nil, err
	}
	return n.open(ctx, v, who)
}

func (n *Service) verify(ctx context.Context, token string) (*identity.Identity, error) {
	if token == "" {
		return nil, problem.New(problem.Unauthorized, "no token: send it as Authorization: Bearer, as subprotocol %s<base64url>, or in an auth object", protocol.BearerPrefix)
	}
	return identity.Verify(ctx, n.nc, token)
}

// handle does what one object of an open session asks. An error ends the session, in the words of verdict.
func (n *Service) handle(ctx context.Context, s *session, o protocol.FromClient) error {
	switch o.T {
	case protocol.TAck:
		return s.ack(o.Ch, o.Seq)
	case protocol.TPing:
		s.say(protocol.Beat{T: protocol.TPong})
		return nil
	case protocol.TPong:
		return nil
	case protocol.TSub, protocol.TUnsub:
		return n.orLater(ctx, s, o, n.retopic)
	case protocol.TAuth:
		return n.orLater(ctx, s, o, n.renew)
	case protocol.THello:
		return problem.New(problem.BadFrame, "hello was said already; open a new connection to begin anew").In("t")
	default:
		return problem.New(problem.UnknownFrame, "the object %q is unknown; a client sends hello, ack, ping, pong, auth, sub and unsub", o.T).In("t")
	}
}

// orLater does what a live session asks of auth or the archive. That they do not answer now is told to the client, who
// may ask again, and does not end the session: its messages go on coming.
func (n *Service) orLater(ctx context.Context, s *session, o protocol.FromClient, do func(context.Context, *session, protocol.FromClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := do(ctx, s, o)
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Retry {
		s.say(protocol.Error{T: protocol.TError, Problem: *p})
		return nil
	}
	return err
}

// renew takes a fresh token on a live session. It must be for the same user and device; topics that it does not
// allow any more are taken away.
func (n *Service) renew(ctx context.Context, s *session, fresh protocol.FromClient) error {
	who, err := n.verify(ctx, fresh.Token)
	if err != nil {
		return err
	}
	if who.Tenant != s.user.Tenant || who.User != s.user.ID || (who.Device != "" && who.Device != s.device) {
		return problem.New(problem.Forbidden, "the fresh token is for another user or device; open a new connection for it").In("token")
	}
	if lost := s.adopt(who); len(lost) > 0 {
		n.acks.hasten(s, lost)
		n.leave(ctx, lost)
		s.say(protocol.Subscribed{T: protocol.TUnsub, Mailboxes: s.mailboxes()})
	}
	return nil
}

// verdict is the close code that goes with an error: of reading, of the client's behaviour, or of ours. The problem is
// nil when there is nobody left to tell.
func verdict(err error) (protocol.CloseCode, *problem.Problem) {
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			return protocol.CloseSlow, problem.New(problem.HelloExpected, "no hello came within %s", greetTimeout)
		}
		return protocol.CloseNormal, nil
	}
	switch p.Code {
	case problem.Unauthorized, problem.TokenExpired:
		return protocol.CloseToken, p
	case problem.Forbidden:
		return protocol.CloseForbidden, p
	case problem.TooSlow, problem.Silent:
		return protocol.CloseSlow, p
	case problem.Replaced:
		return protocol.CloseReplaced, p
	case problem.TooLarge:
		return protocol.CloseTooLarge, p
	case problem.Unavailable, problem.Busy, problem.InternalFault:
		return protocol.CloseBackOff, p
	case problem.Kicked:
		return kickCode(p), p
	case problem.Draining:
		return protocol.CloseDraining, p
	default:
		return protocol.CloseProtocol, p
	}
}
