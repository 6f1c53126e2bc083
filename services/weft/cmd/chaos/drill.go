package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/load"
	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/services/weft/chaos/world"
	"github.com/weftpush/weft/services/weft/local"
)

const (
	// drillCrowd is how many clients the promises are about.
	drillCrowd = 2000
	// drillPatience bounds everything that a drill waits for.
	drillPatience = 90 * time.Second
	// drillEvery is how often the crowd is sent a message each while a drill lasts.
	drillEvery = 2 * time.Second
	// lookEvery is how often the connections of a node are counted.
	lookEvery = 100 * time.Millisecond
)

// Figure is one thing that was promised and measured.
type Figure struct {
	Drill    string  `json:"drill"`
	What     string  `json:"what"`
	Unit     string  `json:"unit"`
	Promised float64 `json:"promised"` // at most
	Seen     float64 `json:"seen"`
	Kept     bool    `json:"kept"`
}

// drills is a world with a crowd, and what was measured on them so far.
type drills struct {
	o       *options
	w       *world.World
	crowd   *load.Crowd
	say     io.Writer
	figures []Figure
}

// drill runs the drills and prints their figures. Its exit code is 0 if each promise was kept.
func (o *options) drill(ctx context.Context, folder string, stdout, stderr io.Writer) (code int, err error) {
	log, err := record.Create(folder)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	w, err := world.Start(ctx, o.world(folder, log, stderr))
	if err != nil {
		return 1, fmt.Errorf("start the world: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	crowd, err := o.crowdOf(w)
	if err != nil {
		return 1, err
	}
	living, end := context.WithCancel(ctx)
	var members sync.WaitGroup
	members.Go(func() { crowd.Run(living) })
	defer members.Wait()
	defer end()
	d := &drills{o: o, w: w, crowd: crowd, say: stderr}
	if err := d.all(ctx); err != nil {
		return 1, fmt.Errorf("%w; what it left is in %s", err, folder)
	}
	return d.print(stdout)
}

// all runs each drill on the crowd, which is whole again, and evenly spread but for the first, before the next begins.
func (d *drills) all(ctx context.Context) error {
	list := []func(context.Context) error{
		d.nodeKilled, d.nodePaused, d.halfOpen, d.storm, d.rolled,
		func(ctx context.Context) error { return d.ownerKilled(ctx, "collect-1", 3*time.Second) },
		func(ctx context.Context) error { return d.ownerKilled(ctx, "dispatch-1", 3*time.Second) },
	}
	if d.o.form == string(world.Long) { // else there is no other server to go on with
		list = append(list, func(ctx context.Context) error { return d.ownerKilled(ctx, "nats-1", 10*time.Second) })
	}
	for i, run := range list {
		if err := d.whole(ctx, time.Time{}); err != nil {
			return err
		}
		gather := d.crowd.Spread
		if i == 0 { // it is about a node with all of them
			gather = func() time.Time { return d.crowd.Gather(0) }
		}
		since := gather()
		if err := d.whole(ctx, since); err != nil {
			return err
		}
		if err := run(ctx); err != nil {
			return err
		}
	}
	c := d.crowd.Counts()
	d.figure("all of them", "messages lost", "", 0, float64(c.Lost))
	d.figure("all of them", "messages doubled after their acknowledgement", "", 0, float64(c.Doubled))
	d.figure("all of them", "messages out of order", "", 0, float64(c.Jumped))
	d.figure("all of them", "messages of another", "", 0, float64(c.Mistaken))
	return nil
}

// whole waits until every member is connected, by a connection later than since, and owed nothing, and every process
// is ready.
func (d *drills) whole(ctx context.Context, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, drillPatience)
	defer cancel()
	select {
	case <-d.crowd.Connected():
	case <-ctx.Done():
		return errors.New("the crowd is not connected")
	}
	if err := errors.Join(d.w.Await(ctx), d.crowd.Await(ctx)); err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for slices.ContainsFunc(d.crowd.Places(), func(p load.Place) bool { return !p.Online || p.Since.Before(since) }) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return d.away(since)
		}
	}
	return nil
}

