// Package client is the Go SDK of Weft: a Publisher for business systems, which speak NATS, and a Subscriber for
// devices, which hold a WebSocket.
//
// A Publisher makes every publish safe to repeat: each message has an id before it leaves. A Subscriber hands each
// message to a function once and in order, address by address, across any number of reconnects; what the function
// has taken is acknowledged, and what has been acknowledged does not come again.
//
// The way of a message reads: subscriber.go (connect, again and again), nodes.go (to whom, and when), conn.go (one
// connection), deliver.go (what is next, and to whom), ledger.go (what has been handled), store.go (where that is kept).
//
// Errors that say what to do are a *problem.Problem; how a server ended a connection is a *Closed.
package client
