package partition

import (
	"context"
	"errors"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
)

// apply takes in what happened in the bucket.
func (o *owner) apply(ctx context.Context, c change) {
	switch {
	case c.opened:
		// Everything is told anew. The heartbeat that is sent now comes last: when it is back, all has been told.
		for p := range o.leases {
			o.leases[p].holder, o.leases[p].revision = "", 0
		}
		o.synced, o.await = false, o.beat+1
		o.send()
	case c.instance == "":
		o.lease(ctx, c)
	case c.instance == o.Instance:
		o.own(ctx, c)
	default:
		o.other(ctx, c)
	}
}

// lease takes in who has a partition now. A holder whose heartbeat was never seen counts as alive until it has been
// silent for long enough: the bucket keeps only the last heartbeat, and one that was replaced while the watch opened
// is told only with the next.
func (o *owner) lease(ctx context.Context, c change) {
	if c.partition >= len(o.leases) {
		return
	}
	o.leases[c.partition].holder, o.leases[c.partition].revision = c.value, c.revision
	if c.value != "" && c.value != o.Instance && o.peers[c.value] == nil {
		o.peers[c.value] = &peer{}
	}
	o.step(ctx, c.partition)
}

// own takes in an own heartbeat: the clock by which the others are judged. One counts only if it was sent after the
// last one that counted came back: the heartbeats of a stall of NATS all come back at once, before those of the others.
func (o *owner) own(ctx context.Context, c change) {
	if n, _ := parseHeartbeat(c.value); n < o.await {
		return
	}
	o.synced, o.await = true, o.beat+1
	for _, p := range o.peers {
		p.missed++
	}
	o.stepAll(ctx)
}

// other takes in a heartbeat of another instance, or its end.
func (o *owner) other(ctx context.Context, c change) {
	p, known := o.peers[c.instance]
	switch {
	case c.expired && known && p.alive():
		// After a stall of NATS the heartbeats of everybody expire at once. That proves nothing.
	case c.value == "":
		delete(o.peers, c.instance)
		o.stepAll(ctx)
	case !known || p.revision != c.revision: // the watch tells old ones again when it is opened anew
		_, leaving := parseHeartbeat(c.value)
		o.peers[c.instance] = &peer{revision: c.revision, leaving: leaving}
		if !known || !p.alive() || p.leaving != leaving {
			o.stepAll(ctx)
		}
	}
}

func (o *owner) stepAll(ctx context.Context) {
	for p := range o.leases {
		o.step(ctx, p)
	}
}

// step does the next thing for a partition. It may be called at any time, any number of times.
func (o *owner) step(ctx context.Context, p int) {
	if !o.synced {
		return
	}
	l := &o.leases[p]
	mine := l.holder == o.Instance
	wanted := !o.leaving && !time.Now().Before(l.until) && o.desired(p) == o.Instance
	switch {
	case l.end != nil:
		if !mine || !wanted {
			l.end() // finish comes back here when the work has ended
		}
	case mine && wanted:
		o.begin(ctx, p)
	case mine:
		o.free(p)
	case wanted && o.vacant(l.holder):
		o.take(p)
	}
}

// desired is the instance that should own a partition: the one with the highest score among those alive. When one
// comes or goes, only its own partitions move.
func (o *owner) desired(p int) string {
	best, most := "", uint64(0)
	if !o.leaving {
		best, most = o.Instance, score(p, o.Instance)
	}
	for instance, peer := range o.peers {
		if !peer.alive() || peer.leaving {
			continue
		}
		if s := score(p, instance); best == "" || s > most || s == most && instance < best {
			best, most = instance, s
		}
	}
	return best
}

// score is a hash of partition and instance. FNV alone gives similar names similar scores; the end of splitmix64
// spreads them.
func score(p int, instance string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(strconv.Itoa(p) + "." + instance))
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// vacant says whether a lease may be taken: nobody has it, or somebody who is dead or has left.
func (o *owner) vacant(holder string) bool {
	p, known := o.peers[holder]
	return holder == "" || !known || !p.alive()
}

// take asks for a lease by compare-and-set: of all who ask, one gets it, and the watch tells whose it is.
func (o *owner) take(p int) {
	l := &o.leases[p]
	if l.holder != "" {
		o.Log.Info("taking over a partition", "stage", o.Stage, "partition", p, "from", l.holder)
	}
	o.publish(fabric.LeaseKey(o.Stage, p), o.Instance, at(l.revision))
}

// free gives a lease back, unless somebody has taken it meanwhile.
func (o *owner) free(p int) {
	header := at(o.leases[p].revision)
	header.Set(opHeader, opDelete)
	o.publish(fabric.LeaseKey(o.Stage, p), "", header)
}

// at makes a write hold only if the key has this revision still.
func at(revision uint64) nats.Header {
	return nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(revision, 10)}}
}

// begin starts the work on a partition.
func (o *owner) begin(ctx context.Context, p int) {
	l := &o.leases[p]
	term, end := context.WithCancel(ctx)
	l.end, l.begun = end, time.Now()
	o.working++
	o.Log.Debug("partition begun", "stage", o.Stage, "partition", p)
	go func() { // run does not return before it has received the end of every term
		err := o.work(term, p)
		if term.Err() != nil {
			err = nil // it was told to end
		} else if err == nil {
			err = errEarly
		}
		o.ended <- ended{p, err}
	}()
}

var errEarly = errors.New("the work returned although nobody ended it")

// finish takes in the end of a term. A partition whose work failed rests, longer each time it fails soon again.
func (o *owner) finish(e ended) {
	l := &o.leases[e.partition]
	l.end()
	l.end = nil
	o.working--
	if e.err == nil {
		l.rest = 0
		o.Log.Debug("partition ended", "stage", o.Stage, "partition", e.partition)
		return
	}
	if time.Since(l.begun) > longRest {
		l.rest = 0
	}
	l.rest = min(max(2*l.rest, shortRest), longRest)
	l.until = time.Now().Add(l.rest)
	o.Log.Warn("partition given up", "stage", o.Stage, "partition", e.partition, "err", e.err, "rest", l.rest)
}