// away says who is not there, and why the first of them is not.
func (d *drills) away(since time.Time) error {
	var away []load.Place
	for _, p := range d.crowd.Places() {
		if !p.Online || p.Since.Before(since) {
			away = append(away, p)
		}
	}
	if len(away) == 0 {
		return errors.New("the crowd came back too late")
	}
	first := away[0]
	return fmt.Errorf("%d of the crowd stay away; %s, at %s since %s, because: %w", len(away), first.User, first.Node, first.Since.Format(time.TimeOnly), first.Why)
}

// during injects a fault while the crowd is sent a message each, now and every 2 s, and returns when it is healed and
// everything has arrived.
func (d *drills) during(ctx context.Context, s world.Step) (struck time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, drillPatience)
	defer cancel()
	sending, enough := context.WithCancel(ctx)
	defer enough()
	sent := make(chan error, 1)
	go func() { sent <- d.send(ctx, sending) }()
	struck = time.Now()
	fault, err := d.w.Inject(ctx, world.Plan{InFlight: d.crowd.Owing}, s)
	enough()
	err = errors.Join(err, <-sent)
	if err == nil && !fault.Injected {
		err = fmt.Errorf("%s of %s: %s", s.Name, s.Target, fault.Note)
	}
	return struck, errors.Join(err, d.crowd.Await(ctx))
}

// send sends the crowd a message each, now and then, until sending ends.
func (d *drills) send(ctx, sending context.Context) error {
	tick := time.NewTicker(drillEvery)
	defer tick.Stop()
	for {
		if err := d.crowd.Send(ctx, 1); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-sending.Done():
			return nil
		}
	}
}

// at are the members that are connected to a node of the world now, 1 being the first. Which node that is, only the
// clients know: the one that most of those share who were sent there.
func (d *drills) at(node int) (on func(member int) bool, count int) {
	places := d.crowd.Places()
	votes := make(map[string]int)
	for i, p := range places {
		if i%len(d.w.Push()) == node-1 {
			votes[p.Node]++
		}
	}
	var id string
	for candidate, n := range votes {
		if n > votes[id] {
			id = candidate
		}
	}
	members := make(map[int]bool)
	for i, p := range places {
		if p.Node == id {
			members[i] = true
		}
	}
	return func(member int) bool { return members[member] }, len(members)
}

// nodeKilled: what the sessions of a killed node are owed comes to them elsewhere.
func (d *drills) nodeKilled(ctx context.Context) error {
	on, count := d.at(1)
	struck, err := d.during(ctx, world.Step{Name: "kill", Target: "push-1", For: 8 * time.Second})
	if err != nil {
		return err
	}
	drill := fmt.Sprintf("kill -9 of a push node with %d sessions", count)
	s := d.crowd.Delays(struck, on)
	d.figure(drill, "redelivery, p99", "s", 3, s.P99.Seconds())
	d.figure(drill, "redelivery, all", "s", 5, s.Max.Seconds())
	return nil
}

// nodePaused: the sessions of a node that is stopped for 15 s are served elsewhere.
func (d *drills) nodePaused(ctx context.Context) error {
	on, count := d.at(2)
	struck, err := d.during(ctx, world.Step{Name: "stop", Target: "push-2", For: 15 * time.Second})
	if err != nil {
		return err
	}
	drill := fmt.Sprintf("SIGSTOP for 15 s of a push node with %d sessions", count)
	d.figure(drill, "served elsewhere", "s", 10, d.crowd.Delays(struck, on).Max.Seconds())
	others := func(member int) bool { return !on(member) }
	d.figure(drill, "p99 of the other nodes' users", "s", 1, d.crowd.Delays(struck, others).P99.Seconds())
	return nil
}

