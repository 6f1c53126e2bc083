package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftpush/weft/services/weft/manifest"
)

// tick is the unit of CPU times in /proc, 100 a second on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpu is the CPU time of each process, by name.
type cpu map[string]time.Duration

// readCPU reads the CPU time that the fabric's processes and this one have used, from /proc.
func readCPU(m manifest.Manifest) cpu {
	used := cpu{"bench (publisher and devices)": ofProcess(os.Getpid())}
	for _, p := range m.Processes {
		used[p.Name] = ofProcess(p.PID)
	}
	return used
}

// ofProcess is user and system time of a process; 0 where /proc does not tell.
func ofProcess(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before it may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}

func (c cpu) since(before cpu) cpu {
	used := make(cpu, len(c))
	for name, d := range c {
		used[name] = d - before[name]
	}
	return used
}

// result is what a run found.
type result struct {
	Messages   int                `json:"messages"`
	Users      int                `json:"users"`
	Size       int                `json:"size"`
	Rate       int                `json:"rate"`
	Lost       int                `json:"lost"`
	Doubled    int                `json:"doubled"`
	Unordered  int                `json:"out_of_order"`
	PerSecond  float64            `json:"messages_per_second"` // from the first publish to the last arrival
	Accepted   float64            `json:"accepted_per_second"` // by the stream door
	P50        float64            `json:"p50_ms"`              // publish to receive
	P99        float64            `json:"p99_ms"`
	Max        float64            `json:"max_ms"`
	CPUSeconds map[string]float64 `json:"cpu_seconds_per_million"`
}

// report prints the result; its error says that a promise was broken.
func report(o options, receivers []*receiver, published, took time.Duration, used cpu) error {
	r := result{Messages: o.messages, Users: o.users, Size: o.size, Rate: o.rate, CPUSeconds: make(map[string]float64)}
	var latencies []time.Duration
	for _, receiver := range receivers {
		latencies = append(latencies, receiver.latencies...)
		r.Doubled += receiver.doubled
		r.Unordered += receiver.unordered
	}
	r.Lost = o.messages - len(latencies)
	r.PerSecond = float64(len(latencies)) / took.Seconds()
	r.Accepted = float64(o.messages) / published.Seconds()
	slices.Sort(latencies)
	r.P50, r.P99, r.Max = at(latencies, 0.50), at(latencies, 0.99), at(latencies, 1)
	for name, d := range used {
		r.CPUSeconds[name] = d.Seconds() * 1e6 / float64(o.messages)
	}
	if o.json {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	} else {
		r.print()
	}
	if r.Lost+r.Doubled+r.Unordered > 0 {
		return errors.New("messages were lost, doubled or out of order")
	}
	return nil
}

func (r *result) print() {
	fmt.Printf("%d messages of %d bytes to %d users", r.Messages, r.Size, r.Users)
	if r.Rate > 0 {
		fmt.Printf(" at %d a second", r.Rate)
	}
	fmt.Printf("\n\n  lost %d, doubled %d, out of order %d\n\n", r.Lost, r.Doubled, r.Unordered)
	fmt.Printf("  %-34s %10.0f msgs/s\n", "accepted by the stream door", r.Accepted)
	fmt.Printf("  %-34s %10.0f msgs/s\n", "received by the devices", r.PerSecond)
	fmt.Printf("  %-34s %10.1f ms p50 %8.1f ms p99 %8.1f ms max\n\n", "publish to receive", r.P50, r.P99, r.Max)
	names := make([]string, 0, len(r.CPUSeconds))
	total := 0.0
	for name, s := range r.CPUSeconds {
		names = append(names, name)
		total += s
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("  %-34s %10.1f CPU s per million messages\n", name, r.CPUSeconds[name])
	}
	fmt.Printf("  %-34s %10.1f\n", "all", total)
}

// at is a quantile of sorted latencies, in ms.
func at(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / float64(time.Millisecond)
}
