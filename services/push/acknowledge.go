package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// takeAcks is POST /v1/ack: a device acknowledges what came over a stream on which it can't speak.
func (n *Service) takeAcks(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), openTimeout)
	defer cancel()
	if err := n.takePost(ctx, w, r); err != nil {
		refuseHTTP(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// takePost reads nothing of who has no good token: what is read is held in memory.
func (n *Service) takePost(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(n.greeting)) // a writer that has none is a test's
	who, err := n.verify(ctx, authorization(r.Header))
	if err != nil {
		return err
	}
	device, acks, err := n.readAcks(w, r)
	if err != nil {
		return err
	}
	return n.acknowledge(ctx, who, device, acks)
}

// readAcks reads a request: the device, and one acknowledgement, an array of them, or several lines of either.
func (n *Service) readAcks(w http.ResponseWriter, r *http.Request) (device string, acks []protocol.Ack, err error) {
	for name, values := range r.URL.Query() {
		if name != "device" || len(values) > 1 {
			return "", nil, problem.New(problem.BadRequest, "the parameter %q does not belong here; there is one, device, and the token goes into Authorization", name).In(name)
		}
		device = values[0]
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, frameMost))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return "", nil, problem.New(problem.TooLarge, "the body is over %d bytes; acknowledge the highest sequence of each address once", frameMost)
	} else if err != nil {
		return "", nil, problem.New(problem.BadRequest, "the body can't be read: %v", err)
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // else the request would count as given up when it passes
	acks, err = parseAcks(body)
	return device, acks, err
}

// posted is one acknowledgement as it is posted. That it says `"t":"ack"`, as on a WebSocket, does no harm.
type posted struct {
	T   string  `json:"t"`
	Ch  string  `json:"ch"`
	Seq *uint64 `json:"seq"`
}

func parseAcks(body []byte) ([]protocol.Ack, error) {
	var acks []protocol.Ack
	for d := json.NewDecoder(bytes.NewReader(body)); ; {
		var value json.RawMessage
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, problem.New(problem.BadRequest, "the body is not JSON: %v", err)
		}
		if !bytes.HasPrefix(value, []byte("[")) {
			value = append(append([]byte("["), value...), ']')
		}
		var some []posted
		strict := json.NewDecoder(bytes.NewReader(value))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&some); err != nil {
			return nil, problem.New(problem.BadRequest, `an acknowledgement is {"seq":7} or {"ch":"topic:news","seq":3}: %v`, err)
		}
		for _, a := range some {
			switch {
			case a.T != "" && a.T != protocol.TAck:
				return nil, problem.New(problem.BadRequest, "only acknowledgements can be sent here, not %q", a.T).In("t")
			case a.Seq == nil:
				return nil, problem.New(problem.BadRequest, `an acknowledgement has a sequence: {"seq":7}`).In("seq")
			}
			acks = append(acks, protocol.Ack{Ch: a.Ch, Seq: *a.Seq})
		}
	}
	if len(acks) == 0 {
		return nil, problem.New(problem.BadRequest, `nothing is acknowledged; send {"seq":7}, an array of such, or lines of them`)
	}
	return acks, nil
}

// acknowledge takes acknowledgements of a device that come beside its session: all, or after an error none of them. With a
// session, here or at another node, they count as if they had come in it, and may be lost with their node in the next moment
// as those may. Without one they count as the cursors of a hello, and are durable when this returns. The error is a
// *problem.Problem.
func (n *Service) acknowledge(ctx context.Context, who *identity.Identity, device string, acks []protocol.Ack) error {
	if who.Device == "" && device == "" {
		return problem.New(problem.BadRequest, "who acknowledges? name the device, or bring a token that does").In("device")
	}
	device, err := deviceOf(who, device)
	if err != nil {
		return err
	}
	user := subject.UserAddress(who.Tenant, who.User)
	var here error = errNoSession
	if s := n.hub.session(user, device); s != nil {
		// What it was not sent may be meant for a session elsewhere, which has replaced this one a moment ago.
		if here = s.ackAll(acks); !errors.Is(here, errAckAhead) && !errors.Is(here, errNotSubscribed) {
			return here
		}
	}
	there := n.ackThere(ctx, user, device, acks)
	if errors.Is(there, errNoSession) {
		there = here
	}
	if errors.Is(there, errNoSession) {
		return n.ackNowhere(ctx, who, device, acks)
	}
	return there
}

