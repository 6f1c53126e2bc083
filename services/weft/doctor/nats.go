package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/partition"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// probes is how many addresses are sent through the mapping.
	probes = 16
	// nowhere is a stream that there is not: what is expected there is refused, and leaves no trace.
	nowhere = "WEFT_DOCTOR"
	// doctors is the tenant of the addresses.
	doctors = "weft-doctor"
	// waiting is how many messages may wait for a stage before that is worth a word.
	waiting = 10_000
	// atOnce is how many streams are asked for at once.
	atOnce = 16
)

// mapping sends some subjects through the server's mapping and compares the partition with the one that services compute.
// The messages expect to land in a stream that does not exist, so none is kept.
func (e *exam) mapping(ctx context.Context) {
	for i := range probes {
		to := subject.UserAddress(doctors, fmt.Sprintf("probe-%d", i))
		mapped, err := e.mapped(ctx, to)
		if err != nil {
			e.note("mapping", Unknown, "let this user publish to weft.in.> and subscribe to weft.inp.>", "what the server maps can't be seen: %v", err)
			return
		}
		if mapped == "" {
			e.note("mapping", Failure, fmt.Sprintf("add the mapping %s → %s to the account (nats/server.conf shows it)", subject.InMapping, subject.PartitionMapping(e.facts.Partitions)),
				"the server maps nothing from %s: what is published there goes nowhere", subject.InMapping)
			return
		}
		if want := subject.InPartition(subject.Partition(to, e.facts.Partitions), to); mapped != want {
			e.note("mapping", Failure, fmt.Sprintf("map %s to %s", subject.InMapping, subject.PartitionMapping(e.facts.Partitions)),
				"the server maps %s to %s; the services expect %s", subject.In(to), mapped, want)
			return
		}
	}
	e.ok("mapping", "%d of %d subjects are mapped as the services compute, to %d partitions", probes, probes, e.facts.Partitions)
}

// mapped is the subject that the server maps an address's stream door to; empty where it maps it to none.
func (e *exam) mapped(ctx context.Context, to subject.Address) (string, error) {
	sub, err := e.nc.SubscribeSync(subject.InAnyPartition(to))
	if err != nil {
		return "", err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails on a connection that is closed
	m := &nats.Msg{Subject: subject.In(to), Data: []byte("0"), Header: nats.Header{jetstream.ExpectedStreamHeader: {nowhere}}}
	if err := e.nc.PublishMsg(m); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	seen, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return "", nil // nothing came
	}
	return seen.Subject, nil
}

// asked is a stream as it should be and as it is.
type asked struct {
	want        fabric.Stream
	is          jetstream.Stream
	err         error
	from, until time.Time // when it was asked for, and when it answered
}

// streams compares each stream and consumer with its definition.
func (e *exam) streams(ctx context.Context) {
	replicas := 1
	for _, c := range e.checks {
		replicas = max(replicas, c.Replicas)
	}
	well, consumers, before := 0, 0, len(e.findings)
	for _, s := range e.lookUp(ctx, fabric.Streams(e.facts, fabric.Options{Replicas: replicas, MaxPayload: e.nc.MaxPayload()})) {
		switch name := s.want.Config.Name; {
		case errors.Is(s.err, jetstream.ErrStreamNotFound):
			e.note("streams", Failure, "start a collect, or restart one of those that run: it makes what is missing as it starts", "the stream %s is missing", name)
			continue
		case s.err != nil:
			e.note("streams", Failure, "look whether all NATS servers run: without a majority of its replicas a stream stands still", "the stream %s does not answer: %v", name, s.err)
			continue
		case e.stream(s.want, s.is.CachedInfo()):
			well++
		}
		e.showedStream(s.is.CachedInfo(), s.from, s.until)
		for _, c := range s.want.Consumers {
			if e.consumer(ctx, s.is, c) {
				consumers++
			}
		}
	}
	if len(e.findings) == before {
		e.ok("streams", "%d streams are as they should be, with %s each", well, counted(replicas, "replica"))
		e.ok("consumers", "%d consumers are there and keep up", consumers)
	}
}

// lookUp asks for streams, some at once: those that do not answer take their time.
func (e *exam) lookUp(ctx context.Context, wanted []fabric.Stream) []asked {
	answers := make([]asked, len(wanted))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, want := range wanted {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, step)
			defer cancel()
			from := time.Now()
			is, err := e.js.Stream(ctx, want.Config.Name)
			answers[i] = asked{want: want, is: is, err: err, from: from, until: time.Now()}
			return nil
		})
	}
	_ = group.Wait() // none fails
	return answers
}

