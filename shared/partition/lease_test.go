package partition

import (
	"fmt"
	"testing"
)

// judge is an owner that knows of one other instance and has no partitions: nothing of it speaks to a server.
func judge(other *peer) *owner {
	return &owner{Config: Config{Stage: "collect", Instance: "a"}, peers: map[string]*peer{"b": other}}
}

// A stall of NATS gives an instance all its own heartbeats back at once, before those of the others.
func TestABurstOfOwnHeartbeatsIsOneTick(t *testing.T) {
	o := judge(&peer{})
	o.beat, o.await = 12, 3
	for n := uint64(1); n <= 12; n++ {
		o.own(t.Context(), change{instance: "a", value: heartbeat(n, false)})
	}
	if missed := o.peers["b"].missed; missed != 1 {
		t.Errorf("%d heartbeats of the other count as missed, want 1", missed)
	}
}

func TestAnExpiredHeartbeatProvesNothing(t *testing.T) {
	o := judge(&peer{revision: 5})
	gone := change{instance: "b", expired: true, revision: 6}
	o.other(t.Context(), gone)
	if o.peers["b"] == nil {
		t.Fatal("an instance that was alive is forgotten because its key expired")
	}
	o.peers["b"].missed = silence
	o.other(t.Context(), gone)
	if o.peers["b"] != nil {
		t.Error("a dead instance is remembered for ever")
	}
}

// The watch tells everything again when it opens anew; that does not bring anybody back to life.
func TestAnOldHeartbeatToldAgainProvesNothing(t *testing.T) {
	o := judge(&peer{revision: 5, missed: silence})
	o.other(t.Context(), change{instance: "b", value: heartbeat(9, false), revision: 5})
	if o.peers["b"].alive() {
		t.Error("an old heartbeat counts")
	}
	o.other(t.Context(), change{instance: "b", value: heartbeat(10, true), revision: 7})
	if p := o.peers["b"]; !p.alive() || !p.leaving {
		t.Errorf("a new heartbeat does not count: %+v", p)
	}
}

// The watch may tell a lease without the heartbeat of its holder.
func TestAHolderWithoutHeartbeatIsGivenTime(t *testing.T) {
	o := judge(&peer{})
	o.leases = make([]lease, 1)
	o.lease(t.Context(), change{partition: 0, value: "c", revision: 4})
	for range silence {
		if o.vacant("c") {
			t.Fatalf("the lease of an instance that was not heard of may be taken after %d heartbeats", o.peers["c"].missed)
		}
		o.peers["c"].missed++
	}
	if !o.vacant("c") {
		t.Error("the lease of a silent instance may not be taken")
	}
}

// Rendezvous hashing gives everybody about the same, and moves only what has to move.
func TestPartitionsAreSharedEvenly(t *testing.T) {
	const partitions, instances = 128, 4
	o := &owner{Config: Config{Instance: "01JD3ZC4Q0-0"}, peers: map[string]*peer{}}
	for i := 1; i < instances; i++ {
		o.peers[fmt.Sprint("01JD3ZC4Q0-", i)] = &peer{}
	}
	before, count := map[int]string{}, map[string]int{}
	for p := range partitions {
		before[p] = o.desired(p)
		count[before[p]]++
	}
	for instance, n := range count {
		if n < 16 || n > 56 { // 32 on average; the standard deviation is 5
			t.Errorf("%s has %d of %d partitions", instance, n, partitions)
		}
	}
	const gone = "01JD3ZC4Q0-2"
	o.peers[gone].missed = silence
	for p, was := range before {
		if is := o.desired(p); is == gone || was != gone && is != was {
			t.Errorf("partition %d moves from %s to %s", p, was, is)
		}
	}
}
