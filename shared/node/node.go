// Package node is what is said to a push node besides frames: orders on its control subject. Each is a request; the
// node answers with an empty message once it has taken the order, or with a refusal (rpc.Refusal).
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
)

// Order is one order, as JSON.
type Order struct {
	Op      Op     `json:"op"`
	Session string `json:"session,omitempty"`
	By      string `json:"by,omitempty"` // the session that has taken the device

	Acks []protocol.Ack `json:"acks,omitempty"`
}
