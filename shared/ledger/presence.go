package ledger

// Presence is what a push node says of its users, on subject.Presence(node); the node is told by the subject. Reports
// commute: of two about one user and node the one with the higher number is true. A node never uses a number twice.
type Presence struct {
	Number uint64 `json:"number"`
	Users  []Seen `json:"users,omitempty"`
	// Rest says that the users whom this node named last under a lower number than this one have no session here.
	Rest uint64 `json:"rest,omitempty"`
	At   int64  `json:"at"` // of Rest, ms since 1970
	// Leaving: the node has none any more, and will never report again.
	Leaving bool `json:"leaving,omitempty"`
}

// Seen is that a user has sessions at the node, or none.
type Seen struct {
	User string `json:"user"` // Address.Tokens
	On   bool   `json:"on,omitempty"`
	At   int64  `json:"at"` // since when, ms since 1970
}
