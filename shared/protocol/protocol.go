// Package protocol is the client protocol weft.v1.json: the objects that a device and a push node exchange, as JSON told
// apart by the member `t`, and the close codes. WebSockets carry them as they are, Server-Sent Events those of the server
// (see EventID); gRPC has messages of its own that say the same.
//
// A text message of a WebSocket holds one or more objects separated by newlines. No object has a line break inside; `data` is always
// the last member of `msg`, so that a client that wants the very bytes that were published can cut them out: they are
// what stands between the first `,"data":` and the closing brace.
package protocol

import (
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
)

const (
	// Name is the WebSocket subprotocol.
	Name = "weft.v1.json"
	// BearerPrefix begins the second subprotocol by which a browser sends its token: base64url without padding.
	BearerPrefix = "weft.bearer."
	// Path is where push serves WebSockets.
	Path = "/v1/ws"
	// PathSSE is where it serves Server-Sent Events.
	PathSSE = "/v1/sse"
	// PathAck is where their clients acknowledge.
	PathAck = "/v1/ack"
)

// The values of `t`.
const (
	THello   = "hello"
	TWelcome = "welcome"
	TMsg     = "msg"
	TAck     = "ack"
	TGap     = "gap"
	TPing    = "ping"
	TPong    = "pong"
	TAuth    = "auth"
	TSub     = "sub"
	TUnsub   = "unsub"
	TDrain   = "drain"
	TError   = "error"
	TClose   = "close" // the last event of SSE; a WebSocket has its close frame instead
)

// CloseCode is a WebSocket close code with a meaning to clients.
type CloseCode int

// The close codes. A client retries after CloseToken (with a fresh token), CloseSlow, CloseBackOff, CloseDraining and
// every ordinary close; never after the others.
const (
	CloseNormal    CloseCode = 1000
	CloseProtocol  CloseCode = 4400
	CloseToken     CloseCode = 4401 // expired or revoked
	CloseForbidden CloseCode = 4403
	CloseSlow      CloseCode = 4408 // too slow or silent
	CloseReplaced  CloseCode = 4409 // by a newer connection of the same device
	CloseTooLarge  CloseCode = 4413
	CloseBackOff   CloseCode = 4429
	CloseDraining  CloseCode = 4503
)

// Fatal says whether a client must not connect again by itself.
func (c CloseCode) Fatal() bool {
	switch c {
	case CloseProtocol, CloseForbidden, CloseReplaced, CloseTooLarge:
		return true
	default:
		return false
	}
}

// FromClient is any object that a client sends; T says which members count.
type FromClient struct {
	T       string            `json:"t"`
	Device  string            `json:"device,omitempty"`  // hello
	Epoch   string            `json:"epoch,omitempty"`   // hello: of the archive that the cursors belong to
	Cursors map[string]uint64 `json:"cursors,omitempty"` // hello: address → sequence handled
	Topics  []string          `json:"topics,omitempty"`  // hello, sub, unsub: ids, without `topic:`
	Client  string            `json:"client,omitempty"`  // hello: name/version
	Seq     uint64            `json:"seq,omitempty"`     // ack
	Ch      string            `json:"ch,omitempty"`      // ack: address; absent for the user's own mailbox
	Token   string            `json:"token,omitempty"`   // auth
}

// Welcome answers hello once the session's routes are written: from here on nothing is missed.
type Welcome struct {
	T         string             `json:"t"`
	Session   string             `json:"session"`
	User      string             `json:"user"`
	Device    string             `json:"device"`
	Node      string             `json:"node"`
	Epoch     string             `json:"epoch"`
	Heartbeat int64              `json:"heartbeat"` // ms
	Mailboxes map[string]Mailbox `json:"mailboxes"`
}

// Mailbox is where a session begins in one address.
type Mailbox struct {
	Head uint64 `json:"head"` // the highest sequence there is
	Next uint64 `json:"next"` // the first that will be sent
}

// Subscribed answers sub and unsub with the mailboxes that the session has now, as in Welcome.
type Subscribed struct {
	T         string             `json:"t"` // sub or unsub
	Mailboxes map[string]Mailbox `json:"mailboxes"`
}

