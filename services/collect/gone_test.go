package collect

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

// TestANodeThatReportsBeforeItIsAsked: a node that was cut off and has said something of one user has not said whom else
// it has. It is asked.
func TestANodeThatReportsBeforeItIsAsked(t *testing.T) {
	w := newWorld(t)
	w.start(offlineAfter(0))
	cut := w.standIn("cut")
	cut.says(true, alice)
	w.expectLine(alice, "1 online ")
	<-cut.asked // it was probed
	if err := cut.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	w.expectLine(alice, "1 online 2 offline ")
	cut.says(true, bob)
	w.eventually("the node is heard", func() bool {
		nodes, err := w.archive.Nodes(t.Context())
		return err == nil && len(nodes) == 1 && !nodes[0].Silent
	})
	back := w.standIn("cut")
	w.eventually("the node is asked to report", func() bool {
		select {
		case op := <-back.asked:
			return op == node.Report
		default:
			return false
		}
	})
}

// TestManyNodesThatHang are asked soon enough for the round to count: one that takes long looks like a collect that was away,
// and then nobody is judged.
func TestManyNodesThatHang(t *testing.T) {
	w := newWorld(t)
	var nodes []archive.Node
	for i := range 100 {
		id := fmt.Sprint("node-", i)
		if _, err := w.nc.SubscribeSync(subject.NodeControl(id)); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, archive.Node{ID: id})
	}
	p := &prober{Service: w.settler().Service, looked: time.Now()}
	begun := time.Now()
	answers := p.probe(t.Context(), nodes)
	if ended := time.Now(); p.wasAway(begun, ended) {
		t.Errorf("it counts as away: the round took %s", ended.Sub(begun))
	}
	for i, err := range answers {
		if err == nil {
			t.Errorf("%s answered", nodes[i].ID)
		}
	}
}

// TestACollectThatIsCutOffJudgesNobody: the part of a cluster that it is connected to has no majority, and the nodes are in
// the other one.
func TestACollectThatIsCutOffJudgesNobody(t *testing.T) {
	w := newWorld(t)
	r := archive.Report{Node: "beyond", Presence: ledger.Presence{Number: 1, Users: []ledger.Seen{{User: alice.Tokens(), On: true}}}}
	if err := w.archive.Report(t.Context(), []archive.Report{r}, time.Now(), 0); err != nil {
		t.Fatal(err)
	}
	p := &prober{Service: w.settler().Service}
	silent := func() bool {
		p.heard, p.looked = map[string]time.Time{"beyond": time.Now().Add(-deadAfter - time.Second)}, time.Now()
		err := p.round(t.Context())
		nodes, failure := w.archive.Nodes(t.Context())
		if failure != nil || len(nodes) != 1 || nodes[0].Silent != (err == nil) {
			t.Fatalf("%v, %v; %v", nodes, failure, err)
		}
		return nodes[0].Silent
	}
	if silent() { // no server answers for the stream of reports
		t.Error("a node is given up by a collect that is cut off")
	}
	if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: fabric.AckStream, Subjects: []string{subject.PresenceAll}}); err != nil {
		t.Fatal(err)
	}
	if !silent() {
		t.Error("a node that is gone is not given up")
	}
}
