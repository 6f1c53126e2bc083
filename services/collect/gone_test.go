package collect

import (
	"testing"

	"github.com/weftpush/weft/shared/node"
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
