package world

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strikes injects a fault that is to last for an hour, waits until its effect is seen, ends it, and waits until the
// effect is gone.
func strikes(t *testing.T, w *World, s Step, effect func() bool) {
	t.Helper()
	if effect() {
		t.Errorf("%s on %s: the effect is there without the fault", s.Name, s.Target)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.For = time.Hour
	done := make(chan struct{})
	go func() {
		defer close(done)
		if f, err := w.Inject(ctx, Plan{}, s); err != nil || !f.Injected || f.Healed == 0 {
			t.Errorf("%+v, %v", f, err)
		}
	}()
	await(t, s.Name+" on "+s.Target, effect)
	cancel()
	<-done
	await(t, "the end of "+s.Name+" on "+s.Target, func() bool { return !effect() })
}

func await(t *testing.T, what string, met func() bool) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for late := time.Now().Add(patience); !met(); <-look.C {
		if time.Now().After(late) {
			t.Fatalf("%s: nothing of it is seen", what)
		}
	}
}

// faultsStrike says of faults whose effect can be seen from outside that they have it while they last, and not longer.
func faultsStrike(t *testing.T, w *World) {
	strikes(t, w, Step{Name: "stop", Target: "push-2"}, func() bool { return state(process(t, w, "push-2").PID) == "T" })
	strikes(t, w, Step{Name: "archive-down", Target: "archive"}, func() bool { return !archiveTakes(t, w) })
	strikes(t, w, Step{Name: "cut", Target: "push-1/redis"}, func() bool { return ask(w.proxy("push-1", "redis").Addr(), "PING") == "" })
	strikes(t, w, Step{Name: "redis-oom", Target: "redis"}, func() bool { return strings.Contains(ask(w.address("redis"), "SET a 1"), "OOM") })
	if w.disk.refused == nil {
		strikes(t, w, Step{Name: "disk-full", Target: "nats-1"}, func() bool {
			file := filepath.Join(w.disk.folders["nats-1"], "test")
			defer os.Remove(file)
			return errors.Is(os.WriteFile(file, make([]byte, 64<<10), 0o600), syscall.ENOSPC)
		})
	} else if os.Geteuid() == 0 {
		t.Errorf("root has no small disk: %v", w.disk.refused)
	}
	redisForgets(t, w)
	processDies(t, w, "dispatch-1")
}

// redisForgets says that Redis is empty after a flush and after a kill, and back in the past with an old copy.
func redisForgets(t *testing.T, w *World) {
	t.Helper()
	redis := func() string { return w.address("redis") }
	has := func() string { return ask(redis(), "EXISTS test") }
	for _, s := range []Step{{Name: "redis-flush", Target: "redis"}, {Name: kill, Target: "redis"}} {
		ask(redis(), "SET test 1")
		ask(redis(), "SAVE") // what a kill must not start from
		if _, err := w.Inject(t.Context(), Plan{}, s); err != nil || has() != ":0" {
			t.Errorf("after %s Redis answers %s, %v", s.Name, has(), err)
		}
	}
	ask(redis(), "SET test 1")
	if err := w.keepDump(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask(redis(), "DEL test")
	if f, err := w.Inject(t.Context(), Plan{}, Step{Name: "redis-old", Target: "redis"}); err != nil || has() != ":1" {
		t.Errorf("with an old copy Redis answers %s; %+v, %v", has(), f, err)
	}
}

// processDies says that a process that dies without the judge's doing comes back too; the record tells.
func processDies(t *testing.T, w *World, name string) {
	t.Helper()
	before := process(t, w, name)
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "a new "+name, func() bool {
		p := process(t, w, name)
		return p.PID != before.PID && !p.Down
	})
	if err := w.Await(t.Context()); err != nil {
		t.Error(err)
	}
}

// archiveTakes says whether somebody else could write to the archive within a moment.
func archiveTakes(t *testing.T, w *World) bool {
	t.Helper()
	db, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_pragma=busy_timeout(500)&_txlock=immediate", filepath.Join(w.o.Data, "archive.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		return false
	}
	return tx.Rollback() == nil
}

// ask gives Redis a command and returns the first line of the answer, or nothing.
func ask(address, command string) string {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprintf(conn, "%s\r\n", command)
	answer, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer)
}
