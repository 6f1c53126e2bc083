package route_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

func alice() subject.Address { return subject.UserAddress("default", "alice") }

func news() subject.Address {
	return subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}
}

func everyone() subject.Address { return subject.Address{Tenant: "default", Kind: subject.All} }

// TestTable runs every case on every kind of server.
func TestTable(t *testing.T) {
	cases := map[string]func(*testing.T, *server){
		"connect":      connect,
		"ordered":      connectOrder,
		"released":     release,
		"generations":  generations,
		"routes":       routes,
		"lookup":       lookup,
		"raised":       raised,
		"absent":       absent,
		"oddids":       oddIDs,
		"epochs":       epochs,
		"times":        times,
		"bulk":         bulk,
		"partial":      partial,
		"lease":        lease,
		"voided":       voided,
		"emptied":      emptied,
		"rolledback":   rolledBack,
		"scriptsflush": scriptsFlushed,
		"goneback":     goneBack,
		"devices":      devices,
		"health":       health,
	}
	for kind, start := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := start(t)
			for _, name := range slices.Sorted(maps.Keys(cases)) {
				t.Run(name, func(t *testing.T) { cases[name](t, s) })
			}
		})
	}
}

func session(node, session, device string, addresses ...subject.Address) route.Connection {
	c := route.Connection{User: alice(), Device: device, Node: node, Session: session}
	for _, a := range addresses {
		c.Addresses = append(c.Addresses, route.Registration{Address: a, Generation: 1, Write: true})
	}
	return c
}

func connect(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 7, news(): 1 << 53, everyone(): 4}))
	must(t, table.RaiseCursors(ctx, []route.Cursor{
		{User: alice(), Device: "phone", Address: alice(), Seq: 3},
		{User: alice(), Device: "tablet", Address: alice(), Seq: 5},
		{User: alice(), Device: "tablet", Address: news(), Seq: 9},
		{User: subject.UserAddress("default", "bob"), Device: "phone", Address: alice(), Seq: 6},
		{User: subject.UserAddress("other", "alice"), Device: "phone", Address: alice(), Seq: 6},
	}))
	first := session("n1", "s1", "phone", alice(), news(), everyone())
	first.Addresses[2].Write = false // the node has it already
	got, err := table.Connect(ctx, first)
	must(t, err)
	want := route.State{
		Heads:   map[subject.Address]uint64{alice(): 7, news(): 1 << 53, everyone(): 4},
		Cursors: map[subject.Address]uint64{alice(): 3},
		Floor:   map[subject.Address]uint64{alice(): 5, news(): 9},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("first connection: %+v, want %+v", got, want)
	}
	second := session("n2", "s2", "phone", alice())
	got, err = table.Connect(ctx, second)
	must(t, err)
	if got.Previous != "n1/s1" {
		t.Errorf("the second connection of a device replaces %q, want n1/s1", got.Previous)
	}
	if got, err = table.Connect(ctx, second); err != nil || got.Previous != "" {
		t.Errorf("the same connection again replaces %q, %v; want nobody", got.Previous, err)
	}
	if got, err = table.Connect(ctx, session("n2", "s3", "tablet")); err != nil || got.Previous != "" {
		t.Errorf("a connection of another device, without addresses, replaces %q, %v; want nobody", got.Previous, err)
	}
	assertRoutes(t, table, alice(), "n1", "n2")
	assertRoutes(t, table, news(), "n1")
	assertRoutes(t, table, everyone())
}

// connectOrder races a connection against a message: either the connection sees the message in the head, or the
// message's route look-up sees the connection.
func connectOrder(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	for i := range 200 {
		a := subject.UserAddress("default", fmt.Sprint("racer", i))
		var state route.State
		var routed [][]string
		var group errgroup.Group
		group.Go(func() (err error) {
			state, err = table.Connect(ctx, session("n1", "s1", "phone", a))
			return err
		})
		group.Go(func() (err error) {
			if err = table.RaiseHeads(ctx, map[subject.Address]uint64{a: 1}); err == nil {
				routed, err = table.Routes(ctx, []subject.Address{a})
			}
			return err
		})
		must(t, group.Wait())
		if state.Heads[a] == 0 && len(routed[0]) == 0 {
			t.Fatalf("round %d: neither the connection saw the message, nor the message the connection", i)
		}
	}
}

func release(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	first, second := session("n1", "s1", "phone"), session("n2", "s2", "phone")
	for _, c := range []route.Connection{first, second} {
		_, err := table.Connect(ctx, c)
		must(t, err)
	}
	must(t, table.Release(ctx, alice(), "phone", first.Holder())) // late: the device is the second's
	state, err := table.Connect(ctx, session("n3", "s3", "phone"))
	must(t, err)
	if state.Previous != second.Holder() {
		t.Errorf("after a late release the device belonged to %q, want %q", state.Previous, second.Holder())
	}
	must(t, table.Release(ctx, alice(), "phone", "n3/s3"))
	if state, err = table.Connect(ctx, first); err != nil || state.Previous != "" {
		t.Errorf("after its release the device belonged to %q, %v; want nobody", state.Previous, err)
	}
}

