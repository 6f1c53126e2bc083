package route_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

// devices are told only of nodes that are alive, of each user by himself, however many are asked for.
func devices(t *testing.T, s *server) {
	table, ctx := s.open(t), t.Context()
	assertRenewed(t, table, "n1", false)
	assertRenewed(t, table, "n2", false)
	users := []subject.Address{alice(), subject.UserAddress("other", "alice"), subject.UserAddress("default", "nobody")}
	for _, c := range []route.Connection{
		{User: users[0], Device: "phone", Node: "n1", Session: "s1"},
		{User: users[0], Device: "tablet", Node: "n2", Session: "s2"},
		{User: users[0], Device: "lost", Node: "dead", Session: "s3"},
		{User: users[1], Device: "phone", Node: "n2", Session: "s4"},
	} {
		_, err := table.Connect(ctx, c)
		must(t, err)
	}
	want := []map[string]string{{"phone": "n1/s1", "tablet": "n2/s2"}, {"phone": "n2/s4"}, {}}
	for i := range 600 {
		users, want = append(users, subject.UserAddress("default", fmt.Sprint("away", i))), append(want, map[string]string{})
	}
	users, want = append(users, alice()), append(want, want[0])
	got, err := table.Devices(ctx, users)
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("devices are %v, ...; want %v, ...", got[:3], want[:3])
	}
	must(t, table.Leave(ctx, "n2"))
	got, err = table.Devices(ctx, users[:2])
	must(t, err)
	if want := []map[string]string{{"phone": "n1/s1"}, {}}; !reflect.DeepEqual(got, want) {
		t.Errorf("without n2 devices are %v, want %v", got, want)
	}
}

// health says what a well Redis is like.
func health(t *testing.T, s *server) {
	h, err := s.open(t).Health(t.Context())
	must(t, err)
	if h.Kind != "redis" || h.Problem != "" || h.Millis <= 0 || h.Millis > 10_000 {
		t.Errorf("health is %+v", h)
	}
	if off := time.Since(time.UnixMilli(h.Clock)).Abs(); off > time.Minute {
		t.Errorf("the server's clock is %s off", off)
	}
}

// Redis refuses, evicts or is nearly full: each is told, with what to do.
func TestHealthOfARedisThatIsNotWell(t *testing.T) {
	s := startRedis(t)
	table, ctx := s.open(t), t.Context()
	h, err := table.Health(ctx)
	must(t, err)
	if h.Version == "" || len(h.Warnings) != 0 {
		t.Errorf("at first health is %+v", h)
	}
	must(t, s.client.Do(ctx, "CONFIG", "SET", "maxmemory-policy", "volatile-lru").Err())
	must(t, s.client.Do(ctx, "CONFIG", "SET", "maxmemory", "3mb").Err())
	for i := range 2000 { // what it takes to have something evicted
		must(t, s.client.Set(ctx, fmt.Sprint("other", i), strings.Repeat("x", 2000), time.Hour).Err())
	}
	h, err = table.Health(ctx)
	must(t, err)
	for _, says := range []string{"maxmemory-policy is volatile-lru", "of its 3 MiB", "has evicted"} {
		if !slices.ContainsFunc(h.Warnings, func(w admin.Warn) bool { return strings.Contains(w.What, says) && w.Remedy != "" }) {
			t.Errorf("no warning says %q: %+v", says, h.Warnings)
		}
	}
	must(t, s.client.Do(ctx, "CONFIG", "SET", "maxmemory-policy", "noeviction").Err())
	must(t, s.client.Do(ctx, "CONFIG", "SET", "maxmemory", "1").Err())
	if _, err = table.Health(ctx); err == nil {
		t.Error("a Redis that takes no writes is said to be well")
	}
}
