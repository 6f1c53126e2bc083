package client

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
)

// Option sets a header of a message.
type Option func(nats.Header)

// WithID chooses the message's id: publishing it again does nothing, for as long as the archive keeps the message.
func WithID(id string) Option { return header(message.HeaderID, id) }

// WithType names what happened.
func WithType(name string) Option { return header(message.HeaderType, name) }

// WithContentType says what the payload is; without it, it is JSON.
func WithContentType(name string) Option { return header(message.HeaderContentType, name) }

// WithTTL makes the message expire, counted from its acceptance. It is not shown afterwards.
func WithTTL(ttl time.Duration) Option { return header(message.HeaderTTL, ttl.String()) }

// WithNotBefore keeps the message from everybody until a moment; it gets its sequence then. The fabric does not do it
// yet: publishing fails with problem.Unsupported, before anything is sent.
func WithNotBefore(moment time.Time) Option {
	return header(message.HeaderNotBefore, moment.UTC().Format(time.RFC3339Nano))
}

// WithCollapse gives the message a key: a device that was away is shown only the last message with that key. The fabric
// does not do it yet: publishing fails with problem.Unsupported, before anything is sent.
func WithCollapse(key string) Option { return header(message.HeaderCollapse, key) }

// WithReceipt asks what became of the message at each device of the user that was known when it was archived: each gets
// one receipt, with a State of delivered (it has acknowledged it, never before), expired or deleted. Where the user has
// no device until then, the message gets one without a device. Read them with Receipts. Publishing to a topic or to all
// with it fails with problem.Unsupported, before anything is sent.
func WithReceipt() Option { return header(message.HeaderReceipt, string(message.StateDelivered)) }

// WithTraceParent carries a W3C trace to the receivers.
func WithTraceParent(traceparent string) Option { return header(message.HeaderTrace, traceparent) }

func header(name, value string) Option {
	return func(h nats.Header) { h[name] = []string{value} } // not Set: it would change the spelling
}
