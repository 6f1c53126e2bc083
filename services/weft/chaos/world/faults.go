package world

import (
	"context"
	"errors"
	"time"
)

// undo ends a fault. Its note is a figure worth keeping, or empty.
type undo func(ctx context.Context) (note string, err error)

// fault is one kind. inject returns once it has struck; undo is nil where it is over then. After an error nothing of
// it is left.
type fault struct {
	name        string
	weight      int // how often it comes, after each has come once
	least, most time.Duration
	targets     func(s shape) []string
	inject      func(ctx context.Context, w *World, p *Plan, s Step) (undo, error)
}

// kill is the fault that a plan's Kills make more frequent.
const kill = "kill"

// Names are those of all faults.
func Names() []string {
	var names []string
	for _, f := range faults() {
		names = append(names, f.name)
	}
	return names
}

// faults are all kinds. A service's life is lost for 0.2 to 6 s: shorter and longer than the 2 s in which a partition
// is taken over. Pauses last 5 to 15 s: around the 5 s from which a node must notice its own, and the 10 s of a lease.
// What is only slow to answer ends before or after the limits that wait for it (0.3 to 5 s).
func faults() []fault {
	const ms, s = time.Millisecond, time.Second
	at := func(target string) func(shape) []string { return func(shape) []string { return []string{target} } }
	return []fault{
		{kill, 4, 200 * ms, 6 * s, shape.processes, killProcesses},
		{"kill-majority", 1, 200 * ms, 6 * s, shape.majorities, killProcesses},
		{"kill-all-services", 1, 200 * ms, 6 * s, at("services"), killServices},
		{"stop", 3, 5 * s, 15 * s, shape.processes, stopProcess},
		{"redis-flush", 1, 0, 0, at("redis"), flushRedis},
		{"redis-pause", 1, 2 * s, 10 * s, at("redis"), pauseRedis},
		{"redis-oom", 1, 2 * s, 10 * s, at("redis"), fillRedis},
		{"redis-old", 1, 200 * ms, 3 * s, at("redis"), oldRedis},
		{"archive-down", 1, 3 * s, 10 * s, at("archive"), holdArchive},
		{"cut", 2, 200 * ms, 6 * s, func(s shape) []string { return s.links }, cutLink},
		{"blackhole", 2, 3 * s, 12 * s, func(s shape) []string { return s.links }, holeLink},
		{"cut-devices", 1, 0, 3 * s, shape.nodes, cutDevices},
		{"blackhole-devices", 1, 3 * s, 12 * s, shape.nodes, holeDevices},
		{"disk-full", 1, 5 * s, 5 * s, func(s shape) []string { return s.servers }, fillDisk},
		{"storm", 1, 0, 0, at(devices), storm},
		{"roll-drain", 1, 0, 0, at("services"), rollDrain},
		{"roll-kill", 1, 0, 0, at("services"), rollKill},
	}
}

func storm(ctx context.Context, _ *World, p *Plan, _ Step) (undo, error) {
	if p.Storm == nil {
		return nil, errors.New("there is no crowd in this run")
	}
	return nil, p.Storm(ctx)
}
