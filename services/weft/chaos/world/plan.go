package world

import (
	"context"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Form is how large a world is.
type Form string

// The forms.
const (
	CI   Form = "ci"   // one nats-server, two of each service
	Long Form = "long" // three nats-servers with three replicas, three collects and push nodes, two dispatches
)

// shape is what a world of a form consists of. Everything that a plan chooses from is here, and in the same order each time.
type shape struct {
	servers                      []string // nats-1 …
	services                     []string // in the order in which they start
	collects, pushes, dispatches int
	links                        []string // process/server: what can be cut
}

func (f Form) shape(mongodb bool) (shape, error) {
	var s shape
	servers := 1
	switch f {
	case CI:
		s.collects, s.pushes, s.dispatches = 2, 2, 2
	case Long:
		servers, s.collects, s.pushes, s.dispatches = 3, 3, 3, 2
	default:
		return s, fmt.Errorf("there is no form %q of the world; there are %s and %s", f, CI, Long)
	}
	s.servers = numbered("nats", servers)
	s.services = slices.Concat([]string{"auth-1"}, numbered("collect", s.collects), numbered("dispatch", s.dispatches), numbered("push", s.pushes))
	for _, name := range s.services {
		s.links = append(s.links, name+"/nats")
		if name != "auth-1" {
			s.links = append(s.links, name+"/redis")
		}
		if mongodb && strings.HasPrefix(name, "collect-") {
			s.links = append(s.links, name+"/mongodb")
		}
	}
	for i, name := range s.servers {
		for _, other := range s.servers[i+1:] {
			s.links = append(s.links, name+"/"+other)
		}
	}
	s.links = append(s.links, writers+"/nats")
	return s, nil
}

func numbered(role string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", role, i+1)
	}
	return names
}

func (s shape) nodes() []string { return numbered("push", s.pushes) }

func (s shape) processes() []string { return slices.Concat(s.services, []string{"redis"}, s.servers) }

// majorities are the sets of servers without which no stream of three replicas goes on.
func (s shape) majorities() []string {
	if len(s.servers) == 1 {
		return s.servers
	}
	var sets []string
	for i, name := range s.servers {
		for _, other := range s.servers[i+1:] {
			sets = append(sets, name+"+"+other)
		}
	}
	return sets
}

// Step is one fault of a plan.
type Step struct {
	Name   string
	Target string
	Pause  time.Duration // before it
	For    time.Duration // from when it has struck until it is undone; without meaning for faults that take their own time
	Age    time.Duration // of the copy that is put back
}

// Plan says which faults a Run injects, and what it must know of the load.
type Plan struct {
	// Faults are names of faults; with none all of them. Each comes once, in random order, before any comes again; then
	// they come as often as their weights say.
	Faults []string
	// Kills ends the Run after so many kill -9; most of its faults are then kills of single processes. 0: it ends with
	// its context.
	Kills int
	// PauseLeast and PauseMost bound the pause between two faults; 1 and 4 s if both are 0.
	PauseLeast, PauseMost time.Duration
	// InFlight tells how many messages some device is owed at the moment. nil: 0.
	InFlight func() int
	// Storm makes a crowd of clients reconnect at once and returns when they have. nil: the fault storm is not injected.
	Storm func(ctx context.Context) error
}

// killsPerOther is how many kills of single processes come for each other fault when a plan counts kills.
const killsPerOther = 4

// chosen are the faults of the plan. A name that nobody knows is an error that says which there are.
func (p Plan) chosen() ([]fault, error) {
	var list []fault
	for _, f := range faults() {
		if len(p.Faults) == 0 || slices.Contains(p.Faults, f.name) {
			list = append(list, f)
		}
	}
	for _, name := range p.Faults {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("there is no fault %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	return list, nil
}

// steps are the faults in their order, without end. Equal seeds give equal steps: nothing else has a say, so each step
// draws the same number of numbers.
func (p Plan) steps(seed uint64, s shape) (iter.Seq[Step], error) {
	chosen, err := p.chosen()
	if err != nil {
		return nil, err
	}
	if p.PauseLeast == 0 && p.PauseMost == 0 {
		p.PauseLeast, p.PauseMost = time.Second, 4*time.Second
	}
	return func(yield func(Step) bool) {
		r := generator(seed)
		for deck := chosen; ; deck = p.weighted(chosen) {
			for _, i := range r.Perm(len(deck)) {
				if !yield(p.step(r, deck[i], s)) {
					return
				}
			}
		}
	}, nil
}

func generator(seed uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte("world"))               // each actor has its own numbers
	return rand.New(rand.NewPCG(seed, h.Sum64())) //nolint:gosec // a run must be repeatable, and nothing here is secret
}

// weighted has each fault as often as its weight says.
func (p Plan) weighted(chosen []fault) []fault {
	var deck []fault
	for _, f := range chosen {
		deck = append(deck, slices.Repeat([]fault{f}, f.weight)...)
	}
	if i := slices.IndexFunc(chosen, func(f fault) bool { return f.name == kill }); i >= 0 && p.Kills > 0 {
		deck = append(deck, slices.Repeat(chosen[i:i+1], killsPerOther*len(deck))...)
	}
	return deck
}

func (p Plan) step(r *rand.Rand, f fault, s shape) Step {
	targets := f.targets(s)
	return Step{
		Name:   f.name,
		Target: targets[r.IntN(len(targets))],
		Pause:  between(r, p.PauseLeast, p.PauseMost),
		For:    between(r, f.least, f.most),
		Age:    between(r, ageLeast, ageMost),
	}
}

// between is a time from least to most, in whole ms.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return (least + time.Duration(r.Float64()*float64(most-least))).Round(time.Millisecond)
}
