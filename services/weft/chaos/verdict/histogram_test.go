package verdict

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

func TestPercentilesAreExactToThreePercent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 99, 100, 5000} {
		var h histogram
		all := make([]int64, n)
		for i := range all {
			all[i] = random.Int64N(1 << random.IntN(40))
			h.add(all[i])
		}
		slices.Sort(all)
		for _, percent := range []int{50, 99, 100} {
			exact := all[(n*percent+99)/100-1]
			if got := h.percentile(percent); got < exact || float64(got) > float64(exact)*1.035 {
				t.Errorf("%d of %d: %d, exactly %d", percent, n, got, exact)
			}
		}
	}
}

func TestBucketsHoldEveryTime(t *testing.T) {
	last := -1
	for _, v := range []int64{0, 1, 31, 32, 63, 64, 65, 66, 1 << 20, math.MaxInt64} {
		n := bucket(uint64(v))
		if n < last || ceiling(n) < v || n > 0 && ceiling(n-1) >= v {
			t.Errorf("%d is in bucket %d, up to %d", v, n, ceiling(n))
		}
		last = n
	}
	var h histogram
	if h.add(math.MaxInt64); h.sum().P99 != math.MaxInt64 {
		t.Error("the longest time is not told")
	}
	if (&histogram{}).sum() != (Latency{}) {
		t.Error("nothing has percentiles")
	}
}

func TestADeviceIsBackWhenItsConnectionOpens(t *testing.T) {
	l := &link{}
	for _, c := range []record.Conn{{What: "open", At: 5}, {What: "closed", At: 10}, {What: "open", At: 20}, {What: "closed", At: 30}} {
		if err := l.note(&c); err != nil {
			t.Fatal(err)
		}
	}
	l.close(nil)
	for moment, want := range map[int64]int64{4: 0, 5: 5, 19: 5, 20: 20, 40: 20} {
		if got := l.returned(moment); got != want {
			t.Errorf("at %d it was back at %d, want %d", moment, got, want)
		}
	}
}

func TestFaultsOfATime(t *testing.T) {
	b := &book{}
	for _, f := range []record.Fault{{From: 20, Healed: 25}, {From: 10, Healed: 50}, {From: 60, Healed: 70}, {From: 5, Healed: 8}} {
		f.Injected = true
		b.noteFault(f)
	}
	b.close()
	for _, test := range []struct {
		from, to int64
		want     []int64
	}{{0, 4, nil}, {8, 9, []int64{5}}, {22, 23, []int64{20, 10}}, {40, 45, []int64{10}}, {51, 59, nil}, {0, 99, []int64{60, 20, 10, 5}}} {
		var got []int64
		b.during(test.from, test.to, func(f record.Fault) { got = append(got, f.From) })
		if !slices.Equal(got, test.want) {
			t.Errorf("%d to %d: those from %v, want %v", test.from, test.to, got, test.want)
		}
	}
}

func TestFreeTime(t *testing.T) {
	busy := spans{{50, 60}, {10, 20}, {15, 30}, {30, 35}}.merged()
	if want := (spans{{10, 35}, {50, 60}}); !slices.Equal(busy, want) {
		t.Fatalf("merged %v", busy)
	}
	for _, test := range []struct{ from, to, want int64 }{
		{0, 5, 5}, {0, 12, 10}, {12, 30, 0}, {12, 45, 10}, {12, 100, 40}, {36, 49, 13}, {60, 70, 10}, {70, 60, 0}, {0, 100, 40}, {20, 62, 15},
	} {
		if got := busy.free(test.from, test.to); got != test.want {
			t.Errorf("free %d to %d: %d, want %d", test.from, test.to, got, test.want)
		}
	}
	for _, test := range []struct {
		from, to int64
		want     bool
	}{{0, 9, false}, {0, 10, true}, {35, 40, true}, {36, 49, false}, {36, 50, true}, {61, 70, false}} {
		if got := busy.touch(test.from, test.to); got != test.want {
			t.Errorf("touch %d to %d: %v", test.from, test.to, got)
		}
	}
}
