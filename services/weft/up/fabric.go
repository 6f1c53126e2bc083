package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/services/weft/manifest"
)

const (
	// readyWait is how long the processes may take until they are ready at the start.
	readyWait = 30 * time.Second
	readyPoll = 25 * time.Millisecond
	// againPoll is how often a process is asked that was started again: nats-server logs each time that it is not.
	againPoll = 100 * time.Millisecond
)

// ErrDown is that a process does not run at the moment.
var ErrDown = errors.New("the process is down")

// Fabric is the processes that Start started and supervises. Its methods may be called by any goroutine.
type Fabric struct {
	o       Options
	key     auth.Key
	lock    *os.File
	all     []*process         // in the order of their first start; complete when Start returns
	quit    context.CancelFunc // ends the supervision
	keepers sync.WaitGroup     // one for each process, from when all are ready

	mu sync.Mutex // protects what changes of the processes, and m; held while the manifest is written
	m  manifest.Manifest

	out sync.Mutex // is held to write a line to o.Out; taken last
}

// Manifest is what runs now, as the file in the data folder has it.
func (f *Fabric) Manifest() manifest.Manifest {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.m
	m.Processes = f.processes()
	return m
}

// Signal sends a signal to a process; the error is ErrDown if it does not run.
func (f *Fabric) Signal(name string, s syscall.Signal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.all {
		if p.name != name {
			continue
		}
		err := p.cmd.Process.Signal(s)
		if errors.Is(err, os.ErrProcessDone) {
			err = ErrDown
		}
		if err != nil {
			return fmt.Errorf("%s to %s: %w", s, name, err)
		}
		return nil
	}
	return fmt.Errorf("there is no process %s", name)
}

// Await waits until the processes of these names, or all if there are none, run and answer their probes, one after
// the other; a paused one does not answer. The error is that of ctx, with the name of who did not answer.
func (f *Fabric) Await(ctx context.Context, names ...string) error {
	look := time.NewTicker(againPoll)
	defer look.Stop()
	for _, p := range f.all {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		for f.isDown(p) || !answers(ctx, p.probe) {
			select {
			case <-look.C:
			case <-ctx.Done():
				return fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
			}
		}
	}
	return nil
}

func (f *Fabric) isDown(p *process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return p.down()
}

// down says that it has ended and was not started again. Fabric.mu is held.
func (p *process) down() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Stop ends the supervision and the processes, the last started first, so that the servers outlive the services; then
// it gives the data folder back.
func (f *Fabric) Stop() error {
	f.quit()
	f.keepers.Wait()
	var failed []error
	for _, p := range slices.Backward(f.all) {
		failed = append(failed, p.stop())
	}
	return errors.Join(append(failed, manifest.Remove(f.o.Data), f.lock.Close())...)
}

// add starts a process for the first time.
func (f *Fabric) add(p process) error {
	if err := p.launch(f.logOf(&p), f.environment()); err != nil {
		return err
	}
	f.all = append(f.all, &p)
	return nil
}

func (f *Fabric) environment() []string { return append(os.Environ(), f.o.Env...) }

func (f *Fabric) logOf(p *process) string { return filepath.Join(f.o.Data, "log", p.name+".log") }

// ready waits until every process from a number on answers its probe, and says so for each. One that ends before fails
// the start: nothing that can't start once is tried again.
func (f *Fabric) ready(ctx context.Context, from int) error {
	deadline := time.After(readyWait)
	for _, p := range f.all[from:] {
		for !answers(ctx, p.probe) {
			select {
			case <-p.ended:
				return fmt.Errorf("%s ended before it was ready: %s; its last words in %s:\n%s", p.name, p.cmd.ProcessState, f.logOf(p), f.lastWords(p))
			case <-deadline:
				return fmt.Errorf("%s is not ready after %s; see %s", p.name, readyWait, f.logOf(p))
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(readyPoll):
			}
		}
		f.say("  %-11s ready, pid %d\n", p.name, p.cmd.Process.Pid)
	}
	return nil
}

// lastWords is the end of a process's log.
func (f *Fabric) lastWords(p *process) string {
	const most = 1000
	b, err := os.ReadFile(f.logOf(p))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// processes describes the processes for the manifest. f.mu is held.
func (f *Fabric) processes() []manifest.Process {
	var list []manifest.Process
	for _, p := range f.all {
		m := manifest.Process{Name: p.name, Role: p.role, PID: p.cmd.Process.Pid, Down: p.down(), Argv: p.argv, Probe: p.probe, Data: p.data}
		for _, a := range p.ports {
			m.Ports = append(m.Ports, local.Port(a))
		}
		list = append(list, m)
	}
	return list
}

func (f *Fabric) say(format string, args ...any) {
	f.out.Lock()
	defer f.out.Unlock()
	_, _ = fmt.Fprintf(f.o.Out, format, args...)
}
