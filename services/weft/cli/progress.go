package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// redraw is how often a bar is drawn at most, and printEvery how often a line is printed where there is no terminal.
	redraw     = 100 * time.Millisecond
	printEvery = 5 * time.Second
	barColumns = 24
)

// progress shows on standard error how far something long has come: a bar on a terminal, a line every 5 s elsewhere. It
// must be ended.
type progress struct {
	to     *screen
	now    func() time.Time
	began  time.Time
	last   time.Time // that something was shown
	done   int       // of total, since the beginning
	before int       // done when it began: taken up again
	total  int
	text   string
}

// progress begins to show; before is what an earlier run has done.
func (k *console) progress(before int) *progress {
	now := k.now()
	return &progress{to: k.said, now: k.now, began: now, last: now.Add(-redraw), before: before}
}

// at shows that done of total is done; total may be an estimate that changes. counts says more, in a few words.
func (p *progress) at(done, total int, counts string) {
	p.done, p.total, p.text = done, max(done, total), counts
	p.show()
}

func (p *progress) show() {
	now := p.now()
	if !p.to.terminal {
		if now.Sub(p.last) >= printEvery {
			p.last = now
			note(p.to, "%s", p.line(now))
		}
		return
	}
	if now.Sub(p.last) < redraw {
		return
	}
	p.last = now
	text := p.bar() + " " + p.line(now)
	if columns := p.to.columns(); columns > 1 {
		text = clipped(text, columns-1) // a line that wraps can't be drawn over
	}
	p.to.clear()
	_, _ = io.WriteString(p.to, text)
	p.to.drawn = true
}

// line is what is said: share, counts, rate and how long it will still take.
func (p *progress) line(now time.Time) string {
	parts := []string{fmt.Sprintf("%3d%%", int(p.share()*100))}
	if p.text != "" {
		parts = append(parts, p.text)
	}
	took := now.Sub(p.began)
	if rate := float64(p.done-p.before) / took.Seconds(); took >= time.Second && rate > 0 {
		parts = append(parts, thousands(int(rate))+"/s")
		if left := p.total - p.done; left > 0 {
			parts = append(parts, "ETA "+lasting(max(time.Duration(float64(left)/rate*float64(time.Second)), time.Second)))
		}
	}
	return strings.Join(parts, "  ")
}

// share is what is done, 0 to 1. Of what nobody can estimate yet it is 0.
func (p *progress) share() float64 {
	if p.total == 0 {
		return 0
	}
	return float64(p.done) / float64(p.total)
}

func (p *progress) bar() string {
	full := int(p.share() * barColumns)
	return strings.Repeat("█", full) + strings.Repeat("░", barColumns-full)
}

// pause waits and goes on showing, unless ctx ends first.
func (p *progress) pause(ctx context.Context, d time.Duration) error {
	for ; d > redraw; d -= redraw {
		if err := pause(ctx, redraw); err != nil {
			return err
		}
		p.show()
	}
	return pause(ctx, max(d, 0))
}

// end removes the bar: what is printed next stands alone.
func (p *progress) end() { p.to.clear() }
