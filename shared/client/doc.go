// Package client is the Go SDK of Weft: a Publisher for business systems, which speak NATS, and a Subscriber for
// devices, which hold a WebSocket.
//
// # Publish
//
//	nc, _ := nats.Connect("nats://127.0.0.1:4222")
//	publisher := client.NewPublisher(nc)
//	alice := subject.UserAddress(subject.DefaultTenant, "alice")
//	ack, err := publisher.Publish(ctx, alice, []byte(`{"order":17}`), client.WithID("order-17-paid"))
//
// Each message has an id before it leaves, so that every publish is safe to repeat. Publish returns when a stream holds
// the message (accepted), Request when the archive does (archived, with its sequence), PublishMany publishes many at once,
// in order for each address.
//
// # Know what became of it
//
// WithReceipt asks what becomes of a message at each device of its user, and Receipts tells it: delivered once the device has
// acknowledged it, expired or deleted; of any message, that it was quarantined, and why. Events tells who came online and went
// offline, and which message has waited for so long that an e-mail may take over.
//
// # Receive
//
//	device, err := client.Dial(ctx, client.Options{URL: "ws://127.0.0.1:8080", Device: "kitchen", Token: token})
//	for m, err := range device.Messages(ctx) {
//		…
//	}
//
// Messages, and Run with a function, hand each message over once and in order, address by address, across any number of
// reconnects. What was taken is saved in Options.Cursors and acknowledged; what has been acknowledged does not come again.
// After an error of the function the message comes again after 1, 2, 4, 8 and 16 s, then goes to OnFailed and is passed
// over. With a File the device goes on after a restart of the program where it was, even if the last acknowledgement was
// lost on the way. A crash between handling and saving, 50 ms at most, makes a message come again: that is the one
// declared window, and a Store of your own that saves with the effect closes it.
//
// # Errors
//
// Errors that say what to do are a *problem.Problem; how a server ended a connection is a *Closed. Both work with errors.Is
// and errors.As, as do ErrUnknown, ErrNotSent, ErrStore and the others.
//
// # Reading the code
//
// The way of a message: subscriber.go (Dial, Run, Messages), line.go (connect, again and again), nodes.go (to whom, and
// when), conn.go (one connection), ledger.go (what is read, handled, saved, acknowledged), deliver.go (to the handler),
// store.go and file.go (where the cursors are kept). To publish: publish.go, many.go, options.go. What became of it:
// reader.go (of a stream), receipts.go, events.go.
package client