// halfOpen: a node notices that its clients are there no more, though no connection was closed.
func (d *drills) halfOpen(ctx context.Context) error {
	on, count := d.at(1)
	port := local.Port(d.w.Manifest().Push[0])
	counting, stop := context.WithCancel(ctx)
	defer stop()
	var noticed time.Time
	var looking sync.WaitGroup
	struck := time.Now()
	looking.Go(func() { noticed = none(counting, port) })
	_, err := d.during(ctx, world.Step{Name: "blackhole-devices", Target: "push-1", For: 12 * time.Second})
	stop()
	looking.Wait()
	if err != nil {
		return err
	}
	drill := fmt.Sprintf("%d half-open clients", count)
	seen := noticed.Sub(struck)
	if noticed.IsZero() {
		seen = drillPatience
	}
	d.figure(drill, "noticed by the node", "s", 10, seen.Seconds())
	d.figure(drill, "served elsewhere", "s", 10, d.crowd.Delays(struck, on).Max.Seconds())
	return nil
}

// none is when a port of this machine had no established connection any more; zero if that did not come.
func none(ctx context.Context, port int) time.Time {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		n, err := established(port)
		if err == nil && n == 0 {
			return time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return time.Time{}
		}
	}
}

// storm: all reconnect at once.
func (d *drills) storm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drillPatience)
	defer cancel()
	struck := d.crowd.Cut()
	if err := errors.Join(d.crowd.Send(ctx, 1), d.crowd.Await(ctx), d.whole(ctx, struck)); err != nil {
		return err
	}
	drill := fmt.Sprintf("%d clients reconnecting at once", d.o.crowd)
	var last time.Time
	for _, p := range d.crowd.Places() {
		if p.Since.After(last) {
			last = p.Since
		}
	}
	d.figure(drill, "all connected", "s", 10, last.Sub(struck).Seconds())
	d.figure(drill, "what was sent meanwhile has arrived", "s", 10, d.crowd.Delays(struck, nil).Max.Seconds())
	return nil
}

// rolled: every service process is restarted, one after the other, with its drain.
func (d *drills) rolled(ctx context.Context) error {
	struck, err := d.during(ctx, world.Step{Name: "roll-drain", Target: "services"})
	if err != nil {
		return err
	}
	seconds := d.crowd.Reconnects(struck)
	total, most := 0, 0
	for _, n := range seconds {
		total, most = total+n, max(most, n)
	}
	_, _ = fmt.Fprintf(d.say, "  reconnects in each second: %v, %d of %d clients\n", seconds, total, d.o.crowd)
	d.figure("rolling restart with drain", "clients reconnecting in any one second", "%", 20, 100*float64(most)/float64(d.o.crowd))
	d.figure("rolling restart with drain", "slowest message", "s", 5, d.crowd.Delays(struck, nil).Max.Seconds())
	return nil
}

// ownerKilled: what a killed process has owned goes on elsewhere.
func (d *drills) ownerKilled(ctx context.Context, target string, limit time.Duration) error {
	struck, err := d.during(ctx, world.Step{Name: "kill", Target: target, For: limit + 2*time.Second})
	if err != nil {
		return err
	}
	d.figure("kill -9 of "+target, "slowest message", "s", limit.Seconds(), d.crowd.Delays(struck, nil).Max.Seconds())
	return nil
}

func (d *drills) figure(drill, what, unit string, promised, seen float64) {
	f := Figure{Drill: drill, What: what, Unit: unit, Promised: promised, Seen: seen, Kept: seen <= promised}
	d.figures = append(d.figures, f)
	_, _ = fmt.Fprintf(d.say, "  %s: %s %.3g %s (at most %g)\n", f.Drill, f.What, f.Seen, f.Unit, f.Promised)
}

// print prints the figures and returns the exit code.
func (d *drills) print(w io.Writer) (int, error) {
	code := 0
	for _, f := range d.figures {
		if !f.Kept {
			code = 1
		}
	}
	if d.o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return code, enc.Encode(d.figures)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(t, "drill\twhat\tpromised\tseen\t\n") // Flush tells
	for _, f := range d.figures {
		kept := ""
		if !f.Kept {
			kept = "NOT KEPT"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%g %s\t%.3g %s\t%s\n", f.Drill, f.What, f.Promised, f.Unit, f.Seen, f.Unit, kept)
	}
	return code, t.Flush()
}