// Msg is a message as a client decodes it. Servers append it with AppendMessage.
type Msg struct {
	T           string `json:"t"`
	Seq         uint64 `json:"seq"`
	ID          string `json:"id"`
	Type        string `json:"type,omitempty"`
	At          int64  `json:"at"`                     // when it was accepted, ms since 1970
	Ch          string `json:"ch,omitempty"`           // the address, when it is not the user's own
	ContentType string `json:"content_type,omitempty"` // when it is not application/json
	Trace       string `json:"traceparent,omitempty"`
	Again       bool   `json:"re,omitempty"`
	Data64      []byte `json:"data64,omitempty"` // bytes that are not JSON, or JSON with line breaks
}

// Gap says that the sequences From to To will not come, and why. It is acknowledged like a message.
type Gap struct {
	T    string      `json:"t"`
	Ch   string      `json:"ch,omitempty"`
	From uint64      `json:"from"`
	To   uint64      `json:"to"`
	Why  message.Why `json:"why"`
}

// FromServer is any object that a server sends; T says which members count. The payload of a `msg` is what Data cuts out
// of the object, or else Data64. Decoding passes over members that a later version may add.
type FromServer struct {
	T           string `json:"t"`
	Ch          string `json:"ch"`           // msg, gap: the address; empty for the user's own mailbox
	Seq         uint64 `json:"seq"`          // msg
	ID          string `json:"id"`           // msg
	Type        string `json:"type"`         // msg
	At          int64  `json:"at"`           // msg: ms since 1970
	ContentType string `json:"content_type"` // msg: empty for application/json
	Trace       string `json:"traceparent"`  // msg
	Again       bool   `json:"re"`           // msg
	Data64      []byte `json:"data64"`       // msg

	From uint64      `json:"from"` // gap
	To   uint64      `json:"to"`   // gap
	Why  message.Why `json:"why"`  // gap

	Within int64 `json:"within"` // drain: ms

	Code    problem.Code `json:"code"`    // error
	Message string       `json:"message"` // error
	Field   string       `json:"field"`   // error
	Retry   bool         `json:"retry"`   // error

	Session   string             `json:"session"`   // welcome
	User      string             `json:"user"`      // welcome
	Device    string             `json:"device"`    // welcome
	Node      string             `json:"node"`      // welcome
	Epoch     string             `json:"epoch"`     // welcome
	Heartbeat int64              `json:"heartbeat"` // welcome: ms
	Mailboxes map[string]Mailbox `json:"mailboxes"` // welcome, sub, unsub
}

// Problem is what an `error` object says.
func (o *FromServer) Problem() *problem.Problem {
	return &problem.Problem{Code: o.Code, Message: o.Message, Field: o.Field, Retry: o.Retry}
}

// Position is the last sequence that a `msg` or a `gap` covers; ok is false for every other object.
func (o *FromServer) Position() (seq uint64, ok bool) {
	switch o.T {
	case TMsg:
		return o.Seq, true
	case TGap:
		return o.To, true
	default:
		return 0, false
	}
}

// Close is the last event of a stream of Server-Sent Events. It is no object of a WebSocket.
type Close struct {
	Code   CloseCode    `json:"code"`
	Reason problem.Code `json:"reason,omitempty"`
	Retry  bool         `json:"retry"` // the client may connect again by itself
}

// Ack is one acknowledgement: everything of Ch up to Seq has been handled.
type Ack struct {
	Ch  string `json:"ch,omitempty"` // address; empty for the user's own mailbox
	Seq uint64 `json:"seq"`
}

// Drain asks the client to reconnect at a random moment inside Within.
type Drain struct {
	T      string `json:"t"`
	Within int64  `json:"within"` // ms
}

// Error tells what was wrong; after a fatal one the connection is closed.
type Error struct {
	T string `json:"t"`
	problem.Problem
}

// Beat is a ping or a pong.
type Beat struct {
	T string `json:"t"`
}
