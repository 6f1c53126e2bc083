// Package event is what the fabric tells anybody about its users, as JSON on weft.event.<tenant>.<what>: who came and who
// went, and which message waits for somebody who may never come.
package event

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// What happened.
type What string

// The events.
const (
	Online      What = "online"      // the first session of a user opened, at any node
	Offline     What = "offline"     // the last one has been gone for -offline-after
	Undelivered What = "undelivered" // a message has waited for -undelivered-after, and no device of its user acknowledged it
)

// Event is one event. An event that comes twice, as after a crash, has the same ID and says the same. Whoever acts on one,
// as by an e-mail, keeps the ids of those of the last day.
//
// Of one user online and offline alternate, and Turn grows by 1: whoever has seen a turn may drop those up to it. A user
// who has been gone for as long as messages are kept (-retention) is forgotten, and begins again with turn 1.
type Event struct {
	ID     string `json:"event"` // the event's own; Message has another
	What   What   `json:"what"`
	Tenant string `json:"tenant"`
	User   string `json:"user"`
	At     int64  `json:"at"` // when it became so, ms since 1970: not when it was noticed

	Turn uint64 `json:"turn,omitempty"` // of online and offline

	Message *Message `json:"message,omitempty"` // of undelivered
}

// Message is a message that waits. Its payload is not told, only what its publisher knows it by: its id and type. It stays
// in the mailbox: a device that comes back later is given it all the same, and where Receipt is true that is told.
type Message struct {
	ID       string `json:"id"`
	To       string `json:"to"` // `user:42`
	Seq      uint64 `json:"seq"`
	Type     string `json:"type,omitempty"`
	At       int64  `json:"at"`       // when it was accepted, ms since 1970
	Archived int64  `json:"archived"` // ms since 1970
	Waiting  int64  `json:"waiting"`  // ms from when it was archived until it counted as undelivered
	Expires  int64  `json:"expires,omitempty"`
	Receipt  bool   `json:"receipt,omitempty"` // its publisher asked for receipts
}

// ID is the id of an event: a name made of what it is about, so that a repetition has the same.
func ID(what What, about string, number uint64, at int64) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{
		string(what), about, strconv.FormatUint(number, 10), strconv.FormatInt(at, 10),
	}, "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
