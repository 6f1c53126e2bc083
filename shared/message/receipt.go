package message

import "github.com/weftpush/weft/shared/problem"

// State is a fact about a message that a receipt tells.
type State string

// The states. Accepted is the PubAck of the stream door and needs no receipt.
const (
	StateArchived    State = "archived"    // it has its sequence; it survives power failures
	StateDelivered   State = "delivered"   // a device acknowledged it
	StateExpired     State = "expired"     // it outlived its TTL before the device acknowledged it
	StateSuperseded  State = "superseded"  // a later message has the same collapse key
	StateDeleted     State = "deleted"     // it was older than the archive keeps
	StateQuarantined State = "quarantined" // it could not be processed; it waits for an operator
)

// Receipt is a fact about a message, as JSON: the answer of the request door and of HTTP, and what is published on
// weft.receipt.
type Receipt struct {
	Receipt string       `json:"receipt,omitempty"` // the receipt's own id: one that comes twice has the same
	ID      string       `json:"id"`
	To      string       `json:"to"`                // `user:42`; the subject as it came when it names no address
	Seq     uint64       `json:"seq,omitempty"`     // of an archived message
	Device  string       `json:"device,omitempty"`  // whose receipt it is; empty where the state is the message's own
	State   State        `json:"state"`             //
	At      int64        `json:"at"`                // ms since 1970
	Reason  problem.Code `json:"reason,omitempty"`  // why it was quarantined
	Message string       `json:"message,omitempty"` // the reason as a sentence
}
