package doctor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/admin"
)

func TestClocksThatAreOff(t *testing.T) {
	const minute = time.Minute
	for name, c := range map[string]struct {
		nats, collect, node time.Duration // ahead of this machine
		level               Level
		words               string
	}{
		"all are right":      {0, time.Second, -time.Second, OK, "all clocks"},
		"a NATS server's":    {minute, 0, 0, Warning, "the NATS server n1 is 1m"},
		"a collect's":        {0, -minute, time.Second, Warning, "collect at a is 1m"},
		"a push node's":      {0, 0, minute, Warning, "push node at b is 1m"},
		"this machine's":     {minute, minute + time.Second, minute, Warning, "this machine's clock is 1m"},
		"this one's, behind": {-minute, -minute, -minute, Warning, "this machine's clock is 1m"},
		"two are wrong":      {minute, -minute, 0, Warning, "1m"},
	} {
		now := time.Now()
		e := &exam{
			asked: now, heard: now,
			checks: []admin.CheckAnswer{{Host: "a", Now: now.Add(c.collect).UnixMilli()}},
			nodes:  []admin.NodeAnswer{{Host: "b", Now: now.Add(c.node).UnixMilli()}},
		}
		e.showedStream(&jetstream.StreamInfo{TimeStamp: now.Add(c.nats), Cluster: &jetstream.ClusterInfo{Leader: "n1"}}, now, now)
		e.showedStream(&jetstream.StreamInfo{}, now, now) // a server that does not say it
		e.compareClocks()
		if f := e.findings; len(f) != 1 || f[0].Area != "clocks" || f[0].Level != c.level || !strings.Contains(f[0].What, c.words) || (f[0].Remedy == "") != (c.level == OK) {
			t.Errorf("%s: %s", name, fmt.Sprint(f))
		}
	}
}
