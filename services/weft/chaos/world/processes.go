package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// drainWait is how long a process may take to end after SIGTERM; then it is killed, which the record says.
const drainWait = 30 * time.Second

// hold keeps a process down that the judge ends.
type hold struct {
	down chan struct{} // closed when it has ended
	up   chan struct{} // closed when it may be started again
}

// restart is called by the supervision when a process has ended, and returns when it may be started again.
func (w *World) restart(ctx context.Context, name, how string, pause time.Duration) {
	w.mu.Lock()
	h := w.holds[name]
	delete(w.holds, name)
	w.mu.Unlock()
	if h == nil {
		now := w.o.Log.Now()
		w.o.Log.Fault(record.Fault{Name: record.Died, Target: name, From: now, Healed: now, Note: "ended by itself: " + how})
		w.say("  %-18s %-20s ended by itself: %s", record.Died, name, how)
		wait(ctx, pause)
		return
	}
	close(h.down)
	select {
	case <-h.up:
	case <-ctx.Done():
	}
}

// hold says that a process will end by our hand.
func (w *World) hold(name string) *hold {
	h := &hold{down: make(chan struct{}), up: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holds[name] = h
	return h
}

func (w *World) release(name string, h *hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.holds[name] == h { // it never ended
		delete(w.holds, name)
	}
	close(h.up)
}

// kill kills processes by kill -9 and returns when they have ended, with what lets them be started again.
func (w *World) kill(names ...string) (release func(), err error) {
	holds := make([]*hold, 0, len(names))
	release = func() {
		for i, h := range holds {
			w.release(names[i], h)
		}
	}
	for _, name := range names {
		h := w.hold(name)
		holds = append(holds, h)
		if err := w.fabric.Signal(name, syscall.SIGKILL); err != nil {
			release()
			return nil, err
		}
	}
	for _, h := range holds {
		<-h.down // nothing outlives kill -9
	}
	w.kills.Add(int64(len(names)))
	return release, nil
}

func killProcesses(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	names := strings.Split(s.Target, "+")
	release, err := w.kill(names...)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (string, error) {
		defer release()
		if slices.Contains(names, "redis") { // without a copy it has forgotten everything
			return "", w.noDump()
		}
		return "", nil
	}, nil
}

func killServices(_ context.Context, w *World, _ *Plan, _ Step) (undo, error) {
	release, err := w.kill(w.shape.services...)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (string, error) {
		release()
		return "", nil
	}, nil
}

func stopProcess(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	if err := w.fabric.Signal(s.Target, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	return func(context.Context) (string, error) {
		return "", w.fabric.Signal(s.Target, syscall.SIGCONT)
	}, nil
}

func rollDrain(ctx context.Context, w *World, _ *Plan, _ Step) (undo, error) {
	return w.roll(ctx, syscall.SIGTERM), nil
}

func rollKill(ctx context.Context, w *World, _ *Plan, _ Step) (undo, error) {
	return w.roll(ctx, syscall.SIGKILL), nil
}

// roll restarts all services one after the other; the next one waits until the last is ready. It ends early with ctx,
// between two of them. What is to be said of it comes with its undoing, which does nothing.
func (w *World) roll(ctx context.Context, s syscall.Signal) undo {
	var notes string
	rolled, longest := 0, time.Duration(0)
	for _, name := range w.shape.services {
		if ctx.Err() != nil {
			break
		}
		took, err := w.rollOne(context.WithoutCancel(ctx), name, s)
		if err != nil {
			notes = join(notes, err.Error())
		}
		rolled, longest = rolled+1, max(longest, took)
	}
	notes = join(fmt.Sprintf("%d processes, the slowest ended in %.1f s", rolled, longest.Seconds()), notes)
	return func(context.Context) (string, error) { return notes, nil }
}

// rollOne restarts a process, waits until it is ready, and returns how long it took to end.
func (w *World) rollOne(ctx context.Context, name string, s syscall.Signal) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, drainWait+healWait)
	defer cancel()
	began := time.Now()
	h := w.hold(name)
	err := w.fabric.Signal(name, s)
	if err == nil {
		err = w.ended(name, h, s)
	}
	took := time.Since(began)
	w.release(name, h)
	return took, errors.Join(err, w.fabric.Await(ctx, name))
}

// ended waits until a process has ended that was told to.
func (w *World) ended(name string, h *hold, s syscall.Signal) error {
	if s == syscall.SIGKILL {
		w.kills.Add(1)
	}
	select {
	case <-h.down:
		return nil
	case <-time.After(drainWait):
	}
	if err := w.fabric.Signal(name, syscall.SIGKILL); err != nil {
		return err
	}
	<-h.down
	return fmt.Errorf("%s had not ended %s after SIGTERM and was killed", name, drainWait)
}

// noDump removes what Redis would read at its start.
func (w *World) noDump() error {
	w.dumping.Lock()
	defer w.dumping.Unlock()
	return w.removeDump()
}

// removeDump does so while w.dumping is held.
func (w *World) removeDump() error {
	err := os.Remove(filepath.Join(w.o.Data, dumpName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
