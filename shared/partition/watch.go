package partition

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
)

// How a bucket looks on the wire. nats.go's own watch is not used: after a restart of the server it stays blind for
// some 10 s, and its goroutines end when they like.
const (
	ownersStream = "KV_" + fabric.OwnersBucket
	opHeader     = "KV-Operation"
	opDelete     = "DEL"
)

func keySubject(key string) string { return "$KV." + fabric.OwnersBucket + "." + key }

// heartbeat is the value of an instance's heartbeat.
func heartbeat(n uint64, leaving bool) string {
	state := "up "
	if leaving {
		state = "leaving "
	}
	return state + strconv.FormatUint(n, 10)
}

func parseHeartbeat(value string) (n uint64, leaving bool) {
	state, number, _ := strings.Cut(value, " ")
	n, _ = strconv.ParseUint(number, 10, 64) // 0, which no heartbeat has, for what is none
	return n, state == "leaving"
}

// change is something that happened in the bucket: the watch was opened and tells everything from the beginning; or
// a lease changed; or an instance sent a heartbeat.
type change struct {
	opened    bool
	partition int    // of a lease
	instance  string // of a heartbeat; empty for a lease
	value     string // empty: deleted or expired
	expired   bool   // by its TTL; nobody deleted it
	revision  uint64
}

// watch sends every change of the stage's keys until ctx ends, from the newest value of each on. When it may have
// missed something, it opens anew and says so.
func watch(ctx context.Context, js jetstream.JetStream, c Config, changes chan<- change) {
	tell := func(what change) error {
		select {
		case changes <- what:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for ctx.Err() == nil {
		if err := watchOnce(ctx, js, c, tell); err != nil && ctx.Err() == nil {
			c.Log.Debug("watch of the leases opens anew", "stage", c.Stage, "err", err)
			pause(ctx, again)
		}
	}
}

func watchOnce(ctx context.Context, js jetstream.JetStream, c Config, tell func(change) error) error {
	opening, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	consumer, err := js.CreateConsumer(opening, ownersStream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
		FilterSubjects: []string{keySubject(c.Stage + ".*"), keySubject(fabric.AliveKey(c.Stage, "*"))},
		MemoryStorage:  true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("create the consumer: %w", err)
	}
	if err := tell(change{opened: true}); err != nil {
		return err
	}
	return follow(ctx, js.Conn(), consumer, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		what, ok := parseChange(m, meta.Sequence.Stream)
		if !ok {
			return nil
		}
		return tell(what)
	})
}

// parseChange reads a key of the bucket; ok is false for one that nobody of us writes.
func parseChange(m jetstream.Msg, revision uint64) (c change, ok bool) {
	key := strings.Split(strings.TrimPrefix(m.Subject(), keySubject("")), ".")
	c = change{value: string(m.Data()), revision: revision}
	if reason := m.Headers().Get(jetstream.MarkerReasonHeader); reason != "" {
		c.value, c.expired = "", reason == "MaxAge"
	}
	if m.Headers().Get(opHeader) != "" {
		c.value = ""
	}
	if len(key) == 3 {
		c.instance = key[2]
		return c, c.instance != ""
	}
	p, err := strconv.Atoi(key[len(key)-1])
	c.partition = p
	return c, err == nil && p >= 0
}
