package route_test

import (
	"slices"
	"testing"

	"github.com/weftpush/weft/shared/route"
)

// TestHold holds that a claim enters a holder only where nobody is entered, and only if it may write.
func TestHold(t *testing.T) {
	for kind, start := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := start(t)
			table, ctx := s.open(t), t.Context()
			c := session("n1", "s1", "phone")
			_, err := table.Connect(ctx, c)
			must(t, err)
			claims := []route.Claim{
				{User: alice(), Device: "phone", Holder: "n2/s2", Write: true},
				{User: alice(), Device: "tablet", Holder: "n2/s3"},
				{User: alice(), Device: "watch", Holder: "n2/s4", Write: true},
			}
			for _, want := range [][]string{{"n1/s1", "", "n2/s4"}, {"n1/s1", "", "n2/s4"}} {
				got, err := table.Hold(ctx, claims)
				must(t, err)
				if !slices.Equal(got, want) {
					t.Errorf("the holders are %q; want %q", got, want)
				}
			}
			must(t, table.Release(ctx, alice(), "phone", c.Holder()))
			if got, err := table.Hold(ctx, claims); err != nil || got[0] != "n2/s2" {
				t.Errorf("a device that was given back is held by %q, %v", got, err)
			}
		})
	}
}
