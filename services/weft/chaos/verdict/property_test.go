package verdict

import (
	"math/rand/v2"
	"testing"
)

// FuzzAPromiseThatIsKeptIsValid holds for every seed: go test alone runs these.
func FuzzAPromiseThatIsKeptIsValid(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		// By chance most operations of a run may lie within faults.
		if v := simulate(seed).judge(t, Options{Faultless: true}); len(words(v)) > 0 {
			t.Errorf("%s %v %q", v.Outcome, v.Cases, v.Reasons)
		} else if v.Deliveries < 100 {
			t.Errorf("only %d deliveries", v.Deliveries)
		}
	})
}

// FuzzOneThingWrongIsEnough puts each kind of damage somewhere into a history that is valid without.
func FuzzOneThingWrongIsEnough(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		for _, d := range damages() {
			s := simulate(seed)
			done := false
			for range 10 * len(s.records) {
				if done = d.do(s, random.IntN(len(s.records)), random); done {
					break
				}
			}
			if !done {
				continue // a run without gaps, say
			}
			if v := s.judge(t, Options{}); v.Outcome != Invalid {
				t.Errorf("%s: %s", d.name, v.Outcome)
			}
		}
	})
}
