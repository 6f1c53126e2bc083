package world

import (
	"iter"
	"slices"
	"strings"
	"testing"
	"time"
)

func steps(t *testing.T, p Plan, seed uint64, form Form) iter.Seq[Step] {
	t.Helper()
	shape, err := form.shape(false)
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.steps(seed, shape)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func first(t *testing.T, n int, p Plan, seed uint64, form Form) []Step {
	t.Helper()
	var list []Step
	for s := range steps(t, p, seed, form) {
		if list = append(list, s); len(list) == n {
			break
		}
	}
	return list
}

func TestOneSeedIsOnePlan(t *testing.T) {
	for _, form := range []Form{CI, Long} {
		for _, p := range []Plan{{}, {Kills: 200}, {Faults: []string{"cut", "stop"}}} {
			a := first(t, 200, p, 7, form)
			if !slices.Equal(a, first(t, 200, p, 7, form)) {
				t.Errorf("%s %+v: one seed gave two plans", form, p)
			}
			if slices.Equal(a, first(t, 200, p, 8, form)) {
				t.Errorf("%s %+v: two seeds gave one plan", form, p)
			}
		}
	}
}

func TestEachFaultComesOnceBeforeAnyComesAgain(t *testing.T) {
	for seed := range uint64(20) {
		var names []string
		for _, s := range first(t, len(Names()), Plan{Kills: 200}, seed, CI) {
			names = append(names, s.Name)
		}
		slices.Sort(names)
		if want := slices.Sorted(slices.Values(Names())); !slices.Equal(names, want) {
			t.Errorf("seed %d: the first are %v, want each once", seed, names)
		}
	}
}

func TestEveryTargetIsHit(t *testing.T) {
	for _, form := range []Form{CI, Long} {
		shape, err := form.shape(false)
		if err != nil {
			t.Fatal(err)
		}
		hit := map[string]map[string]bool{}
		for _, s := range first(t, 5000, Plan{}, 1, form) {
			if hit[s.Name] == nil {
				hit[s.Name] = map[string]bool{}
			}
			hit[s.Name][s.Target] = true
		}
		for _, f := range faults() {
			if want := f.targets(shape); len(want) == 0 || len(hit[f.name]) != len(want) {
				t.Errorf("%s: %s hit %v of %v", form, f.name, hit[f.name], want)
			}
		}
	}
}

func TestTimesAreInTheirBounds(t *testing.T) {
	bounds := map[string]fault{}
	for _, f := range faults() {
		bounds[f.name] = f
	}
	p := Plan{PauseLeast: 2 * time.Second, PauseMost: 3 * time.Second}
	for _, s := range first(t, 1000, p, 3, Long) {
		f := bounds[s.Name]
		if s.For < f.least || s.For > f.most || s.Pause < p.PauseLeast || s.Pause > p.PauseMost || s.Age < ageLeast || s.Age > ageMost {
			t.Errorf("%+v is out of the bounds %s to %s", s, f.least, f.most)
		}
	}
}

func TestAPlanThatCountsKillsIsMostlyKills(t *testing.T) {
	kills := 0
	for _, s := range first(t, 500, Plan{Kills: 200}, 1, Long) {
		if s.Name == kill {
			kills++
		}
	}
	if kills < 300 {
		t.Errorf("%d of 500 steps are kills, want most", kills)
	}
}

func TestAPlanNamesWhatThereIs(t *testing.T) {
	shape, err := CI.shape(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Plan{Faults: []string{"kill", "flood"}}).steps(1, shape); err == nil || !strings.Contains(err.Error(), "flood") || !strings.Contains(err.Error(), "redis-old") {
		t.Errorf("%v, want the wrong name and the right ones", err)
	}
	if !slices.Contains(shape.links, "collect-2/mongodb") {
		t.Errorf("with MongoDB the links are %v", shape.links)
	}
	if _, err := Form("huge").shape(false); err == nil {
		t.Error("a form that does not exist has a shape")
	}
}
