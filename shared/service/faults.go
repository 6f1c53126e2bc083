package service

import (
	"log/slog"
	"sync"
	"time"
)

// faultEvery is the least time between two lines about the same step.
const faultEvery = 5 * time.Second

// Faults logs failures that can come many times a second: the first of each step at once, then at most one line per
// 5 s with how many there were. It may be used by many goroutines.
type Faults struct {
	log *slog.Logger

	mu    sync.Mutex // protects steps
	steps map[string]*faultStep
}

type faultStep struct {
	logged time.Time
	since  int // failures since the last line
}

// NewFaults returns Faults that write to log.
func NewFaults(log *slog.Logger) *Faults {
	return &Faults{log: log, steps: make(map[string]*faultStep)}
}

// Note logs that a step failed, or counts it. step is one of a few constant phrases, such as "read a mailbox".
func (f *Faults) Note(step string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.steps[step]
	if s == nil {
		s = &faultStep{}
		f.steps[step] = s
	}
	s.since++
	if now := time.Now(); now.Sub(s.logged) >= faultEvery {
		f.log.Warn("a step failed", "step", step, "err", err, "times", s.since)
		s.logged, s.since = now, 0
	}
}
