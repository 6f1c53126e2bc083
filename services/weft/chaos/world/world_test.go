package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/services/weft/manifest"
)

// patience bounds every wait.
const patience = 60 * time.Second

// start starts a world, which is closed at the latest when the test ends.
func start(t *testing.T, form Form) (w *World, data string, closed func() error) {
	t.Helper()
	data = t.TempDir()
	log, err := record.Create(data)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if w, err = Start(ctx, Options{Data: data, Form: form, Seed: 1, Log: log, Out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	closed = sync.OnceValue(func() error { return errors.Join(w.Close(), log.Close()) })
	t.Cleanup(func() {
		if err := closed(); err != nil {
			t.Error(err)
		}
	})
	return w, data, closed
}

// A node is killed and comes back; other faults are seen to strike, and end when their run does; nothing is left after
// Close.
func TestFaultsHealAndCloseLeavesNothing(t *testing.T) {
	ctx := t.Context()
	w, data, closed := start(t, CI)
	before := process(t, w, "push-1")
	p := Plan{InFlight: func() int { return 5 }}
	killed, err := w.Inject(ctx, p, Step{Name: kill, Target: "push-1", For: 200 * time.Millisecond})
	if err != nil || !killed.Injected || killed.InFlight != 5 || killed.Healed < killed.From+200_000 || w.Kills() != 1 {
		t.Errorf("%+v, %v, %d kills", killed, err, w.Kills())
	}
	after := process(t, w, "push-1")
	if after.PID == before.PID || after.Down || alive(before.PID) || !alive(after.PID) {
		t.Errorf("%+v came back as %+v", before, after)
	}
	unknown, err := w.Inject(ctx, Plan{}, Step{Name: "storm", Target: devices})
	if err != nil || unknown.Injected || unknown.Note == "" || unknown.Healed != 0 {
		t.Errorf("a storm without a crowd: %+v, %v", unknown, err)
	}
	faultsStrike(t, w)
	last := w.Manifest()
	doors := w.Push()
	disk := w.disk.refused == nil

	if err := closed(); err != nil {
		t.Error(err)
	}
	if _, err := w.Inject(ctx, p, Step{Name: kill, Target: "push-1"}); err == nil {
		t.Error("a closed world was hurt")
	}
	nothingLeft(t, data, last, doors)
	var names []string
	err = record.Read(data, func(r record.Record) error {
		if r.Fault != nil {
			names = append(names, fmt.Sprintf("%s %t", r.Fault.Name, r.Fault.Injected))
		}
		return nil
	})
	want := []string{"kill true", "storm false", "stop true", "archive-down true", "cut true", "redis-oom true"}
	if disk {
		want = append(want, "disk-full true")
	}
	want = append(want, "redis-flush true", "kill true", "redis-old true", "died false")
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("recorded %v, %v, want %v", names, err, want)
	}
}

// nothingLeft says that no process lives, no mount stands and no door is open.
func nothingLeft(t *testing.T, data string, m manifest.Manifest, doors []string) {
	t.Helper()
	for _, p := range m.Processes {
		if alive(p.PID) {
			t.Errorf("%s is alive", p.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), data) {
		t.Errorf("something is mounted in %s: %v", data, err)
	}
	for _, door := range doors {
		if conn, err := net.Dial("tcp", host(door)); err == nil {
			conn.Close()
			t.Errorf("%s is open", door)
		}
	}
}

func process(t *testing.T, w *World, name string) manifest.Process {
	t.Helper()
	for _, p := range w.Manifest().Processes {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("there is no %s", name)
	return manifest.Process{}
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// state is what a process does by /proc: T is stopped.
func state(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err.Error()
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:1]
}
