// Package ledger is what services report, in bulk and after the fact, so that anyone may ask later what became of a
// message. Reports travel on the stream WEFT_ACK, beside the acknowledgements (history.Cursor), to collect. What is lost
// of them is unknown later; nothing else depends on them.
package ledger

// Routed says that dispatch has handed the messages From to To of one address to Nodes; none where nobody had it. On
// the stream a message holds a JSON array of them, and the header Weft-Epoch.
type Routed struct {
	Address string   `json:"address"` // Address.Tokens
	From    uint64   `json:"from"`
	To      uint64   `json:"to"`
	At      int64    `json:"at"` // ms since 1970
	Nodes   []string `json:"nodes,omitempty"`
}
