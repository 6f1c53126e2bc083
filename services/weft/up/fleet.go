package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/services/weft/manifest"
)

// stopWait is how long a process may take to end after SIGTERM; then it is killed.
const stopWait = 10 * time.Second

// process is one that the fleet runs.
type process struct {
	name, role string
	data       string
	argv       []string
	ports      []string // addresses it listens on
	probe      string   // what answers once it is ready

	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	ready bool
}

// fleet is the processes that were started, in order. It belongs to one goroutine; one more per process waits for its
// end.
type fleet struct {
	log  *slog.Logger
	data string
	out  io.Writer
	all  []*process
}

// start starts a process, with its output in a log file of its own.
func (f *fleet) start(p process) error {
	log, err := os.OpenFile(f.logOf(&p), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()             // the process has its own handle
	p.cmd = exec.Command(p.argv[0], p.argv[1:]...) //nolint:gosec,noctx // our own argv; it is ended by stop, in order
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches us only, and we stop them in order
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.ended = make(chan struct{})
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its state tells
	}()
	f.all = append(f.all, &p)
	return nil
}

func (f *fleet) logOf(p *process) string { return filepath.Join(f.data, "log", p.name+".log") }

// ready waits until every process that was started answers its probe, and says so for each.
func (f *fleet) ready(ctx context.Context) error {
	deadline := time.After(readyWait)
	for _, p := range f.all {
		for !p.ready {
			if answers(ctx, p.probe) {
				p.ready = true
				_, _ = fmt.Fprintf(f.out, "  %-11s ready, pid %d\n", p.name, p.cmd.Process.Pid)
				continue
			}
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
	}
	return nil
}

// lastWords is the end of a process's log.
func (f *fleet) lastWords(p *process) string {
	const most = 1000
	b, err := os.ReadFile(f.logOf(p))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// stop ends the processes, the last started first, so that the servers outlive the services.
func (f *fleet) stop() error {
	var failed []error
	for _, p := range slices.Backward(f.all) {
		failed = append(failed, p.stop())
	}
	return errors.Join(failed...)
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopWait):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.ended
	return fmt.Errorf("%s did not end within %s and was killed", p.name, stopWait)
}

// processes describes the fleet for the manifest.
func (f *fleet) processes() []manifest.Process {
	var list []manifest.Process
	for _, p := range f.all {
		m := manifest.Process{Name: p.name, Role: p.role, PID: p.cmd.Process.Pid, Argv: p.argv, Data: p.data}
		for _, a := range p.ports {
			m.Ports = append(m.Ports, local.Port(a))
		}
		list = append(list, m)
	}
	return list
}

func dials(ctx context.Context, address string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
