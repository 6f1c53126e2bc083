// Package admin is what operators can ask of a fabric and tell it: NATS micro services on weft.admin.*, used by the
// command line. Questions and answers are JSON (shared/rpc); times are ms since 1970.
//
// Whatever can take long comes in pages of bounded work. The caller asks for one after the other and hands in where the
// last one ended, so any collect can answer the next, nothing is held between two pages, and whoever stops loses nothing.
package admin

import (
	"encoding/json"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
)

// The endpoints, below subject.Admin. Any collect answers them, but for Nodes and Check.
const (
	Undelivered      = "undelivered"       // UndeliveredRequest → UndeliveredPage
	Replay           = "replay"            // ReplayRequest → ReplayPage
	Trace            = "trace"             // TraceRequest → TraceAnswer
	User             = "user"              // UserRequest → UserAnswer
	Kick             = "kick"              // KickRequest → KickAnswer
	Drain            = "drain"             // DrainRequest → DrainAnswer
	Audit            = "audit"             // AuditRequest → AuditPage
	Records          = "records"           // RecordsRequest → RecordsAnswer
	QuarantineList   = "quarantine.list"   // QuarantineRequest → QuarantinePage
	QuarantineShow   = "quarantine.show"   // QuarantineOne → Quarantined, with headers and payload
	QuarantineReplay = "quarantine.replay" // QuarantineOne → QuarantineDone
	QuarantineDrop   = "quarantine.drop"   // QuarantineOne → QuarantineDone
	Nodes            = "nodes"             // {} → NodeAnswer, from every push node
	Check            = "check"             // {} → CheckAnswer, from every collect
)

// HeaderWaits is a header of requests for a change: whoever asks answers on Waits for as long as he waits. A collect asks
// there before it begins, and does nothing that nobody waits for: a request may have lain in a process that was stopped.
// Without the header the change is made whenever the request is read.
const HeaderWaits = "Weft-Waits"

// Waits is where whoever waits for an answer on a subject says so.
func Waits(reply string) string { return reply + ".waits" }

// Filter chooses messages. Empty members choose all.
type Filter struct {
	Tenant string `json:"tenant,omitempty"` // empty: all tenants
	User   string `json:"user,omitempty"`   // raw id
	Topic  string `json:"topic,omitempty"`  // raw id; without it only users' mailboxes are looked at
	Device string `json:"device,omitempty"` // of User: what this device has not acknowledged, whatever the others did
	Type   string `json:"type,omitempty"`   // the publisher's word, exactly
	Since  int64  `json:"since,omitempty"`  // archived at or after
	Until  int64  `json:"until,omitempty"`  // archived before
	Reason Reason `json:"reason,omitempty"`
}

// Reason is why a message has not been acknowledged.
type Reason string

// The reasons.
const (
	ReasonAway   Reason = "away"   // no device of the user is connected
	ReasonHeld   Reason = "held"   // a device is connected, and has not acknowledged it
	ReasonNobody Reason = "nobody" // the user never had a device
)

// UndeliveredRequest asks for messages that no device of their user has acknowledged, in the order of address and
// sequence.
type UndeliveredRequest struct {
	Filter

	After Place `json:"after"`           // zero: from the first
	Limit int   `json:"limit,omitempty"` // rows of the page; 0: 100, at most 1,000
	Count bool  `json:"count,omitempty"` // count all that match, whatever the page holds
}

// Place is a message's place in the order of address and sequence.
type Place struct {
	Address string `json:"address,omitempty"` // Address.Tokens
	Seq     uint64 `json:"seq,omitempty"`
}

// UndeliveredPage answers it.
type UndeliveredPage struct {
	Messages []Message `json:"messages"`
	Next     *Place    `json:"next,omitempty"`  // what to ask after; nil on the last page
	Total    *Total    `json:"total,omitempty"` // if it was asked to count
}

// Total is what a filter chooses.
type Total struct {
	Messages int            `json:"messages"`
	Users    int            `json:"users"`            // addresses
	Oldest   int64          `json:"oldest,omitempty"` // when it was archived
	Newest   int64          `json:"newest,omitempty"`
	Reasons  map[Reason]int `json:"reasons,omitempty"` // messages
	// AtLeast says that counting was ended: there are more. It is after a million.
	AtLeast bool `json:"at_least,omitempty"`
}

// Message is a message without its payload.
type Message struct {
	Tenant   string      `json:"tenant"`
	To       string      `json:"to"` // `user:42`
	Seq      uint64      `json:"seq"`
	ID       string      `json:"id"`
	Type     string      `json:"type,omitempty"`
	At       int64       `json:"at"`       // accepted
	Archived int64       `json:"archived"` //
	Expires  int64       `json:"expires,omitempty"`
	Size     int         `json:"size"` // bytes of the payload
	Again    bool        `json:"re,omitempty"`
	Receipt  bool        `json:"receipt,omitempty"` // its publisher asked for receipts
	Why      message.Why `json:"why,omitempty"`     // why its payload is gone
	Reason   Reason      `json:"reason,omitempty"`  // of an undelivered one
	Devices  int         `json:"devices,omitempty"` // of an undelivered one of a topic: how many have not acknowledged it
}

