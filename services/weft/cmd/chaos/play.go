package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/chaos/load"
	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/services/weft/chaos/world"
)

const (
	// heartbeat is that of the push nodes: short, so that what is half open is noticed while the run lasts.
	heartbeat = 4 * time.Second
	// drain is how long a push node gives its clients when it is told to go: less than its default, which drills keep.
	drain = 5 * time.Second
	// mischief is the mean time between two misbehaviours of one device.
	mischief = 20 * time.Second
	// greeting is how long the devices may take to be connected before the first message.
	greeting = 30 * time.Second
	// stormMost bounds a storm.
	stormMost = 30 * time.Second
	// sayEvery is how often progress is told.
	sayEvery = 10 * time.Second
)

// errCrowd is that a promise was broken to the crowd.
var errCrowd = errors.New("the crowd was not served as promised")

// play runs the world and the load on it, and leaves the history in the folder.
func (o *options) play(ctx context.Context, folder string, say io.Writer) (err error) {
	log, err := record.Create(folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	_, _ = fmt.Fprintf(say, "form %s, seed %d; history and logs in %s\n", o.form, o.seed, folder)
	began := time.Now()
	w, err := world.Start(ctx, o.world(folder, log, say))
	if err != nil {
		return fmt.Errorf("start the world: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	l, err := o.load(w, log)
	if err != nil {
		return err
	}
	log.Run(record.Run{
		Seed: o.seed, Form: o.form, Started: time.Now().Format(time.RFC3339), Command: o.command(),
		Heartbeat: heartbeat.Microseconds(), Late: o.late.Microseconds(), Devices: l.Devices(),
	})
	crowd, err := o.crowdOf(w)
	if err != nil {
		return err
	}
	living, end := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() { l.Run(living) })
	clients.Go(func() { crowd.Run(living) })
	defer clients.Wait()
	defer end()
	late := time.After(greeting)
	for _, connected := range []<-chan struct{}{l.Connected(), crowd.Connected()} {
		select {
		case <-connected:
		case <-late:
			return fmt.Errorf("the devices are not connected after %s", greeting)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := o.stages(ctx, w, l, crowd, log, say); err != nil {
		return err
	}
	return errors.Join(o.crowdWhole(ctx, crowd), o.audit(ctx, w, began, say))
}

// stages are those of a run, once everybody is connected: publish and break, heal, let what is owed arrive.
func (o *options) stages(ctx context.Context, w *world.World, l *load.Load, crowd *load.Crowd, log *record.Log, say io.Writer) error {
	log.Phase("load")
	publishing, enough := context.WithCancel(ctx)
	defer enough()
	published := make(chan error, 1)
	go func() { published <- l.Publish(publishing) }()
	told := make(chan struct{})
	var telling sync.WaitGroup
	defer telling.Wait()
	defer close(told)
	telling.Go(func() { o.tell(told, w, l, say) })

	err := o.faulty(ctx, w, l, crowd)
	log.Phase("healed")
	for err == nil && l.Acked() < o.messages && ctx.Err() == nil {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	enough()
	err = errors.Join(err, <-published, ctx.Err())
	log.Phase("quiet")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(say, "  %d acknowledged; waiting for what is owed\n", l.Acked())
	owed := l.Settle(ctx)
	log.Phase("settled")
	_, _ = fmt.Fprintf(say, "  %d messages still owed\n", owed)
	return nil
}

// faulty injects faults for as long as was asked.
func (o *options) faulty(ctx context.Context, w *world.World, l *load.Load, crowd *load.Crowd) error {
	if o.kills == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.length)
		defer cancel()
	}
	if o.faults == noFaults {
		<-ctx.Done()
		return nil
	}
	plan := world.Plan{Kills: o.kills, PauseLeast: o.pause / 5, PauseMost: o.pause, InFlight: l.InFlight, Storm: func(ctx context.Context) error { return storm(ctx, crowd) }}
	if o.faults != "" {
		plan.Faults = strings.Split(o.faults, ",")
	}
	return w.Run(ctx, plan)
}

// storm makes the crowd reconnect at once, and returns when each has got what it was sent meanwhile.
func storm(ctx context.Context, crowd *load.Crowd) error {
	ctx, cancel := context.WithTimeout(ctx, stormMost)
	defer cancel()
	crowd.Cut()
	_ = errors.Join(crowd.Send(ctx, 1), crowd.Await(ctx)) // what is missing is looked for again at the end
	return nil
}

// crowdWhole says what the crowd, which has no part in the history, has lost or seen twice.
func (o *options) crowdWhole(ctx context.Context, crowd *load.Crowd) error {
	ctx, cancel := context.WithTimeout(ctx, stormMost)
	defer cancel()
	err := crowd.Await(ctx)
	if c := crowd.Counts(); c != (load.Counts{}) || err != nil {
		return errors.Join(fmt.Errorf("%w: %+v", errCrowd, c), err)
	}
	return nil
}

// tell says now and then how far the run is.
func (o *options) tell(told <-chan struct{}, w *world.World, l *load.Load, say io.Writer) {
	tick := time.NewTicker(sayEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-told:
			return
		case <-tick.C:
			_, _ = fmt.Fprintf(say, "%5.0f s: %d acknowledged, %d in flight, %d kills\n", time.Since(began).Seconds(), l.Acked(), l.InFlight(), w.Kills())
		}
	}
}

// world is what a world is started with.
func (o *options) world(folder string, log *record.Log, say io.Writer) world.Options {
	_, missing := exec.LookPath("nats-server")
	env := []string{"WEFT_HEARTBEAT=" + heartbeat.String()}
	if !o.drills {
		env = append(env, "WEFT_DRAIN="+drain.String())
	}
	return world.Options{
		Data: filepath.Join(folder, "world"), Form: world.Form(o.form), Seed: o.seed, Log: log, Out: say,
		Archive: o.archive, BuildNATS: missing != nil,
		Env: append(env, o.env...),
	}
}

// crowdOf is the crowd on a world.
func (o *options) crowdOf(w *world.World) (*load.Crowd, error) {
	keys, err := auth.LoadKeys(w.Keys())
	if err != nil {
		return nil, err
	}
	return load.NewCrowd(load.CrowdOptions{NATS: w.NATS(), Push: w.Push(), Key: keys[0], Seed: o.seed, Size: o.crowd})
}

// load is the load on a world.
func (o *options) load(w *world.World, log *record.Log) (*load.Load, error) {
	keys, err := auth.LoadKeys(w.Keys())
	if err != nil {
		return nil, err
	}
	return load.New(load.Options{
		NATS: w.NATS(), Push: w.Push(), Collect: w.Collect(), Key: keys[0], Log: log, Seed: o.seed,
		Users: o.users, Writers: o.writers, Rate: o.rate, Mischief: mischief, Keep: 3 * heartbeat, TTL: o.ttl,
	})
}

// command is the command line that does this run again.
func (o *options) command() string {
	line := new(strings.Builder)
	_, _ = fmt.Fprintf(line, "%s -form %s -seed %d -pause %s -rate %g -users %d -crowd %d -writers %d -late %s", name, o.form, o.seed, o.pause, o.rate, o.users, o.crowd, o.writers, o.late)
	for _, part := range []struct {
		given bool
		text  string
	}{
		{o.kills == 0, fmt.Sprintf(" -for %s", o.length)},
		{o.kills > 0, fmt.Sprintf(" -kills %d", o.kills)},
		{o.messages > 0, fmt.Sprintf(" -messages %d", o.messages)},
		{o.faults != "", " -faults " + o.faults},
		{o.ttl > 0, fmt.Sprintf(" -ttl %s", o.ttl)},
		{o.archive != "", " -archive " + o.archive},
		{len(o.env) > 0, " -env " + strings.Join(o.env, " -env ")},
	} {
		if part.given {
			line.WriteString(part.text)
		}
	}
	return line.String()
}