// Compared by their codes.
var (
	errNoSession = problem.New(problem.NotFound, "the session has ended")
	errAckAhead  = problem.New(problem.AckAhead, "an acknowledgement above what was sent")

	errNotSubscribed = problem.New(problem.NotSubscribed, "an acknowledgement of what the session does not have")
)

// ackHere gives acknowledgements to a session of this node.
func (n *Service) ackHere(id string, acks []protocol.Ack) error {
	if s := n.session(id); s != nil {
		return s.ackAll(acks)
	}
	return errNoSession
}

// ackThere gives acknowledgements to the session that has the device by what Redis knows.
func (n *Service) ackThere(ctx context.Context, user subject.Address, device string, acks []protocol.Ack) error {
	holders, err := n.table.Hold(ctx, []route.Claim{{User: user, Device: device}})
	if err != nil {
		n.faults.Note("look up a device", err)
		return problem.New(problem.Unavailable, "where the session of the device is can't be looked up right now; try again in a moment")
	}
	where, id, held := strings.Cut(holders[0], "/")
	switch {
	case !held:
		return errNoSession
	case where == n.id:
		return n.ackHere(id, acks)
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	reply, err := n.nc.RequestWithContext(ctx, subject.NodeControl(where), object(node.Order{Op: node.Ack, Session: id, Acks: acks}))
	switch {
	case errors.Is(err, nats.ErrNoResponders): // the node is gone, and its sessions with it
		return errNoSession
	case err != nil:
		n.faults.Note("pass acknowledgements on", err)
		return problem.New(problem.Unavailable, "the node that has the session of the device does not answer; try again in a moment")
	}
	return rpc.Refused(reply)
}

// ackNowhere records acknowledgements of a device that has no session: what was not even published can't be meant.
func (n *Service) ackNowhere(ctx context.Context, who *identity.Identity, device string, acks []protocol.Ack) error {
	user := subject.UserAddress(who.Tenant, who.User)
	now := time.Now().UnixMilli()
	var cursors []ackedCursor
	addresses := make([]subject.Address, len(acks))
	for i, a := range acks {
		to, err := mailboxOf(who, a.Ch)
		if err != nil {
			return err
		}
		addresses[i] = to
		if a.Seq > 0 { // nothing, else; and a device without a cursor is another thing than one at 0
			cursors = append(cursors, ackedCursor{cursorKey{user: user, device: device, to: to}, heard{a.Seq, now}})
		}
	}
	heads, err := history.Heads(ctx, n.nc, addresses)
	if err != nil {
		return err
	}
	for i, a := range acks {
		if a.Seq > heads[i] {
			return problem.New(problem.AckAhead, "sequence %d of %s was acknowledged, but the last one is %d", a.Seq, addresses[i], heads[i]).In("seq")
		}
	}
	if err := n.acks.record(ctx, cursors); err != nil {
		n.faults.Note("record acknowledgements", err)
		return problem.New(problem.Unavailable, "the acknowledgement can't be recorded right now; try again in a moment")
	}
	return nil
}

// mailboxOf is an address of somebody's as the wire writes it.
func mailboxOf(who *identity.Identity, ch string) (subject.Address, error) {
	user := subject.UserAddress(who.Tenant, who.User)
	if ch == "" {
		return user, nil
	}
	to, err := subject.ParseAddress(who.Tenant, ch)
	switch {
	case err != nil:
		return to, problem.From(err).In("ch")
	case to == user || to.Kind == subject.All || (to.Kind == subject.Topic && who.MayRead(to.ID)):
		return to, nil
	}
	return to, problem.New(problem.Forbidden, "the token does not allow to read %s", to).In("ch")
}
