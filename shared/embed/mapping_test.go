package embed_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/subject"
)

// addresses are of every kind, with ids that stand for themselves and ids that need an encoding.
func addresses() []subject.Address {
	var all []subject.Address
	for i := range 80 {
		tenant := []string{"default", "acme", "tenant with spaces", "ü"}[i%4]
		all = append(all,
			subject.UserAddress(tenant, fmt.Sprint("user-", i)),
			subject.UserAddress(tenant, strings.Repeat("長.*> ", i%12+1)),
			subject.Address{Tenant: tenant, Kind: subject.Topic, ID: fmt.Sprintf("octokit/webhooks[bot].%d", i)},
			subject.Address{Tenant: fmt.Sprint("t", i), Kind: subject.All})
	}
	return all
}

func TestOurPartitionIsTheServers(t *testing.T) {
	for _, partitions := range []int{1, 4, 16} {
		_, js := startFabric(t, partitions)
		ctx := within(t, patience)
		used := map[int]bool{}
		for _, a := range addresses() {
			if err := a.Check(); err != nil {
				t.Fatal(err)
			}
			p := subject.Partition(a, partitions)
			used[p] = true
			ack, err := js.Publish(ctx, subject.In(a), []byte("1"))
			if err != nil {
				t.Fatalf("%s: %v", a, err)
			}
			if ack.Stream != fabric.InStream(p) {
				t.Errorf("P=%d: %s is in %s; ours is %s", partitions, subject.In(a), ack.Stream, fabric.InStream(p))
			}
		}
		if len(used) != partitions {
			t.Errorf("P=%d: the addresses use %d partitions only", partitions, len(used))
		}
		stream, err := js.Stream(ctx, fabric.InStream(0))
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.GetMsg(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		tokens, ok := subject.Cut(m.Subject)
		a, err := subject.ParseTokens(tokens)
		if !ok || err != nil || subject.InPartition(0, a) != m.Subject {
			t.Errorf("%s reads as %v (%v)", m.Subject, a, err)
		}
	}
}