// stream compares one, and says whether it is as it should be.
func (e *exam) stream(want fabric.Stream, info *jetstream.StreamInfo) bool {
	got, c := info.Config, want.Config
	var wrong []string
	for _, d := range []struct {
		same bool
		what string
	}{
		{slices.Equal(got.Subjects, c.Subjects), fmt.Sprintf("subjects %v instead of %v", got.Subjects, c.Subjects)},
		{got.Retention == c.Retention, fmt.Sprintf("retention %s instead of %s", got.Retention, c.Retention)},
		{got.Storage == c.Storage, "not on file"},
		{got.Discard == c.Discard, fmt.Sprintf("discards the %s at its limits", got.Discard)},
		{!got.NoAck, "answers no publisher"},
		{got.Replicas == c.Replicas, fmt.Sprintf("%d replicas instead of %d", got.Replicas, c.Replicas)},
		{got.MaxAge == c.MaxAge, fmt.Sprintf("keeps %s instead of %s", got.MaxAge, c.MaxAge)},
		{got.Duplicates == c.Duplicates, fmt.Sprintf("a duplicate window of %s instead of %s", got.Duplicates, c.Duplicates)},
		{!got.AllowRollup && !got.AllowMsgTTL, "lets publishers remove messages (roll-ups or TTLs)"},
		{got.MaxMsgs == c.MaxMsgs || got.MaxMsgs < 0, fmt.Sprintf("keeps only %d messages", got.MaxMsgs)},
		{got.MaxBytes == c.MaxBytes || got.MaxBytes < 0, fmt.Sprintf("keeps only %d bytes", got.MaxBytes)},
	} {
		if !d.same {
			wrong = append(wrong, d.what)
		}
	}
	if len(wrong) > 0 {
		e.note("streams", Failure, "restart a collect with the replicas that you want: it mends its streams", "%s: %s", got.Name, strings.Join(wrong, "; "))
	}
	if info.Cluster != nil && got.Replicas > 1 {
		for _, r := range info.Cluster.Replicas {
			if r.Offline || !r.Current && r.Lag > 0 {
				wrong = append(wrong, r.Name)
				e.note("streams", Warning, "look at that server: another loss stops the stream", "%s: the replica at %s is offline or %d operations behind", got.Name, r.Name, r.Lag)
			}
		}
	}
	return len(wrong) == 0
}

// consumer looks at one, and says whether it is as it should be and keeps up.
func (e *exam) consumer(ctx context.Context, stream jetstream.Stream, want jetstream.ConsumerConfig) bool {
	ctx, cancel := context.WithTimeout(ctx, step)
	defer cancel()
	name, of := want.Durable, stream.CachedInfo().Config.Name
	consumer, err := stream.Consumer(ctx, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		e.note("consumers", Failure, "start a collect, or restart one of those that run: it makes what is missing as it starts", "%s has no consumer %s: nobody reads it", of, name)
		return false
	}
	if err != nil {
		e.note("consumers", Failure, "look whether all NATS servers run", "the consumer %s of %s does not answer: %v", name, of, err)
		return false
	}
	info := consumer.CachedInfo()
	if info.Paused {
		e.note("consumers", Failure, fmt.Sprintf("nats consumer resume %s %s", of, name), "somebody has paused the consumer %s of %s: nobody reads it", name, of)
		return false
	}
	if got := info.Config; got.MaxDeliver != want.MaxDeliver || got.FilterSubject != want.FilterSubject || got.AckPolicy != want.AckPolicy {
		e.note("consumers", Failure, "restart a collect: it mends its consumers", "the consumer %s of %s delivers %d times, acknowledged %s, of %q; the services need %d, %s, %q",
			name, of, got.MaxDeliver, got.AckPolicy, got.FilterSubject, want.MaxDeliver, want.AckPolicy, want.FilterSubject)
		return false
	}
	if n := info.NumPending; n > waiting {
		e.note("consumers", Warning, "look whether those who read it run and what their logs say; if they do, add some", "%d messages of %s wait for its consumer %s", n, of, name)
		return false
	}
	return true
}

