// Package push holds the connections. Each running process is a node with an id of its own; it takes frames from
// dispatch on its own subject, gives every message to the sessions of its address in exact sequence, fills holes from
// the archive, and reports what the devices acknowledged.
//
// Whatever the door, the session is the same (visit.go): windows, cursors, holes and the reasons of an end are its own, and a
// transport knows nothing of them. A WebSocket carries the objects as they are (websocket.go), a stream of Server-Sent
// Events those of the server (sse.go, place.go), which its client answers with POST /v1/ack (acknowledge.go), and gRPC
// translates them. session_test.go holds all of them to the same promises.
//
// Subjects in: weft.node.<id> (frames, answered), weft.node.<id>.ctl (orders, answered), weft.nodes (frames for every
// node). Subjects out: weft.auth.verify, weft.history.{read,open,heads} (requests), weft.ack.<id> and weft.presence.<id> (stream WEFT_ACK),
// weft.node.<other>.ctl (that another node's session has lost its device, or what its device acknowledges here).
//
// Goroutines, all owned by Service.Run: the HTTP server, and a handler for each stream (stream.go); one reader per WebSocket,
// which also hangs up; a writer per session, only while its outbox is not empty; the fill workers, which read mailboxes
// from the archive; the acknowledger; the keeper, which renews the node's lease, repairs routes, looks whether sessions
// still have their devices, and sweeps; the watch, which looks at every session's clocks and cuts connections that do not
// end.
//
// What keeps faults small: admit.go (clients that come all at once), drain.go (a node that goes away), pause.go and
// device.go (a node that did not run while its devices went elsewhere).
//
// Order of locks: hub shard, then mailbox, then session, then fill queue. Nobody does I/O while holding one.
//
// The way of a message reads: node.go (frame in), hub.go (who has the address), session.go (offer, window), lane.go
// (exact sequence), websocket.go or sse.go (write), acks.go (what came back).
package push
