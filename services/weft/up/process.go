package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopWait is how long a process may take to end after SIGINT; then it is killed.
const stopWait = 10 * time.Second

// process is one that the fabric runs, and starts again with the same words when it dies.
type process struct {
	name, role string
	data       string
	argv       []string
	ports      []string // addresses it listens on
	probe      string   // what answers once it is ready

	// Protected by Fabric.mu; written when it is started.
	cmd   *exec.Cmd
	began time.Time
	ended chan struct{} // closed when it has ended
}

// launch starts the process, with its output at the end of a log file of its own.
func (p *process) launch(logFile string, env []string) error {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()            // the process has its own handle
	cmd := exec.Command(p.argv[0], p.argv[1:]...) //nolint:gosec,noctx // our own argv; it is ended by stop, in order
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches us only, and we stop them in order
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its state tells
	}()
	p.cmd, p.ended, p.began = cmd, ended, time.Now()
	return nil
}

// stop tells the process to end at once, which SIGINT means to services (SIGTERM would let them drain), and waits for it.
// It must not be started again meanwhile.
func (p *process) stop() error {
	err := errors.Join(
		p.cmd.Process.Signal(os.Interrupt),
		p.cmd.Process.Signal(syscall.SIGCONT), // one that is paused could not obey
	)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
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

// answers says whether a process answers its probe: an HTTP URL with 200, or a TCP connection.
func answers(ctx context.Context, probe string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if address, ok := strings.CutPrefix(probe, "tcp://"); ok {
		return dials(ctx, address)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, probe, nil)
	if err != nil {
		return false
	}
	request.Close = true // a connection that is kept would be to a process that may die
	response, err := new(http.Client).Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func dials(ctx context.Context, address string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