func generations(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	reg := func(generation uint64) []route.Registration {
		return []route.Registration{{Address: alice(), Generation: generation}}
	}
	for _, g := range []struct{ older, newer uint64 }{{9, 10}, {1<<63 + 1, 1<<63 + 2}} {
		must(t, table.Register(ctx, "n1", reg(g.newer)))
		must(t, table.Register(ctx, "n1", reg(g.older))) // late
		must(t, table.Register(ctx, "n2", reg(g.older)))
		must(t, table.Unregister(ctx, "n1", reg(g.older))) // late
		assertRoutes(t, table, alice(), "n1", "n2")
		must(t, table.Unregister(ctx, "n1", reg(g.newer)))
		assertRoutes(t, table, alice(), "n2")
		must(t, table.Unregister(ctx, "n2", reg(g.older)))
		assertRoutes(t, table, alice())
	}
}

func routes(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	must(t, table.Register(ctx, "n1", []route.Registration{{Address: alice()}, {Address: everyone()}}))
	got, err := table.Routes(ctx, []subject.Address{news(), alice(), news(), everyone()})
	must(t, err)
	if want := [][]string{{}, {"n1"}, {}, {"n1"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("routes are %q, want %q", got, want)
	}
}

// lookup raises heads and finds routes, whatever fails for another address of the batch.
func lookup(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	must(t, table.Register(ctx, "n1", []route.Registration{{Address: alice()}}))
	must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{everyone(): 9}))
	got, err := table.Lookup(ctx, map[subject.Address]uint64{alice(): 7, everyone(): 8})
	must(t, err)
	if want := map[subject.Address][]string{alice(): {"n1"}, everyone(): {}}; !reflect.DeepEqual(got, want) {
		t.Errorf("routes are %q, want %q", got, want)
	}
	assertHeads(t, table, map[subject.Address]uint64{alice(): 7, everyone(): 9})
	must(t, s.client.Set(ctx, "weft:"+subject.Encode(epochOf(t))+":{default.topic.news}:route", "not mine", 0).Err())
	got, err = table.Lookup(ctx, map[subject.Address]uint64{alice(): 10, news(): 1})
	if want := map[subject.Address][]string{alice(): {"n1"}}; err == nil || !reflect.DeepEqual(got, want) {
		t.Errorf("routes are %q, %v; want %q and an error", got, err, want)
	}
}

// raised raises from all sides at once, in any order: the highest stays.
func raised(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			for _, i := range rand.Perm(50) {
				seq := uint64(i) + 1
				if err := table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): seq, news(): seq / 2}); err != nil {
					return err
				}
				if err := table.RaiseCursors(ctx, []route.Cursor{{User: alice(), Device: "phone", Address: news(), Seq: seq}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, group.Wait())
	assertHeads(t, table, map[subject.Address]uint64{alice(): 50, news(): 25})
	state, err := table.Connect(ctx, session("n1", "s1", "phone", news()))
	must(t, err)
	if state.Cursors[news()] != 50 || state.Floor[news()] != 50 {
		t.Errorf("cursor %d, floor %d, want 50 each", state.Cursors[news()], state.Floor[news()])
	}
}

// absent is left out of the maps, and a 0 that somebody raised to is as good as absent.
func absent(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 0}))
	must(t, table.RaiseCursors(ctx, []route.Cursor{{User: alice(), Device: "phone", Address: alice()}}))
	state, err := table.Connect(ctx, session("n1", "s1", "phone", alice()))
	must(t, err)
	if len(state.Heads)+len(state.Cursors)+len(state.Floor) != 0 {
		t.Errorf("Redis is empty, but %+v", state)
	}
	assertHeads(t, table, map[subject.Address]uint64{alice(): 0, news(): 0})
}

func oddIDs(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	ids := []string{"a.b", "*", ">", "{x}", "}{", " ", "\x00\r\n", "a/b", "/", "a:b", "=", "ü€𝄞", "dependabot[bot]", strings.Repeat("é", 64)}
	for i, id := range ids {
		user := subject.UserAddress("te{na}nt", id)
		seq := uint64(i) + 1
		must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{user: seq}))
		must(t, table.RaiseCursors(ctx, []route.Cursor{{User: user, Device: id, Address: user, Seq: seq}}))
	}
	for i, id := range ids {
		user := subject.UserAddress("te{na}nt", id)
		c := session("n/1 {x}", "s1", id, user)
		c.User = user
		state, err := table.Connect(ctx, c)
		must(t, err)
		if seq := uint64(i) + 1; state.Heads[user] != seq || state.Cursors[user] != seq || state.Floor[user] != seq || state.Previous != "" {
			t.Errorf("%q: %+v, want %d everywhere and nobody before", id, state, seq)
		}
		assertRoutes(t, table, user, "n/1 {x}")
	}
}

