package dispatch

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

// reported is what lies in WEFT_ACK, in order.
func (w *world) reported(r *running) (all []ledger.Routed) {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), fabric.AckStream)
	if err != nil {
		w.t.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		m, err := s.GetMsg(w.t.Context(), seq)
		if err != nil {
			w.t.Fatal(err)
		}
		var some []ledger.Routed
		if err := json.Unmarshal(m.Data, &some); err != nil {
			w.t.Fatal(err)
		}
		if m.Subject != subject.Routed(r.id) || m.Header.Get(history.HeaderEpoch) != epoch {
			w.t.Errorf("a report on %s with %v", m.Subject, m.Header)
		}
		all = append(all, some...)
	}
	return all
}

// covered are the sequences of an address that were reported, with their nodes, each once.
func covered(t *testing.T, reports []ledger.Routed, to subject.Address) map[uint64][]string {
	t.Helper()
	nodes := map[uint64][]string{}
	for _, r := range reports {
		if r.Address != to.Tokens() {
			continue
		}
		for seq := r.From; seq <= r.To; seq++ {
			if _, twice := nodes[seq]; twice {
				t.Errorf("%s/%d was reported twice", to, seq)
			}
			slices.Sort(r.Nodes)
			nodes[seq] = r.Nodes
		}
	}
	return nodes
}

// TestWhatWasRoutedIsTold with the nodes that have it, after they have it, and the rest when dispatch stops.
func TestWhatWasRoutedIsTold(t *testing.T) {
	w := newWorld(t)
	w.node("x", true, address(1), address(2))
	w.node("y", true, address(2))
	r := w.start()
	const n = 50
	begun := time.Now().UnixMilli()
	for range n {
		w.log(address(1), "1")
		w.log(address(2), "2")
		w.log(address(3), "nobody has it")
	}
	w.drained()
	w.eventually("told", func() bool { return len(covered(t, w.reported(r), address(3))) == n })
	w.log(address(1), "the last")
	w.drained()
	r.stop()
	reports := w.reported(r)
	for to, want := range map[subject.Address][]string{address(1): {"x"}, address(2): {"x", "y"}, address(3): nil} {
		got := covered(t, reports, to)
		if len(got) < n || len(got) > n+1 || (to == address(1)) != (len(got) == n+1) {
			t.Errorf("%d messages of %s were told", len(got), to)
		}
		for seq, nodes := range got {
			if !slices.Equal(nodes, want) {
				t.Errorf("%s/%d was told to have gone to %v, want %v", to, seq, nodes, want)
			}
		}
	}
	for _, one := range reports {
		if one.At < begun || one.At > time.Now().UnixMilli() {
			t.Errorf("%+v was not then", one)
		}
	}
}

// TestASilentNodeIsNotTold: it has not said that it has the message.
func TestASilentNodeIsNotTold(t *testing.T) {
	w := newWorld(t)
	w.node("x", true, address(1))
	w.node("silent", true, address(1)).set(true)
	r := w.start(silence(brief))
	w.log(address(1), "1")
	w.drained()
	r.stop()
	if got := covered(t, w.reported(r), address(1)); !reflect.DeepEqual(got, map[uint64][]string{1: {"x"}}) {
		t.Errorf("told: %v", got)
	}
}

// TestReportsWaitForTheStream: what it does not take is told later, and the routing goes on meanwhile.
func TestReportsWaitForTheStream(t *testing.T) {
	w := newWorld(t)
	w.node("x", true, address(1))
	r := w.start()
	limit := func(bytes int64) {
		s, err := w.js.Stream(t.Context(), fabric.AckStream)
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		c.MaxBytes, c.Discard = bytes, jetstream.DiscardNew
		if _, err := w.js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	w.log(address(1), "1")
	w.drained()
	w.eventually("seen that the stream refuses", func() bool { return r.log.count("tell what was routed") > 0 })
	w.log(address(1), "2")
	w.drained()
	limit(-1)
	w.eventually("told", func() bool { return len(covered(t, w.reported(r), address(1))) == 2 })
}

// TestReportsAreJoined into ranges that say neither more nor another time than is so.
func TestReportsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReports(epoch)
		a, b := address(1), address(2)
		begun := time.Now().UnixMilli()
		route := func(to subject.Address, seq uint64, nodes ...string) {
			r.note([]routed{{to: to, seq: seq, encoded: []byte{1}}}, map[subject.Address][]string{to: nodes}, []string{"silent"})
		}
		route(a, 1, "x")
		route(b, 7)
		route(a, 2, "x", "silent")
		<-time.After(500 * time.Millisecond)
		route(a, 3, "x")
		<-time.After(501 * time.Millisecond)
		route(a, 4, "x") // 1,001 ms after the first
		route(a, 5, "y") // elsewhere
		route(a, 7, "y") // a hole
		route(a, 7, "y") // once more
		r.note([]routed{{}}, nil, nil)
		var got []string
		spans, _ := r.take()
		for _, s := range spans {
			got = append(got, fmt.Sprint(s.to, " ", s.from, "-", s.upTo, " +", s.last-begun, " ", s.nodes))
		}
		want := []string{
			"user:u1 1-3 +500 [x]", "user:u2 7-7 +0 []", "user:u1 4-4 +1001 [x]", "user:u1 5-5 +1001 [y]", "user:u1 7-7 +1001 [y]", "user:u1 7-7 +1001 [y]",
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if again, _ := r.take(); len(again) > 0 {
			t.Errorf("%v again", again)
		}
	})
}

// TestReportsAreBounded, in number and in the size of their messages.
func TestReportsAreBounded(t *testing.T) {
	r := newReports(epoch)
	batch := []routed{{to: address(1), encoded: []byte{1}}}
	nodes := map[subject.Address][]string{address(1): make([]string, 100)}
	for i := range nodes[address(1)] {
		nodes[address(1)][i] = nats.NewInbox()
	}
	for i := range reportMost + 10 {
		batch[0].seq = uint64(2 * i)
		r.note(batch, nodes, nil)
	}
	spans, forgotten := r.take()
	if len(spans) != reportMost || forgotten != 10 {
		t.Fatalf("%d are kept, %d forgotten", len(spans), forgotten)
	}
	select {
	case <-r.soon:
	default:
		t.Error("nobody is told that there is enough")
	}
	for told := 0; told < 200; {
		n, body, err := encodeSpans(spans[told:])
		if err != nil || n == 0 || len(body) > reportBytes+10_000 {
			t.Fatalf("%d in %d bytes, %v", n, len(body), err)
		}
		var back []ledger.Routed
		if err := json.Unmarshal(body, &back); err != nil || len(back) != n || back[0].From != uint64(2*told) {
			t.Fatalf("%d came back of %d, %v", len(back), n, err)
		}
		told += n
	}
}
