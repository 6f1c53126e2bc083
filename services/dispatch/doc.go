// Package dispatch routes. The owner of a partition reads its log, looks up in Redis which push nodes hold the
// addresses of a whole batch, sends each of those nodes one frame, and acknowledges the batch once they have answered. It
// waits for the quick ones only: what comes for a node that lags queues up until it answers or is suspect.
//
// Streams in: WEFT_MSG_<p>. Subjects in: weft.dispatch.<p> (what an operator sends again, answered; replay.go). Subjects
// out: weft.node.<id> (frames, answered), weft.node.<id>.ctl (probe and sweep), and weft.nodes (frames, while Redis can't be relied
// on). Streams out: WEFT_ACK (weft.routed.<instance>: what was routed to which nodes, told in bulk, about once a second).
//
// It is a hint that makes things fast: what it loses is found by the nodes, who see holes in the sequence and compare
// heads. So it may drop a slow node from a batch, and never lets one node delay another.
//
// Goroutines, all owned by Service.Run: for each partition that this process owns a reader, the routing loop and the one
// that replays, a sender for each node that has something under way or a share of a replay, the one that tends Redis, the
// one that tells what was routed, and the prober of suspect nodes with a request for each.
package dispatch
