package doctor

import (
	"cmp"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// apart is how far clocks may be from each other: TTLs, retention and the ages of receipts go by them.
const apart = 2 * time.Second

// clock is what a clock showed when it was asked.
type clock struct {
	whose string
	ahead time.Duration // of this machine's
}

// showed notes a clock that was read at some time between two moments of this machine's.
func (e *exam) showed(whose string, at, from, until time.Time) {
	var ahead time.Duration
	switch {
	case at.Before(from):
		ahead = at.Sub(from)
	case at.After(until):
		ahead = at.Sub(until)
	}
	e.clocks = append(e.clocks, clock{whose, ahead})
}

// showedStream notes the clock of a stream's leader: the TTL of what comes by the stream door is counted by it.
func (e *exam) showedStream(info *jetstream.StreamInfo, from, until time.Time) {
	if info.TimeStamp.IsZero() {
		return // of a server that does not say it
	}
	whose := "the NATS server"
	if info.Cluster != nil && info.Cluster.Leader != "" {
		whose += " " + info.Cluster.Leader
	}
	e.showed(whose, info.TimeStamp, from, until)
}

// compareClocks compares those of NATS servers, collects, push nodes, Redis and archive with this machine's. Where all of
// them agree with each other it is this machine's that is wrong.
func (e *exam) compareClocks() {
	answered := func(whose string, ms int64) {
		if ms > 0 {
			e.showed(whose, time.UnixMilli(ms), e.asked, e.heard)
		}
	}
	for _, c := range e.checks {
		answered("collect at "+c.Host, c.Now)
		answered(c.Archive.Kind, c.Archive.Clock)
		answered(c.Redis.Kind, c.Redis.Clock)
	}
	for _, n := range e.nodes {
		answered("push node at "+n.Host, n.Now)
	}
	if len(e.clocks) == 0 {
		return // others say that nobody answers
	}
	byAhead := func(a, b clock) int { return cmp.Compare(a.ahead, b.ahead) }
	first, last := slices.MinFunc(e.clocks, byAhead), slices.MaxFunc(e.clocks, byAhead)
	worst := last
	if -first.ahead > last.ahead {
		worst = first
	}
	off := worst.ahead.Abs().Round(100 * time.Millisecond)
	switch {
	case off <= apart:
		e.ok("clocks", "all clocks are within %s of this machine's", apart)
	case len(e.clocks) > 1 && last.ahead-first.ahead <= apart+e.heard.Sub(e.asked) && (first.ahead > 0) == (last.ahead > 0):
		e.note("clocks", Warning, "set this machine's clock, or --since and --until mean other times than you think", "this machine's clock is %s away from all others, which agree", off)
	default:
		e.note("clocks", Warning, "let all machines ask the same time servers (chrony, systemd-timesyncd)", "the clock of %s is %s away from this machine's", worst.whose, off)
	}
}
