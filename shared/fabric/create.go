package fabric

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/problem"
)

const (
	metaEpoch      = "weft.epoch"
	metaPartitions = "weft.partitions"

	// parallel is how many requests Create has under way: a cluster of three takes some 10 ms for each of the four
	// things of a partition.
	parallel = 8
	// leastPayload is the least max_payload of a server, in bytes: frames and pages are cut to fit it.
	leastPayload = 1 << 20
	// poll is how often Wait looks, and patience how long one look may take.
	poll     = 100 * time.Millisecond
	patience = 2 * time.Second
	// electing is how long Create waits for a cluster that has just started: nobody answers before it has elected a
	// leader (some 5 s), who then does not know all servers at once.
	electing = 15 * time.Second
)

func (f Facts) metadata() map[string]string {
	return map[string]string{metaEpoch: f.Epoch, metaPartitions: strconv.Itoa(f.Partitions)}
}

// factsOf reads a stream's metadata; a stream that is not ours has no partitions.
func factsOf(metadata map[string]string) Facts {
	partitions, _ := strconv.Atoi(metadata[metaPartitions])
	return Facts{Epoch: metadata[metaEpoch], Partitions: partitions}
}

// Create makes the fabric, or brings one that exists up to date; any number of collects may do so at once. A fabric
// with another number of partitions is refused with problem.WrongPartition and left alone. The bucket comes last: whoever
// sees it sees a whole fabric. A cluster that has just started is waited for, up to 15 s; after any other error, or when
// that was not enough, it may be called again.
func Create(ctx context.Context, js jetstream.JetStream, f Facts, o Options) error {
	if f.Partitions < 1 || f.Epoch == "" {
		return fmt.Errorf("create the fabric: %+v is not complete", f)
	}
	if o.MaxPayload < leastPayload || o.MaxPayload > math.MaxInt32 {
		return problem.New(problem.Unsupported, "the NATS server's max_payload is %d bytes; frames and pages need at least %d, its default", o.MaxPayload, leastPayload)
	}
	if err := claimed(ctx, js, f, o); err != nil {
		return err
	}
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, s := range Streams(f, o) {
		group.Go(func() error { return s.create(each, js) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err := js.CreateKeyValue(ctx, Owners(f, o))
	if errors.Is(err, jetstream.ErrBucketExists) {
		_, err = js.UpdateKeyValue(ctx, Owners(f, o))
	}
	if err != nil {
		return fmt.Errorf("create the bucket %s: %w", OwnersBucket, err)
	}
	return nil
}

// claimed claims the fabric, and tries again while that fails as it does in a cluster without a leader. The last error
// tells what is missing.
func claimed(ctx context.Context, js jetstream.JetStream, f Facts, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, electing)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		trying, done := context.WithTimeout(ctx, patience)
		err := claim(trying, js, f, o)
		done()
		if err == nil || !unready(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// unready says whether an error may be that of a cluster that has no leader yet, or whose leader does not see the
// others yet: no answer, "temporarily unavailable", "no suitable peers".
func unready(err error) bool {
	var api jetstream.JetStreamError
	if errors.As(err, &api) && api.APIError() != nil {
		code := api.APIError().ErrorCode
		return code == noPeers || code == notAvailable
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders)
}

// Error codes of the server that nats.go has no names for.
const (
	noPeers      jetstream.ErrorCode = 10005
	notAvailable jetstream.ErrorCode = 10008
	notUnique    jetstream.ErrorCode = 10100
)

// claim creates the first stream, or compares its facts. The server lets one of several creators with different
// configurations win.
func claim(ctx context.Context, js jetstream.JetStream, f Facts, o Options) error {
	_, err := js.CreateStream(ctx, root(f, o).Config)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create the stream %s: %w", AckStream, err)
	}
	stream, err := js.Stream(ctx, AckStream)
	if err != nil {
		return fmt.Errorf("look up the stream %s: %w", AckStream, err)
	}
	there := factsOf(stream.CachedInfo().Config.Metadata)
	if there.Partitions != f.Partitions {
		return problem.New(problem.WrongPartition,
			"the fabric in NATS has %d partitions, the archive %d; start with the archive that belongs to this NATS, or with an empty NATS",
			there.Partitions, f.Partitions)
	}
	return nil
}

// create makes the stream and its consumer. It updates only a stream that differs: nats-server 2.15.2 has a data race
// between the update of a stream and the creation of its consumer, which other collects may be at.
func (s Stream) create(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.CreateStream(ctx, s.Config)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		stream, err = js.UpdateStream(ctx, s.Config)
	}
	if err != nil {
		return fmt.Errorf("create the stream %s: %w", s.Config.Name, err)
	}
	for _, c := range s.Consumers {
		if err := createConsumer(ctx, stream, c); err != nil {
			return fmt.Errorf("create the consumer %s of %s: %w", c.Durable, s.Config.Name, err)
		}
	}
	return nil
}

// createConsumer makes a consumer. One of everything, as AckStream had it before, goes first: a work queue gives each
// message to one consumer.
func createConsumer(ctx context.Context, stream jetstream.Stream, c jetstream.ConsumerConfig) error {
	_, err := stream.CreateOrUpdateConsumer(ctx, c)
	var api jetstream.JetStreamError
	if !errors.As(err, &api) || api.APIError() == nil || api.APIError().ErrorCode != notUnique || c.FilterSubject == "" {
		return err
	}
	if err := stream.DeleteConsumer(ctx, CollectConsumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("in place of %s: %w", CollectConsumer, err)
	}
	_, err = stream.CreateOrUpdateConsumer(ctx, c)
	return err
}

// Wait returns the facts of the fabric as soon as it is complete. Until then, and while NATS does not answer, it waits
// in silence; it fails only when ctx ends.
func Wait(ctx context.Context, js jetstream.JetStream) (Facts, error) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	var missing error
	for {
		f, err := look(ctx, js)
		if err == nil {
			return f, nil
		}
		if ctx.Err() == nil || missing == nil { // a look that was cut short says nothing
			missing = err
		}
		select {
		case <-ctx.Done():
			return Facts{}, fmt.Errorf("wait for the fabric: %w; at last: %w", ctx.Err(), missing)
		case <-ticker.C:
		}
	}
}

// Known returns the facts of a fabric, of which streams may be missing. It fails where there is none.
func Known(ctx context.Context, js jetstream.JetStream) (Facts, error) {
	bucket, err := js.Stream(ctx, "KV_"+OwnersBucket)
	if err != nil {
		return Facts{}, fmt.Errorf("look up the bucket %s: %w", OwnersBucket, err)
	}
	f := factsOf(bucket.CachedInfo().Config.Metadata)
	if f.Partitions == 0 {
		return Facts{}, fmt.Errorf("the bucket %s says nothing about partitions", OwnersBucket)
	}
	return f, nil
}

// look returns the facts of a complete fabric, or what is missing.
func look(ctx context.Context, js jetstream.JetStream) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	f, err := Known(ctx, js)
	if err != nil {
		return Facts{}, err
	}
	there := map[string]bool{}
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		there[name] = true
	}
	if err := names.Err(); err != nil {
		return Facts{}, fmt.Errorf("list the streams: %w", err)
	}
	for _, s := range Streams(f, Options{}) {
		if !there[s.Config.Name] {
			return Facts{}, fmt.Errorf("the stream %s is missing", s.Config.Name)
		}
	}
	return f, nil
}
