package partition

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
)

const (
	// DefaultBeat is how often an instance says that it is alive: taken over in 2 s after a kill.
	DefaultBeat = 500 * time.Millisecond
	// silence is how many of its own heartbeats an instance sees come back without one of another until it holds the
	// other for dead.
	silence = 4
	// keep is how long NATS keeps the last heartbeat of an instance.
	keep = time.Minute
	// shortRest and longRest bound how long a partition rests after its work failed; the rest doubles each time.
	shortRest = time.Second
	longRest  = 15 * time.Second
	// farewell bounds how long a stopping instance waits for NATS to have its last words.
	farewell = time.Second
)

// Config says who owns what.
type Config struct {
	Stage      string        // collect or dispatch; [A-Za-z0-9_-]+
	Instance   string        // new at every start; [A-Za-z0-9_-]+
	Partitions int           // of the fabric
	Beat       time.Duration // 0 is DefaultBeat; all instances of a stage should have the same
	Log        *slog.Logger
}

var name = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func (c *Config) check() error {
	if !name.MatchString(c.Stage) || !name.MatchString(c.Instance) || c.Partitions < 1 {
		return fmt.Errorf("own partitions: stage %q, instance %q or %d partitions can't be", c.Stage, c.Instance, c.Partitions)
	}
	if c.Beat == 0 {
		c.Beat = DefaultBeat
	}
	return nil
}

// Work is what an owner does with a partition. It returns soon after ctx ends; an earlier return gives the partition
// up, and it is tried again after a rest.
type Work func(ctx context.Context, p int) error

// Own calls work for each partition that this instance owns, in a goroutine each, and never twice for one partition
// at a time. It shares the partitions with all instances that call it for the same stage (rendezvous hashing over
// those alive). When ctx ends, it ends all work, waits for it, gives its leases back and returns nil.
//
// An instance is dead when this one saw silence of its own heartbeats come back from NATS since the other's last: no
// clocks are compared, and while NATS is stalled nobody dies. A partition of a dead instance is taken over in about
// silence × Beat. An owner that can't reach NATS goes on; what stops it is another's name in the lease.
func Own(ctx context.Context, js jetstream.JetStream, c Config, work Work) error {
	if err := c.check(); err != nil {
		return err
	}
	o := &owner{
		Config: c, js: js, work: work,
		leases: make([]lease, c.Partitions),
		peers:  map[string]*peer{},
		ended:  make(chan ended),
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx)) // it outlives ctx: the last leases are still given back
	changes := make(chan change)
	var watcher sync.WaitGroup
	watcher.Go(func() { watch(watching, js, c, changes) })
	o.run(ctx, changes)
	stop()
	watcher.Wait()
	return nil
}

// owner is the state of Own. All of it belongs to the goroutine that runs run; what happens elsewhere arrives there
// as a change (from the bucket) or as an ended (from work).
type owner struct {
	Config
	js   jetstream.JetStream
	work Work

	leases  []lease          // by partition
	peers   map[string]*peer // the other instances whose heartbeats were seen, the dead ones too
	synced  bool             // leases and peers are what the bucket says
	leaving bool             // ctx has ended

	beat  uint64 // number of the heartbeat sent last
	await uint64 // number of the one that counts as time when it comes back

	ended   chan ended
	working int // terms that have not ended
}

// lease is what this instance knows of one partition.
type lease struct {
	holder   string             // empty: free
	revision uint64             // of the key; 0: never written
	end      context.CancelFunc // ends the work under way; nil when there is none
	begun    time.Time
	rest     time.Duration // after a failure; 0 after work that held
	until    time.Time     // no work before
}

// peer is another instance.
type peer struct {
	revision uint64 // of its last heartbeat
	missed   int    // own heartbeats that have come back since
	leaving  bool   // it wants no partitions any more
}

func (p *peer) alive() bool { return p.missed < silence }

// ended is the return of work.
type ended struct {
	partition int
	err       error
}

func (o *owner) run(ctx context.Context, changes <-chan change) {
	ticker := time.NewTicker(o.Beat)
	defer ticker.Stop()
	stopped := ctx.Done()
	for !o.leaving || o.working > 0 {
		select {
		case <-stopped:
			stopped = nil
			o.leaving = true // the work ends by itself: its contexts are children of ctx
			o.send()
		case <-ticker.C:
			o.send()
		case c := <-changes:
			o.apply(ctx, c)
		case e := <-o.ended:
			o.finish(e)
			o.step(ctx, e.partition)
		}
	}
	o.leave()
}

// send publishes a heartbeat. Its answer is that it comes back through the watch.
func (o *owner) send() {
	if !o.js.Conn().IsConnected() {
		return // the client library would keep it and send all of them at once when it is connected again
	}
	o.beat++
	o.publish(fabric.AliveKey(o.Stage, o.Instance), heartbeat(o.beat, o.leaving), nats.Header{jetstream.MsgTTLHeader: {keep.String()}})
}

// publish writes a key of the bucket without waiting for an answer. nats.go's own Put can't set a TTL, and a request
// would block the one goroutine that watches everything: whether a write was done shows in the watch. A write that is
// lost is written again at one of the next heartbeats.
func (o *owner) publish(key, value string, header nats.Header) {
	m := &nats.Msg{Subject: keySubject(key), Header: header, Data: []byte(value)}
	if err := o.js.Conn().PublishMsg(m); err != nil {
		o.Log.Debug("bucket not written", "key", key, "err", err)
	}
}

// leave gives everything back that is still in this instance's name.
func (o *owner) leave() {
	for p := range o.leases {
		if o.leases[p].holder == o.Instance {
			o.free(p)
		}
	}
	o.publish(fabric.AliveKey(o.Stage, o.Instance), "", nats.Header{opHeader: {opDelete}, jetstream.MsgTTLHeader: {keep.String()}})
	if err := o.js.Conn().FlushTimeout(farewell); err != nil {
		o.Log.Warn("leases not given back; the others wait until they hold this instance for dead", "err", err)
	}
}
