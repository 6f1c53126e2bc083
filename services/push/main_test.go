package push

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(program) != "" {
		os.Exit(runProgram())
	}
	// Where Redis is away, go-redis goes on for up to a second after Close.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// patience bounds every wait; nothing takes that long unless it is broken.
const patience = time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own is a clock that stands still while the machine gives this process no turn: what waits takes as long as ever, what
// only waits for the processor does not. It goes in steps of 10 ms, until stop is called.
func own() (now func() time.Duration, stop func()) {
	const beat = 10 * time.Millisecond
	var beats atomic.Int64
	var beating sync.WaitGroup
	done := make(chan struct{})
	beating.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C: // those that come too late to be seen are left out
				beats.Add(1)
			case <-done:
				return
			}
		}
	})
	return func() time.Duration { return time.Duration(beats.Load()) * beat }, func() { close(done); beating.Wait() }
}

// spent is how long something takes by that clock.
func spent(do func()) time.Duration {
	now, stop := own()
	defer stop()
	do()
	return now()
}

// eventually waits for what others do by themselves.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
