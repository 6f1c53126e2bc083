package sqlite

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// lockPoll is how often a writer that waits for another process looks again.
	lockPoll = time.Millisecond
	// turn is how long a writer that has committed leaves the lock to those who wait.
	turn = 3 * time.Millisecond
)

// line is where the processes that share a file wait for their turn to write. SQLite's own waiting sleeps for up to
// 100 ms at a time, while a busy writer leaves the lock alone for some 50 µs between two transactions: without the
// line the slowest of four writers waited 360 to 690 ms for a batch, with it 110 to 150 ms (BenchmarkAppendProcesses). Who waits holds a shared lock on
// a file beside the archive; who has committed looks whether there is one. Both only try, so a process that is paused
// in the middle keeps nobody waiting; and the truth about who may write stays SQLite's.
type line struct{ file *os.File }

func newLine(path string) (line, error) {
	f, err := os.OpenFile(path+"-line", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return line{}, fmt.Errorf("sqlite: %w", err)
	}
	return line{f}, nil
}

// wait calls try until its error is not another's lock, ctx ends, or busyTimeout is over; it returns the last error.
func (l line) wait(ctx context.Context, try func() error) error {
	err := try()
	if !busy(err) {
		return err
	}
	defer l.lock(syscall.LOCK_UN)
	late := time.After(busyTimeout)
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		l.lock(syscall.LOCK_SH)
		select {
		case <-poll.C:
		case <-late:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		if err = try(); !busy(err) {
			return err
		}
	}
}

// yield lets others have their turn, if there are any and ctx does not end.
func (l line) yield(ctx context.Context) {
	if l.lock(syscall.LOCK_EX) {
		l.lock(syscall.LOCK_UN)
		return
	}
	select {
	case <-time.After(turn):
	case <-ctx.Done():
	}
}

// lock tries and says whether it succeeded.
func (l line) lock(how int) bool { return syscall.Flock(int(l.file.Fd()), how|syscall.LOCK_NB) == nil }

func (l line) close() error { return l.file.Close() }
