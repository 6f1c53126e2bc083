// Package subject is the map of Weft on NATS: addresses, the encoding of ids into subject tokens, and one function
// for each subject. No other code builds a subject by concatenation; ids reach none except through Encode.
//
// The table in nats/README.md is checked against this package by a test.
package subject

import (
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/weftpush/weft/shared/problem"
)

// Subjects without parameters, and the patterns that services subscribe to.
const (
	PublishAll    = "weft.publish.>" // the request door, any collect
	Nodes         = "weft.nodes"     // all push nodes: fallback routing, revocations
	AuthVerify    = "weft.auth.verify"
	AuthIssue     = "weft.auth.issue" // tokens for the demo; only where auth was started to give them out
	HistoryRead   = "weft.history.read"
	HistoryOpen   = "weft.history.open"
	HistoryHeads  = "weft.history.heads"
	MsgAll        = "weft.msg.>"
	AckAll        = "weft.ack.>"
	RoutedAll     = "weft.routed.>"
	PresenceAll   = "weft.presence.>"
	EventAll      = "weft.event.>"
	QuarantineAll = "weft.quarantine.>"
	ReceiptAll    = "weft.receipt.>"
	// InMapping is the account mapping that spreads the stream door over the partitions: InMapping[0] is the source,
	// and PartitionMapping(P) its destination.
	InMapping = "weft.in.>"
)

// PartitionMapping is the destination of the server's account mapping for P partitions.
func PartitionMapping(partitions int) string {
	return "weft.inp.{{partition(" + strconv.Itoa(partitions) + ")}}.>"
}

// In is the stream door of an address: what business systems publish to.
func In(a Address) string { return "weft.in." + a.Tokens() }

// Publish is the request door of an address.
func Publish(a Address) string { return "weft.publish." + a.Tokens() }

// Partition is the partition of an address: what the server's mapping computes for In(a).
func Partition(a Address, partitions int) int {
	h := fnv.New32a()
	h.Write([]byte(In(a)))
	return int(h.Sum32() % uint32(partitions)) //nolint:gosec // partitions is 1 to a few hundred, checked at the start
}

// InPartition is where the mapping puts what was published to In(a).
func InPartition(p int, a Address) string { return "weft.inp." + strconv.Itoa(p) + "." + a.Tokens() }

// InAnyPartition matches what comes in for an address, wherever the mapping puts it.
func InAnyPartition(a Address) string { return "weft.inp.*." + a.Tokens() }

// InFilter matches everything that came in for a partition.
func InFilter(p int) string { return "weft.inp." + strconv.Itoa(p) + ".>" }

// Msg is where collect publishes an archived message, and what operators replay from.
func Msg(p int, a Address) string { return "weft.msg." + strconv.Itoa(p) + "." + a.Tokens() }

// MsgAnyPartition matches the archived messages of an address, whatever its partition.
func MsgAnyPartition(a Address) string { return "weft.msg.*." + a.Tokens() }

// MsgFilter matches the log of a partition.
func MsgFilter(p int) string { return "weft.msg." + strconv.Itoa(p) + ".>" }

// Collect is where the owner of a partition takes what came in through the request door. Only the owner listens.
func Collect(p int) string { return "weft.collect." + strconv.Itoa(p) }

// Node is a push node's own subject for frames.
func Node(id string) string { return "weft.node." + id }

// NodeControl is a push node's own subject for orders: probe, sweep, replaced.
func NodeControl(id string) string { return Node(id) + ".ctl" }

// Ack is where a push node publishes what its sessions acknowledged.
func Ack(node string) string { return "weft.ack." + node }

// Routed is where a dispatch reports, in bulk, how far it has routed.
func Routed(instance string) string { return "weft.routed." + instance }

// Presence is where a push node reports which users it has.
func Presence(node string) string { return "weft.presence." + node }

// Event is where the lifecycle events of a tenant are published; what is online, offline or undelivered.
func Event(tenant, what string) string { return "weft.event." + Encode(tenant) + "." + what }

// Dispatch is where the owner of a partition's routing takes messages that are to be sent again. Only the owner listens.
func Dispatch(p int) string { return "weft.dispatch." + strconv.Itoa(p) }

// Admin is an endpoint of the operators' services, such as undelivered or quarantine.show.
func Admin(endpoint string) string { return "weft.admin." + endpoint }

// Quarantine is where a message goes that can't be processed. tokens are those of its address (Address.Tokens), or
// Unaddressed where the address itself could not be read.
func Quarantine(reason problem.Code, tokens string) string {
	return "weft.quarantine." + string(reason) + "." + tokens
}

// Receipt is where the facts about a message are published; tokens as in Quarantine.
func Receipt(tokens string) string { return "weft.receipt." + tokens }

// Unaddressed stands for the tokens of an address that could not be read: the tenant if that much is legal, else
// the default tenant, and the word `unaddressed`.
func Unaddressed(tokens string) string {
	tenant, _, _ := strings.Cut(tokens, ".")
	if _, err := Decode(tenant); err != nil {
		tenant = DefaultTenant
	}
	return tenant + ".unaddressed"
}

// Cut removes the fixed head of a subject and returns the address tokens behind it: `weft.publish.` from the request
// door, `weft.inp.<p>.` from a partition's stream, `weft.msg.<p>.` from its log. ok is false for any other subject.
func Cut(subject string) (tokens string, ok bool) {
	for _, head := range []string{"weft.publish.", "weft.in."} {
		if tokens, ok = strings.CutPrefix(subject, head); ok {
			return tokens, true
		}
	}
	for _, head := range []string{"weft.inp.", "weft.msg."} {
		if rest, found := strings.CutPrefix(subject, head); found {
			_, tokens, ok = strings.Cut(rest, ".")
			return tokens, ok
		}
	}
	return "", false
}
