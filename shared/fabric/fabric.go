// Package fabric is what Weft keeps in NATS: the streams, their consumers and the bucket of leases, defined once.
// Collect creates it; dispatch and push wait for it and learn its facts from it.
//
// The tests that need a server are in shared/embed; the table in nats/README.md is checked against this package here.
package fabric

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/subject"
)

// Names of streams, of the bucket and of consumers.
const (
	AckStream        = "WEFT_ACK"
	QuarantineStream = "WEFT_QUARANTINE"
	ReceiptStream    = "WEFT_RECEIPT"
	EventStream      = "WEFT_EVENT"
	OwnersBucket     = "WEFT_OWNERS"

	CollectConsumer  = "collect"  // on InStream of each partition
	DispatchConsumer = "dispatch" // on MsgStream of each partition

	// On AckStream, each for its own subjects, so that one kind of report that can't be taken in keeps no other up.
	AckConsumer      = "acks"
	RoutedConsumer   = "routed"
	PresenceConsumer = "presence"
)

// InStream is the stream of what publishers sent to a partition.
func InStream(p int) string { return "WEFT_IN_" + strconv.Itoa(p) }

// MsgStream is a partition's log: what is archived, on its way to the devices.
func MsgStream(p int) string { return "WEFT_MSG_" + strconv.Itoa(p) }

// LeaseKey is the key of the bucket that says who owns a partition for a stage.
func LeaseKey(stage string, p int) string { return stage + "." + strconv.Itoa(p) }

// AliveKey is the key of the bucket where an instance that works for a stage sends its heartbeats.
func AliveKey(stage, instance string) string { return "alive." + stage + "." + instance }

// TrialKey is the key of the bucket that says at which message a partition's owner is at work on trial.
func TrialKey(stage string, p int) string { return "trial." + stage + "." + strconv.Itoa(p) }

// Facts are chosen when the archive is created; every stream carries them in its metadata.
type Facts struct {
	Epoch      string
	Partitions int
}

// Options are what an operator may choose.
type Options struct {
	Replicas   int   // of every stream: 1, 3 or 5; 0 is 1
	MaxPayload int64 // the server's (nats.Conn.MaxPayload), bytes
}

const (
	// headroom is what a quarantined message may have more than the original: our headers with the reason, and the
	// original subject. Bytes.
	headroom = 16 << 10
	// ackWait is after how long an unacknowledged message is delivered once more. An owner that dies is replaced long
	// before, and its successor resets the consumer.
	ackWait = 30 * time.Second
	// maxAckPending lets an owner have several batches under way.
	maxAckPending = 8192
	// markers is how long the bucket remembers that a heartbeat expired.
	markers = time.Minute
)

// Stream is a stream with the consumers of those who work on it.
type Stream struct {
	Config    jetstream.StreamConfig
	Consumers []jetstream.ConsumerConfig
}

// Streams is every stream of a fabric except the bucket.
func Streams(f Facts, o Options) []Stream {
	streams := []Stream{root(f, o)}
	for p := range f.Partitions {
		streams = append(streams,
			Stream{Consumers: []jetstream.ConsumerConfig{Consumer(CollectConsumer, "")}, Config: jetstream.StreamConfig{
				Name: InStream(p), Description: "what publishers sent, until the archive has it",
				Subjects: []string{subject.InFilter(p)}, Retention: jetstream.WorkQueuePolicy,
				// The archive decides on ids. The server's window is only as long as a client's quick retry, and 0
				// would mean two minutes.
				Duplicates: 100 * time.Millisecond, Discard: jetstream.DiscardNew,
				MaxMsgSize: int32(o.MaxPayload - headroom), //nolint:gosec // checked by Create
				// Nobody may remove what was accepted. Roll-ups, per-message TTL and schedules stay off: any publisher
				// could use them to the same effect.
				DenyDelete: true, DenyPurge: true,
			}},
			Stream{Consumers: []jetstream.ConsumerConfig{Consumer(DispatchConsumer, "")}, Config: jetstream.StreamConfig{
				Name: MsgStream(p), Description: "what is archived, on its way to the devices",
				Subjects: []string{subject.MsgFilter(p)}, Retention: jetstream.LimitsPolicy, MaxAge: 72 * time.Hour,
				// An owner publishes again at a takeover what it finds from 2 min before the log's end; what the log has
				// must cost it nothing.
				Duplicates: 2 * time.Minute,
			}})
	}
	streams = append(streams,
		Stream{Config: jetstream.StreamConfig{
			Name: QuarantineStream, Description: "what could not be processed, with the reason",
			Subjects: []string{subject.QuarantineAll}, Retention: jetstream.LimitsPolicy, MaxAge: 30 * 24 * time.Hour,
			Duplicates: 2 * time.Minute,
		}},
		Stream{Config: jetstream.StreamConfig{
			Name: ReceiptStream, Description: "facts about messages, for their publishers",
			Subjects: []string{subject.ReceiptAll}, Retention: jetstream.LimitsPolicy, MaxAge: 24 * time.Hour,
			Duplicates: 2 * time.Minute,
		}},
		Stream{Config: jetstream.StreamConfig{
			Name: EventStream, Description: "users that came and went, messages that wait for long",
			Subjects: []string{subject.EventAll}, Retention: jetstream.LimitsPolicy, MaxAge: 24 * time.Hour,
			Duplicates: 2 * time.Minute,
		}})
	for i := range streams {
		c := &streams[i].Config
		c.Storage, c.Replicas, c.Metadata = jetstream.FileStorage, max(o.Replicas, 1), f.metadata()
		if c.MaxMsgSize == 0 {
			c.MaxMsgSize = -1 // what the server's own limit lets through
		}
	}
	return streams
}

// root is the stream that is created first: its creation decides on P when several collects start at once.
func root(f Facts, o Options) Stream {
	consumers := []jetstream.ConsumerConfig{
		Consumer(AckConsumer, subject.AckAll), Consumer(RoutedConsumer, subject.RoutedAll), Consumer(PresenceConsumer, subject.PresenceAll),
	}
	return Stream{Consumers: consumers, Config: jetstream.StreamConfig{
		Name: AckStream, Description: "what devices acknowledged and services report, on its way to the archive",
		Subjects: []string{subject.AckAll, subject.RoutedAll, subject.PresenceAll}, Retention: jetstream.WorkQueuePolicy, Duplicates: 2 * time.Minute,
		Storage: jetstream.FileStorage, Replicas: max(o.Replicas, 1), Metadata: f.metadata(), MaxMsgSize: -1,
	}}
}

// Consumer is a consumer of a stream, or of some of its subjects: durable, pulled, each message acknowledged by itself (work
// queues refuse AckAll, and a late AckAll of a paused owner can stop the floor for good). It delivers without end: a
// server that gives up after some tries lets the message vanish.
func Consumer(name, subjects string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: name, FilterSubject: subjects, DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: maxAckPending, ReplayPolicy: jetstream.ReplayInstantPolicy,
	}
}

// Owners is the bucket of leases and heartbeats. Heartbeats carry their own TTL, which needs the markers.
func Owners(f Facts, o Options) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: OwnersBucket, Description: "who works on which partition", History: 1, Storage: jetstream.FileStorage,
		Replicas: max(o.Replicas, 1), LimitMarkerTTL: markers, Metadata: f.metadata(),
	}
}