func epochs(t *testing.T, s *server) {
	old, ctx := s.open(t), t.Context()
	restored, err := route.Open(s.address, epochOf(t)+"x")
	must(t, err)
	defer func() { must(t, restored.Close()) }()
	must(t, old.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 7}))
	must(t, old.Register(ctx, "n1", []route.Registration{{Address: alice()}}))
	_, err = old.Renew(ctx, "n1", time.Minute)
	must(t, err)
	assertHeads(t, restored, map[subject.Address]uint64{alice(): 0})
	assertRoutes(t, restored, alice())
	assertNodes(t, restored)
}

func times(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	here := []route.Registration{{Address: alice(), Generation: 1}}
	must(t, table.Register(ctx, "n1", here))
	must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 7}))
	must(t, table.RaiseCursors(ctx, []route.Cursor{{User: alice(), Device: "phone", Address: alice(), Seq: 5}}))
	s.forward(t, 23*time.Hour)
	must(t, table.Register(ctx, "n1", here)) // renews the time of an unchanged route
	s.forward(t, 23*time.Hour)
	assertRoutes(t, table, alice(), "n1")
	s.forward(t, 2*time.Hour)
	assertRoutes(t, table, alice())
	s.forward(t, 4*24*time.Hour)
	must(t, table.RaiseHeads(ctx, map[subject.Address]uint64{alice(): 6})) // a lower one renews it too
	s.forward(t, 6*24*time.Hour)
	assertHeads(t, table, map[subject.Address]uint64{alice(): 7})
	s.forward(t, 2*24*time.Hour)
	assertHeads(t, table, map[subject.Address]uint64{alice(): 0})
	state, err := table.Connect(ctx, session("n1", "s1", "phone", alice()))
	must(t, err)
	if state.Cursors[alice()] != 5 {
		t.Errorf("the cursor after two weeks is %d, want 5", state.Cursors[alice()])
	}
	s.forward(t, 31*24*time.Hour)
	state, err = table.Connect(ctx, session("n1", "s1", "phone", alice()))
	must(t, err)
	if len(state.Cursors)+len(state.Floor) != 0 || state.Previous != "" {
		t.Errorf("after a month Redis still says %+v", state)
	}
}

// bulk is more than one pipeline holds.
func bulk(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	const n = 2100
	addresses, heads := make([]subject.Address, n), map[subject.Address]uint64{}
	regs, cursors := make([]route.Registration, n), make([]route.Cursor, n)
	for i := range addresses {
		a := subject.UserAddress("default", fmt.Sprint("user", i))
		addresses[i], heads[a] = a, uint64(i)+1
		regs[i] = route.Registration{Address: a, Generation: 1}
		cursors[i] = route.Cursor{User: a, Device: "phone", Address: a, Seq: 1}
	}
	must(t, table.RaiseHeads(ctx, heads))
	must(t, table.RaiseCursors(ctx, cursors))
	must(t, table.Register(ctx, "n1", regs))
	assertHeads(t, table, heads)
	got, err := table.Routes(ctx, addresses)
	must(t, err)
	if i := slices.IndexFunc(got, func(nodes []string) bool { return !slices.Equal(nodes, []string{"n1"}) }); i >= 0 {
		t.Errorf("the routes of %s are %q", addresses[i], got[i])
	}
	must(t, table.Unregister(ctx, "n1", regs))
	got, err = table.Routes(ctx, addresses)
	must(t, err)
	if i := slices.IndexFunc(got, func(nodes []string) bool { return len(nodes) > 0 }); i >= 0 {
		t.Errorf("%s still has the routes %q", addresses[i], got[i])
	}
}

// partial fails for one address: the others have their answers, and an absent key hides no failure.
func partial(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	must(t, table.Register(ctx, "n1", []route.Registration{{Address: alice()}}))
	for _, what := range []string{"route", "head"} {
		must(t, s.client.Set(ctx, "weft:"+subject.Encode(epochOf(t))+":{default.topic.news}:"+what, "not mine", 0).Err())
	}
	got, err := table.Routes(ctx, []subject.Address{everyone(), news(), alice()})
	if want := [][]string{{}, nil, {"n1"}}; err == nil || !reflect.DeepEqual(got, want) {
		t.Errorf("routes are %q, %v; want %q and an error", got, err, want)
	}
	if heads, err := table.Heads(ctx, []subject.Address{everyone(), news()}); err == nil {
		t.Errorf("heads are %d; want an error", heads)
	}
	if state, err := table.Connect(ctx, session("n1", "s1", "phone", everyone(), news())); err == nil {
		t.Errorf("connected with %+v; want an error", state)
	}
}

func assertRoutes(t *testing.T, table *route.Table, a subject.Address, want ...string) {
	t.Helper()
	got, err := table.Routes(t.Context(), []subject.Address{a})
	must(t, err)
	slices.Sort(got[0])
	if !slices.Equal(got[0], want) {
		t.Errorf("%s is held by %q, want %q", a, got[0], want)
	}
}

func assertHeads(t *testing.T, table *route.Table, want map[subject.Address]uint64) {
	t.Helper()
	addresses := slices.Collect(maps.Keys(want))
	got, err := table.Heads(t.Context(), addresses)
	must(t, err)
	for i, a := range addresses {
		if got[i] != want[a] {
			t.Errorf("the head of %s is %d, want %d", a, got[i], want[a])
		}
	}
}