// owners looks whether every partition is worked on, by somebody who lives.
func (e *exam) owners(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, step)
	defer cancel()
	owned, err := partition.Owners(ctx, e.js, e.facts.Partitions, "collect", "dispatch")
	if err != nil {
		e.note("owners", Unknown, "let this user read the bucket "+fabric.OwnersBucket, "who works on which partition can't be seen: %v", err)
		return
	}
	for _, stage := range []string{"collect", "dispatch"} {
		var without []int
		instances := map[string]bool{}
		for p, owner := range owned[stage] {
			if owner == "" {
				without = append(without, p)
			} else {
				instances[owner] = true
			}
		}
		if len(without) > 0 || len(owned[stage]) == 0 {
			e.note("owners", Failure, fmt.Sprintf("start a %s, or look into the logs of those that run", stage), "no living %s has the partitions %v", stage, without)
			continue
		}
		living, err := e.living(ctx, stage)
		if err != nil {
			e.note("owners", Unknown, "let this user read the bucket "+fabric.OwnersBucket, "how many of %s live can't be seen: %v", stage, err)
			continue
		}
		// One that is there may have no partition: the instances' ids decide who has which.
		e.ok("owners", "%s of %s, owned by %d of %s", counted(e.facts.Partitions, "partition"), stage, len(instances), counted(living, "instance"))
		if living == 1 {
			e.note("owners", Warning, fmt.Sprintf("start a second %s: it takes over within 2 s", stage), "there is only one %s", stage)
		}
	}
}

// silent is how much older the last heartbeat of one that died is than the newest of all. Its key stays for minutes.
const silent = 5 * time.Second

// living is how many instances of a stage send heartbeats. Their times are the server's: no clock is compared with another.
func (e *exam) living(ctx context.Context, stage string) (int, error) {
	bucket, err := e.js.KeyValue(ctx, fabric.OwnersBucket)
	if err != nil {
		return 0, err
	}
	keys, err := bucket.ListKeysFiltered(ctx, fabric.AliveKey("*", "*"))
	if err != nil {
		return 0, err
	}
	beats, newest := map[string]time.Time{}, time.Time{}
	for key := range keys.Keys() {
		entry, err := bucket.Get(ctx, key)
		if err != nil {
			continue // it left meanwhile
		}
		beats[key] = entry.Created()
		if beats[key].After(newest) {
			newest = beats[key]
		}
	}
	n := 0
	for key, beat := range beats {
		if strings.HasPrefix(key, fabric.AliveKey(stage, "")) && newest.Sub(beat) < silent {
			n++
		}
	}
	return n, ctx.Err()
}

// counted is a count with its noun.
func counted(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// settings is what a server's monitoring says of JetStream.
type settings struct {
	Config struct {
		SyncInterval time.Duration `json:"sync_interval"` // ns
		SyncAlways   bool          `json:"sync_always"`
	} `json:"config"`
}

// durability compares what the servers do with what was asked for. They tell their settings only on their monitoring port.
func (e *exam) durability(ctx context.Context) {
	if len(e.Monitors) == 0 {
		level := OK
		if e.Durability == Power {
			level = Unknown
		}
		e.note("durability", level, "name the servers' monitoring with --monitor http://127.0.0.1:8222 to see it; sync_interval: always is what power needs",
			"*accepted* survives the death of processes; how often the servers sync, and so whether it survives power, is not known")
		return
	}
	for _, monitor := range e.Monitors {
		s, err := e.settings(ctx, monitor)
		switch {
		case err != nil:
			e.note("durability", Unknown, "look whether the server has a monitoring port (http_port) there", "%s: %v", monitor, err)
		case s.Config.SyncAlways:
			e.ok("durability", "%s syncs always: *accepted* survives a power failure", monitor)
		case e.Durability == Power:
			e.note("durability", Failure, "set jetstream { sync_interval: always } at each server", "%s syncs every %s: a power failure loses what was accepted since", monitor, s.Config.SyncInterval)
		default:
			e.ok("durability", "%s syncs every %s: *accepted* survives the death of processes, as asked", monitor, s.Config.SyncInterval)
		}
	}
}

func (e *exam) settings(ctx context.Context, monitor string) (s settings, err error) {
	ctx, cancel := context.WithTimeout(ctx, step)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(monitor, "/")+"/jsz?config=true", nil)
	if err != nil {
		return s, err
	}
	client := e.HTTP
	if client == nil {
		client = &http.Client{Timeout: step}
	}
	answer, err := client.Do(request)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return s, fmt.Errorf("it answers %s", answer.Status)
	}
	return s, json.NewDecoder(answer.Body).Decode(&s)
}