// ReplayRequest does one page of a replay: some messages are handed to dispatch once more, in the order of the archive
// for what the log does not keep any more, then partition by partition in the order of the log.
type ReplayRequest struct {
	Filter

	By       By             `json:"by"`
	Run      string         `json:"run"`             // the replay's id, chosen by the caller: the same for all its pages, and when it is taken up again
	Started  int64          `json:"started"`         // when the first page was asked for, by the caller's clock: for the record
	Position ReplayPosition `json:"position"`        // zero: the beginning
	Limit    int            `json:"limit,omitempty"` // most messages of the page that match; 0: 1,000. It may have fewer, or none, and not be the last
	Force    bool           `json:"force,omitempty"` // what is below the cursor too, as new messages with the id <id>~<run>
	Done     ReplayCount    `json:"done"`            // of the pages before, for the record
	Dry      bool           `json:"dry,omitempty"`   // only count what would be done, as sent or copied: nothing is done, nor recorded
}

// ReplayPosition is how far a replay has come. Callers hand it back as it came.
type ReplayPosition struct {
	End       int64  `json:"end,omitempty"`       // when it began, by the clock of a collect: what is archived later is left alone
	From      int64  `json:"from,omitempty"`      // nothing that the log's part needs was archived before
	Holed     string `json:"holed,omitempty"`     // partitions whose log has lost messages in between: they are read from the archive alone
	Archived  bool   `json:"archived,omitempty"`  // the archive's part is done
	Place     Place  `json:"place,omitzero"`      // in the archive's part
	Mark      string `json:"mark,omitempty"`      // in the archive's part of a forced one
	Partition int    `json:"partition,omitempty"` // in the log's, and in the archive's of a forced one
	Sequence  uint64 `json:"sequence,omitempty"`  // of the stream: up to here it is done
}

// ReplayCount counts messages.
type ReplayCount struct {
	Read    int `json:"read"`    // looked at, of the archive and of the log
	Matched int `json:"matched"` // chosen by the filter and above the cursor, or forced
	Sent    int `json:"sent"`    // written to a session once more
	Copied  int `json:"copied"`  // archived as new messages, by force
	Waiting int `json:"waiting"` // their users are away, or have no room: they get them by themselves
}

// ReplayPage answers it.
type ReplayPage struct {
	ReplayCount // of this page

	Position ReplayPosition `json:"position"` // where the next page begins
	Finished bool           `json:"finished"`
	ToRead   int            `json:"to_read"` // estimate of what is left to look at, for a progress bar

	// Of a dry one's messages that match, of this page:
	Oldest int64     `json:"oldest,omitempty"` // when it was archived
	Newest int64     `json:"newest,omitempty"`
	Sample []Message `json:"sample,omitempty"` // the first few
}

// By says who asks for a change. The fabric can't check it; it is what the record says.
type By struct {
	Who  string `json:"who"`            // user@host
	Note string `json:"note,omitempty"` // why, in the operator's words
}

// Record is what is kept of a change that an operator made.
type Record struct {
	ID     string          `json:"id"` // of a replay its Run
	At     int64           `json:"at"`
	By     By              `json:"by"`
	Action string          `json:"action"` // replay, kick, drain, quarantine.replay, quarantine.drop
	Filter json.RawMessage `json:"filter"` // the request's, or what was named
	Count  int             `json:"count"`  // messages or sessions it was done to
	Detail string          `json:"detail,omitempty"`
}

// RecordsRequest asks for records, the newest first.
type RecordsRequest struct {
	Before int64  `json:"before,omitempty"` // older than this; 0: from the newest
	Action string `json:"action,omitempty"`
	Limit  int    `json:"limit,omitempty"` // 0: 50, at most 1,000
}

// RecordsAnswer answers it.
type RecordsAnswer struct {
	Records []Record `json:"records"`
}

// TraceRequest asks what became of the messages with an id.
type TraceRequest struct {
	Tenant string `json:"tenant,omitempty"` // empty: the default tenant
	ID     string `json:"id"`
	To     string `json:"to,omitempty"` // `user:42`: only at this address
}

// TraceAnswer has one trace for each address that the id was published to; at most 100, users first.
type TraceAnswer struct {
	Traces []Traced `json:"traces"`
	More   bool     `json:"more,omitempty"`
}

