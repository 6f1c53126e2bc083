// Package collect takes messages in. It stores each one first, gives it the next sequence of its address, and only
// then hands it on: to the log of its partition, from which dispatch reads. It also keeps the devices' cursors and
// answers what is in a mailbox.
//
// Streams in: WEFT_IN_<p> (the stream door, read by the partition's owner), WEFT_ACK (acknowledgements and reports of
// push and dispatch, any collect).
// Subjects in: weft.publish.> (the request door, any collect), weft.collect.<p> (behind it, only the owner),
// weft.history.{read,open,heads} (push nodes), weft.admin.> (operators; package admin). HTTP in: POST /v1/messages and, on the
// same port, gRPC (weft.v1.PublishService).
// Streams out: WEFT_MSG_<p> (archived messages), WEFT_QUARANTINE, WEFT_RECEIPT, WEFT_EVENT.
//
// Goroutines, all owned by Service.Run: the HTTP server, three readers of WEFT_ACK (one for each kind of report), a bounded
// number of request handlers, and for each partition that this process owns a reader of its stream, the term's loop, its
// purger, one that settles receipts of what expires, one that tells who came and went, one that looks for what waits for
// long, and one at most that does what may hang, so that the loop can refuse requests meanwhile (insist.go). The owner of
// partition 0 also probes push nodes (presence.go) and takes in orphaned reports (orphans.go).
//
// The way of a message reads: door.go, http.go or grpc.go (request door) or intake.go (stream door), term.go (batch,
// acknowledge), store.go (archive; what to do with a message that it refuses), log.go, quarantine.go. What becomes of it
// reads: acks.go (acknowledgements), settle.go (what expires or is deleted), receipts.go (what publishers are told),
// routed.go. Who is online: presence.go (reports, dead nodes), events.go (decide and tell), waiting.go (undelivered).
package collect
