package world

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// healWait bounds how long a fault takes to be undone and all processes to be ready again. It is longer than anything
// known takes, so that passing it is worth a note: a cluster elects within 10 s, a service stops within its drain.
const healWait = 60 * time.Second

// Run injects the plan's faults, one after the other, until ctx ends, Close begins, or the plan's kills have happened;
// a fault that is under way then is healed first. What happened is in the record. The error is that of a plan that
// can't be followed.
func (w *World) Run(ctx context.Context, p Plan) error {
	steps, err := p.steps(w.o.Seed, w.shape)
	if err != nil {
		return err
	}
	ctx, leave, err := w.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	defer keeper.Wait()
	defer cancel()
	if len(p.Faults) == 0 || slices.Contains(p.Faults, "redis-old") {
		keeper.Go(func() { w.keepDumps(ctx) })
	}
	for s := range steps {
		if !wait(ctx, s.Pause) {
			return nil
		}
		if _, err := w.Inject(ctx, p, s); err != nil && w.life.Err() == nil {
			return err
		}
		if p.Kills > 0 && w.Kills() >= p.Kills {
			return nil
		}
	}
	return nil
}

// Inject injects one fault and returns when it is healed; when ctx ends it is healed before its time. Of the plan only
// InFlight and Storm matter. The error is that there is no such fault: what is refused or fails is in the record.
func (w *World) Inject(ctx context.Context, p Plan, s Step) (record.Fault, error) {
	list := faults()
	i := slices.IndexFunc(list, func(f fault) bool { return f.name == s.Name })
	if i < 0 {
		return record.Fault{}, fmt.Errorf("there is no fault %q", s.Name)
	}
	ctx, leave, err := w.enter(ctx)
	if err != nil {
		return record.Fault{}, err
	}
	defer leave()
	w.one.Lock()
	defer w.one.Unlock()
	r := record.Fault{Name: s.Name, Target: s.Target, From: w.o.Log.Now()}
	if p.InFlight != nil {
		r.InFlight = p.InFlight()
	}
	began := time.Now()
	undo, err := list[i].inject(ctx, w, &p, s)
	if err != nil {
		r.Note = err.Error()
	} else if r.Injected = true; undo != nil {
		wait(ctx, s.For)
	}
	healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWait)
	defer cancel()
	w.heal(healing, undo, &r)
	w.o.Log.Fault(r)
	w.tell(r, began)
	return r, nil
}

// heal undoes a fault and waits until everything is ready.
func (w *World) heal(ctx context.Context, undo undo, r *record.Fault) {
	if undo != nil {
		note, err := undo(ctx)
		if err != nil {
			note = "not undone: " + err.Error()
		}
		r.Note = note
	}
	if err := w.fabric.Await(ctx); err != nil {
		r.Note = join(r.Note, fmt.Sprintf("not ready after %s: %v", healWait, err))
	}
	if r.Injected {
		r.Healed = w.o.Log.Now()
	}
}

func (w *World) tell(r record.Fault, began time.Time) {
	if !r.Injected {
		w.say("  %-18s %-20s not injected: %s", r.Name, r.Target, r.Note)
		return
	}
	healed := fmt.Sprintf("healed after %.1f s", time.Since(began).Seconds())
	w.say("  %-18s %-20s %s", r.Name, r.Target, join(join(healed, fmt.Sprintf("%d messages in flight", r.InFlight)), r.Note))
}

// join puts two notes behind each other; either may be empty.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// wait waits for a time and says whether it passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