// Traced is one message with what happened to it, in the order of time.
type Traced struct {
	Message Message `json:"message"`
	State   string  `json:"state"` // delivered, partly, pending, expired, deleted, quarantined
	Steps   []Step  `json:"steps"`
	Copies  []Place `json:"copies,omitempty"` // what forced replays made of it
}

// Step is one thing that happened to a message.
type Step struct {
	What   string `json:"what"` // accepted, archived, logged, routed, acknowledged, pending, expired, receipt, quarantined
	At     int64  `json:"at,omitempty"`
	Node   string `json:"node,omitempty"`
	Device string `json:"device,omitempty"`
	Detail string `json:"detail,omitempty"` // a sentence or a few words, such as the reason or the log's sequence
}

// UserRequest asks about a user.
type UserRequest struct {
	Tenant string `json:"tenant,omitempty"`
	User   string `json:"user"`
	Last   int    `json:"last,omitempty"` // messages; 0: 10, at most 100
}

// UserAnswer answers it.
type UserAnswer struct {
	Tenant  string    `json:"tenant"`
	User    string    `json:"user"`
	Head    uint64    `json:"head"`
	Pending int       `json:"pending"` // above the cursor of every device
	Devices []Device  `json:"devices"`
	Last    []Message `json:"last"` // the newest first
}

// Device is one device of a user.
type Device struct {
	Device  string            `json:"device"`
	Known   int64             `json:"known,omitempty"` // since when; 0: from the beginning
	Acked   int64             `json:"acked,omitempty"` // when it last acknowledged
	Cursor  uint64            `json:"cursor"`          // in the user's mailbox
	Pending int               `json:"pending"`         // above it
	Cursors map[string]uint64 `json:"cursors,omitempty"`
	Node    string            `json:"node,omitempty"` // where it is connected
	Session *node.Session     `json:"session,omitempty"`
}

// KickRequest closes sessions.
type KickRequest struct {
	Tenant string `json:"tenant,omitempty"`
	User   string `json:"user"`
	Device string `json:"device,omitempty"` // empty: all of the user
	Final  bool   `json:"final,omitempty"`  // so that clients do not come back by themselves
	By     By     `json:"by"`
}

// KickAnswer says how many were closed, by node.
type KickAnswer struct {
	Sessions map[string]int `json:"sessions"`
}

// DrainRequest empties a push node. It stays, takes no new connection, and can be stopped then.
type DrainRequest struct {
	Node string `json:"node"` // id, or the beginning of one
	By   By     `json:"by"`
}

// DrainAnswer answers it at once; NodeAnswer.Sessions shows how it goes on.
type DrainAnswer struct {
	Node     string `json:"node"`
	Sessions int    `json:"sessions"` // that were asked to leave
}

// NodeAnswer is what a push node says of itself. The counters count from its start.
type NodeAnswer struct {
	Node     string `json:"node"`
	Host     string `json:"host"`
	PID      int    `json:"pid"`
	Listen   string `json:"listen"`
	Started  int64  `json:"started"`
	Now      int64  `json:"now"`
	Draining bool   `json:"draining,omitempty"`
	Sessions int    `json:"sessions"`
	Users    int    `json:"users"`
	Opened   uint64 `json:"opened"`  // sessions
	Sent     uint64 `json:"sent"`    // messages and gaps written to sessions
	Acked    uint64 `json:"acked"`   // acknowledgements heard
	Frames   uint64 `json:"frames"`  // taken from dispatch
	Filled   uint64 `json:"filled"`  // pages read from the archive for holes
	Unacked  int64  `json:"unacked"` // bytes in all windows
	Memory   uint64 `json:"memory"`  // bytes that Go holds from the system
	Tasks    int    `json:"tasks"`   // goroutines
}

// AuditRequest compares the books of one partition, for what was archived in a window.
type AuditRequest struct {
	Partition int    `json:"partition"`
	Since     int64  `json:"since"`
	Until     int64  `json:"until"`          // what is younger than a few seconds may be under way, and is left out
	After     string `json:"after"`          // AuditPage.Next of the page before
	Most      int    `json:"most,omitempty"` // breaks to name; 0: 100
}

// AuditPage answers it: accepted = delivered + pending + expired + superseded + quarantined + deleted. An address whose
// part of the window was in several pages is in each; callers add up.
type AuditPage struct {
	Partitions int     `json:"partitions"` // of the fabric
	Balance    Balance `json:"balance"`
	Breaks     []Break `json:"breaks,omitempty"`
	Broken     int     `json:"broken"`         // all breaks of the page, named or not
	Next       string  `json:"next,omitempty"` // empty on the partition's last page
	Addresses  int     `json:"addresses"`
	Logged     int     `json:"logged"` // messages of the log that were compared
	Incoming   int     `json:"incoming"`
	// UnderWay are messages that are archived and not in the log, and whose owner has not said that he is through with
	// them: they are in the balance and no breaks, and have to be looked at again.
	UnderWay int `json:"under_way,omitempty"`
}

