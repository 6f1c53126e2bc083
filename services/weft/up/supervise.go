package up

import (
	"context"
	"time"

	"github.com/weftpush/weft/services/weft/manifest"
)

const (
	// restartFirst is the pause before a process is started again. Each time that it has lived for less than young the
	// pause doubles, up to restartMost.
	restartFirst = time.Second
	restartMost  = 10 * time.Second
	young        = 10 * time.Second
)

// supervise starts again what dies, until ctx ends.
func (f *Fabric) supervise(ctx context.Context) {
	for _, p := range f.all {
		f.keepers.Go(func() { f.keep(ctx, p) })
	}
}

// keep keeps one process running. A start that fails counts as a life that was short.
func (f *Fabric) keep(ctx context.Context, p *process) {
	pause := restartFirst
	for {
		ended, began := f.life(p)
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
		how := p.cmd.ProcessState.String() // only this goroutine writes p.cmd from here on
		f.say("  %-11s ended: %s; it will be started again; see %s\n", p.name, how, f.logOf(p))
		f.record()
		if time.Since(began) > young {
			pause = restartFirst
		}
		for {
			if f.rest(ctx, p.name, how, pause); ctx.Err() != nil {
				return
			}
			pause = min(2*pause, restartMost)
			err := f.again(p)
			if err == nil {
				break
			}
			f.say("  %-11s %v\n", p.name, err)
		}
		f.record()
		f.awaitAgain(ctx, p)
	}
}

// life is when a process was started, and the channel that tells its end.
func (f *Fabric) life(p *process) (ended chan struct{}, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return p.ended, p.began
}

// rest returns when a process may be started again.
func (f *Fabric) rest(ctx context.Context, name, how string, pause time.Duration) {
	if f.o.Restart != nil {
		f.o.Restart(ctx, name, how, pause)
		return
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
}

func (f *Fabric) again(p *process) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return p.launch(f.logOf(p), f.environment())
}

// awaitAgain says when a process is ready that was started again; it returns too when the process ends before.
func (f *Fabric) awaitAgain(ctx context.Context, p *process) {
	ended, _ := f.life(p)
	look := time.NewTicker(againPoll)
	defer look.Stop()
	for !answers(ctx, p.probe) {
		select {
		case <-look.C:
		case <-ended:
			return
		case <-ctx.Done():
			return
		}
	}
	f.say("  %-11s ready again, pid %d\n", p.name, p.cmd.Process.Pid)
}

// record writes the manifest as things are now. A failure is said and not more: the processes matter more than the file.
func (f *Fabric) record() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m.Processes = f.processes()
	if err := manifest.Write(f.o.Data, f.m); err != nil {
		f.say("  %v\n", err)
	}
}
