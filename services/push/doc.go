// Package push holds the connections. Each running process is a node with an id of its own; it takes frames from
// dispatch on its own subject, gives every message to the sessions of its address in exact sequence, fills holes from
// the archive, and reports what the devices acknowledged.
//
// Subjects in: weft.node.<id> (frames, answered), weft.node.<id>.ctl (orders, answered), weft.nodes (frames for every
// node). Subjects out: weft.auth.verify, weft.history.{read,open,heads} (requests), weft.ack.<id> (stream WEFT_ACK),
// weft.node.<other>.ctl (that another node's session has lost its device).
//
// Goroutines, all owned by Service.Run: the HTTP server; one reader per connection, which also hangs up, and a writer
// only while its outbox is not empty; the fill workers, which read mailboxes from the archive; the acknowledger; the keeper, which renews
// the node's lease, repairs routes, looks whether sessions still have their devices, and sweeps; the watch, which looks at
// every session's clocks and cuts connections that do not end.
//
// What keeps faults small: admit.go (clients that come all at once), drain.go (a node that goes away), pause.go and
// device.go (a node that did not run while its devices went elsewhere).
//
// Order of locks: hub shard, then mailbox, then session, then fill queue. Nobody does I/O while holding one.
//
// The way of a message reads: node.go (frame in), hub.go (who has the address), session.go (offer, window), lane.go
// (exact sequence), websocket.go (write), acks.go (what came back).
package push