// Balance counts messages.
type Balance struct {
	Accepted    int `json:"accepted"`
	Delivered   int `json:"delivered"` // acknowledged by a device of the user; of topics and all: sent to whoever subscribed
	Pending     int `json:"pending"`
	Expired     int `json:"expired"`
	Superseded  int `json:"superseded"`
	Quarantined int `json:"quarantined"`
	Deleted     int `json:"deleted"`
}

// Break is one message that breaks the balance.
type Break struct {
	Tenant  string `json:"tenant"`
	To      string `json:"to"`
	Seq     uint64 `json:"seq,omitempty"`
	ID      string `json:"id,omitempty"` // empty where nothing tells it any more
	What    string `json:"what"`         // not_in_archive, not_in_log, not_the_same, cursor_ahead, receipt_missing
	Message string `json:"message"`      // a sentence: what is wrong and what to do
}

// QuarantineRequest asks for quarantined messages, the oldest first.
type QuarantineRequest struct {
	Tenant string       `json:"tenant,omitempty"`
	To     string       `json:"to,omitempty"` // `user:42`
	Reason problem.Code `json:"reason,omitempty"`
	Since  int64        `json:"since,omitempty"`
	Until  int64        `json:"until,omitempty"`
	After  uint64       `json:"after,omitempty"` // Quarantined.Number
	Limit  int          `json:"limit,omitempty"` // 0: 100, at most 1,000
}

// QuarantinePage answers it.
type QuarantinePage struct {
	Entries []Quarantined `json:"entries"`
	Next    uint64        `json:"next,omitempty"`  // what to ask after; 0 on the last page
	Total   int           `json:"total,omitempty"` // of all that match, on the first page
}

// Quarantined is one message in quarantine.
type Quarantined struct {
	Number  uint64              `json:"number"` // its name for show, replay and drop
	At      int64               `json:"at"`     // when it was set aside
	Reason  problem.Code        `json:"reason"`
	Message string              `json:"message"`         // the reason as a sentence
	Field   string              `json:"field,omitempty"` // the header that was wrong
	ID      string              `json:"id,omitempty"`    // the message's, as its receipt names it
	Subject string              `json:"subject"`         // that it came on
	Tenant  string              `json:"tenant"`
	To      string              `json:"to,omitempty"`      // empty where the subject names no address
	Size    int                 `json:"size"`              // bytes of the payload
	Header  map[string][]string `json:"header,omitempty"`  // show only: as it came
	Payload []byte              `json:"payload,omitempty"` // show only: as it came; the first 512 KiB of it
}

// QuarantineOne names one message; for a replay also what is to be changed.
type QuarantineOne struct {
	Number uint64            `json:"number"`
	To     string            `json:"to,omitempty"`  // replay: another address
	ID     string            `json:"id,omitempty"`  // replay: another id
	Set    map[string]string `json:"set,omitempty"` // replay: headers to set, or to remove where empty
	By     By                `json:"by,omitzero"`
	Run    *QuarantineRun    `json:"run,omitempty"` // nil: the message has a record of its own
}

// QuarantineRun is a command that does one thing to several messages, one after the other: it leaves one record.
type QuarantineRun struct {
	ID      string            `json:"id"`                // chosen by the caller, the same for all its messages
	Started int64             `json:"started"`           // by the caller's clock: for the record
	Numbers []uint64          `json:"numbers,omitempty"` // the messages that were named, or
	Filter  QuarantineRequest `json:"filter"`            // what chose them
	Done    int               `json:"done"`              // messages before this one, for the record
}

// QuarantineDone says what was done; the message is no longer in quarantine.
type QuarantineDone struct {
	Number uint64 `json:"number"`
	ID     string `json:"id,omitempty"`     // replay: the message's
	Stream string `json:"stream,omitempty"` // replay: that took it
}

// CheckAnswer is what a collect knows of what it depends on.
type CheckAnswer struct {
	Instance   string `json:"instance"`
	Host       string `json:"host"`
	PID        int    `json:"pid"`
	Now        int64  `json:"now"`
	Epoch      string `json:"epoch"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"` // that it asks of streams
	Owns       []int  `json:"owns"`     // partitions
	Archive    Health `json:"archive"`
	Redis      Health `json:"redis"`
}

// Health is how something answers.
type Health struct {
	Kind     string  `json:"kind"`           // sqlite, mongodb, redis
	Version  string  `json:"version"`        //
	Problem  string  `json:"problem"`        // empty: it is well
	Millis   float64 `json:"millis"`         // that a small write took
	Clock    int64   `json:"clock"`          // the server's, 0 where it has none
	Warnings []Warn  `json:"warn,omitempty"` // what is well and could be better
}

// Warn is something to know and what to do.
type Warn struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}
