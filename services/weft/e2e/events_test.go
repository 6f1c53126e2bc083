package e2e

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/client"
	lifecycle "github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/protocol"
)

// comings are the events of a fabric's users, as they come.
type comings struct {
	t    *testing.T
	came chan lifecycle.Event
	all  map[string][]lifecycle.Event // by user
	ids  map[string]bool
}

func (f *fabric) comings() *comings {
	f.t.Helper()
	c := &comings{t: f.t, came: make(chan lifecycle.Event, 1000), all: map[string][]lifecycle.Event{}, ids: map[string]bool{}}
	nc := f.connect()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range client.NewPublisher(nc).Events(ctx, client.EventFilter{}) {
			if err != nil {
				if ctx.Err() == nil {
					f.t.Error(err)
				}
				return
			}
			c.came <- e.Event
		}
	}()
	f.t.Cleanup(func() { cancel(); <-ended })
	return c
}

// until waits until the last event of a user is this one. Each user's events alternate, and none comes twice.
func (c *comings) until(user string, what lifecycle.What) lifecycle.Event {
	c.t.Helper()
	late := time.After(2 * patience)
	for {
		if list := c.all[user]; len(list) > 0 && list[len(list)-1].What == what {
			return list[len(list)-1]
		}
		select {
		case e := <-c.came:
			list := c.all[e.User]
			first := len(list) == 0
			switch {
			case c.ids[e.ID]:
				c.t.Fatalf("%+v came twice", e)
			case first && e.What != lifecycle.Online, !first && list[len(list)-1].What == e.What:
				c.t.Fatalf("%+v came after %+v", e, list)
			}
			c.ids[e.ID] = true
			c.all[e.User] = append(list, e)
		case <-late:
			c.t.Fatalf("%s is not %s; its events are %+v", user, what, c.all[user])
		}
	}
}

// Users are online and offline as they are, when their node is killed or paused and when Redis is emptied; one who has
// another device elsewhere did not go.
func TestEventsAreTrueWhenNodesDie(t *testing.T) {
	f := &fabric{t: t, kind: "up", data: t.TempDir(), env: []string{"WEFT_OFFLINE_AFTER=1s"}}
	f.start()
	t.Cleanup(f.stop)
	c := f.comings()
	f.device("killed", "phone", protocol.FromClient{})  // at the first node
	f.device("paused", "phone", protocol.FromClient{})  // at the second
	f.device("spread", "phone", protocol.FromClient{})  // at the first
	f.device("spread", "tablet", protocol.FromClient{}) // at the second
	for _, user := range []string{"killed", "paused", "spread"} {
		c.until(user, lifecycle.Online)
	}
	f.emptyRedis()
	var nodes []int
	for _, p := range f.manifest.Processes {
		if p.Role == "push" {
			nodes = append(nodes, p.PID)
		}
	}
	if err := syscall.Kill(nodes[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.until("killed", lifecycle.Offline)
	if n := len(c.all["spread"]); n != 1 {
		t.Errorf("who has another device elsewhere has the events %+v", c.all["spread"])
	}
	if err := syscall.Kill(nodes[1], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.until("paused", lifecycle.Offline)
	if err := syscall.Kill(nodes[1], syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back := c.until("paused", lifecycle.Online)
	if list := c.all["paused"]; len(list) != 3 || !slices.IsSortedFunc(list, func(a, b lifecycle.Event) int { return int(a.Turn) - int(b.Turn) }) || back.Turn != 3 {
		t.Errorf("the events of who was paused are %+v", list)
	}
}
