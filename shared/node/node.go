// Package node is what is said to a push node besides frames: orders on its control subject. Each is a request; the
// node answers once it has taken the order, with an empty message where nothing else is said, or with a refusal
// (rpc.Refusal).
package node

import "github.com/weftpush/weft/shared/protocol"

// Op is what a node is told to do.
type Op string

// The orders.
const (
	Probe    Op = "probe"    // answer: you are alive
	Sweep    Op = "sweep"    // compare every address you hold with the heads: you may have missed frames
	Replaced Op = "replaced" // close Session: By has its device now
	Ack      Op = "ack"      // the client of Session acknowledges Acks, all or none; refused as `not_found` when it has ended
	Kick     Op = "kick"     // close the sessions of User in Tenant, or that of its Device; answered with a Kicked
	Drain    Op = "drain"    // ask every client to connect elsewhere, and take no new one until the process ends; answered with a Drained
	Sessions Op = "sessions" // answered with an array of Session: those of User in Tenant, or that of its Device
	Report   Op = "report"   // tell which users you have: it is not known any more
)

// Order is one order, as JSON.
type Order struct {
	Op      Op     `json:"op"`
	Session string `json:"session,omitempty"`
	By      string `json:"by,omitempty"` // the session that has taken the device

	Tenant string `json:"tenant,omitempty"`
	User   string `json:"user,omitempty"`
	Device string `json:"device,omitempty"` // empty: all of them
	Final  bool   `json:"final,omitempty"`  // of kick: with 4403, after which clients do not come back by themselves; else 4503

	Acks []protocol.Ack `json:"acks,omitempty"`
}

// Kicked answers a kick.
type Kicked struct {
	Sessions int `json:"sessions"` // how many were closed
}

// Drained answers a drain.
type Drained struct {
	Sessions int `json:"sessions"` // how many are still here, and were asked to leave
}

// Session is one open session of a node.
type Session struct {
	Session string            `json:"session"`
	User    string            `json:"user"`
	Device  string            `json:"device"`
	Door    string            `json:"door"`             // websocket, sse or grpc
	Client  string            `json:"client,omitempty"` // name/version, as the client said
	Remote  string            `json:"remote,omitempty"` // host:port
	Since   int64             `json:"since"`            // ms since 1970
	Heard   int64             `json:"heard"`            // when the client last sent anything, ms since 1970
	Unacked int               `json:"unacked"`          // bytes sent and not acknowledged
	Acked   map[string]uint64 `json:"acked"`            // address → cursor
	Sent    map[string]uint64 `json:"sent"`             // address → the last sequence written
}

// HeaderReplay marks a frame whose messages an operator sends again, to a node (subject.Node) or to the owner of a
// partition's routing (subject.Dispatch). A session that has such a message above its cursor is sent it once more, with
// `re: true`, whether it was sent before or not. The answer is a Replayed. Its value is the id of the replay.
const HeaderReplay = "Weft-Replay"

// Replayed answers a frame with HeaderReplay, message by message in the frame's order.
type Replayed struct {
	Fates []Fate `json:"fates"`
}

// Fate is what a replay did with one message at one node, or at all of them.
type Fate string

// The fates, the best last: of several nodes that have sessions of an address the best counts.
const (
	// FateAway: no session has the address above its cursor: the user is away, or has acknowledged it; or it has expired. Or a
	// session has had no room for longer than is worth waiting for.
	FateAway Fate = "away"
	FateFull Fate = "full" // a session has, and has no room, or had none for one before it: replay it again a little later
	FateSent Fate = "sent" // written once more
)
