package up

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// fabricOf is a fabric of one process, which is not ready before ready is made.
func fabricOf(t *testing.T, o Options, argv ...string) *Fabric {
	t.Helper()
	o.Data, o.Out = t.TempDir(), io.Discard
	if err := os.MkdirAll(filepath.Join(o.Data, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := &Fabric{o: o}
	if err := f.add(process{name: "it", role: "test", argv: argv, probe: "tcp://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPausesGrowWhileAProcessDiesYoung(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var pauses []time.Duration
	var last string
	f := fabricOf(t, Options{Restart: func(_ context.Context, name, how string, pause time.Duration) {
		if pauses, last = append(pauses, pause), name+": "+how; len(pauses) == 6 {
			cancel()
		}
	}}, "false")
	f.supervise(ctx)
	f.keepers.Wait()
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second}
	if !slices.Equal(pauses, want) || last != "it: exit status 1" {
		t.Errorf("paused %v, last after %s, want %v", pauses, last, want)
	}
}

// A process that is paused is stopped as quickly as any other, and a signal to one that has ended is ErrDown.
func TestStopEndsAPausedProcess(t *testing.T) {
	obeyed := make(chan os.Signal, 1) // whoever runs the tests in the background ignores it, and what they start would, too
	signal.Notify(obeyed, os.Interrupt)
	defer signal.Stop(obeyed)
	f := fabricOf(t, Options{}, "sleep", "3600")
	if err := f.Signal("it", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus // until then it would obey
	if _, err := syscall.Wait4(f.all[0].cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v, %v, want it stopped", status, err)
	}
	began := time.Now()
	if err := f.all[0].stop(); err != nil || time.Since(began) >= stopWait {
		t.Errorf("stopped after %s: %v", time.Since(began), err)
	}
	if err := f.Signal("it", syscall.SIGTERM); !errors.Is(err, ErrDown) {
		t.Errorf("a signal to nobody: %v, want ErrDown", err)
	}
	if err := f.Signal("other", syscall.SIGTERM); err == nil || errors.Is(err, ErrDown) {
		t.Errorf("a signal to an unknown process: %v", err)
	}
	if p := f.Manifest().Processes[0]; !p.Down || p.Probe == "" {
		t.Errorf("the manifest has %+v, want it down", p)
	}
}

func TestRoutesGoThroughWhatIsBetween(t *testing.T) {
	o := Options{Data: t.TempDir(), Servers: 3}
	nodes := []natsNode{{"nats-1", "c1", "a1", "r1"}, {"nats-2", "c2", "a2", "r2"}, {"nats-3", "c3", "a3", "r3"}}
	plain := config(t, &o, nodes)
	if !strings.Contains(plain, `routes: ["nats://r2", "nats://r3"]`) || strings.Contains(plain, noGossip) {
		t.Errorf("without anything between: %s", plain)
	}
	o.Between = func(process, server, address string) (string, error) {
		return process + "_" + server + "_" + address, nil
	}
	through := config(t, &o, nodes)
	if !strings.Contains(through, `routes: ["nats://nats-1_nats-2_r2", "nats://nats-1_nats-3_r3"]`) || !strings.Contains(through, noGossip) {
		t.Errorf("with proxies between: %s", through)
	}
	if alone := config(t, &Options{Data: o.Data}, nodes[:1]); strings.Contains(alone, "cluster") {
		t.Errorf("one server: %s", alone)
	}
}

func config(t *testing.T, o *Options, nodes []natsNode) string {
	t.Helper()
	path, err := o.writeNATSConfig(nodes[0], nodes)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheArchiveIsFoundThroughWhatIsBetween(t *testing.T) {
	between := func(process, server, address string) (string, error) {
		if process != "collect-1" || server != "mongodb" || address != "db:27017" {
			t.Errorf("asked for %s to %s at %s", process, server, address)
		}
		return "127.0.0.1:7", nil
	}
	for _, c := range []struct {
		archive string
		between func(process, server, address string) (string, error)
		want    string
	}{
		{"", between, "sqlite:/d/archive.db"},
		{"mongodb://db/weft", nil, "mongodb://db/weft"},
		{"mongodb://db/weft", between, "mongodb://127.0.0.1:7/weft?directConnection=true"},
		{"mongodb://db:27017/weft?w=1", between, "mongodb://127.0.0.1:7/weft?directConnection=true&w=1"},
	} {
		o := Options{Data: "/d", Archive: c.archive, Between: c.between}
		if got, err := o.archive("collect-1"); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.archive, got, err, c.want)
		}
	}
	o := Options{Archive: "mongodb://a,b/weft", Between: between}
	if _, err := o.archive("collect-1"); err == nil {
		t.Error("a proxy was put before a replica set, whose members tell their own addresses")
	}
}

func TestCountsAreCompleted(t *testing.T) {
	o := Options{Data: t.TempDir(), Nodes: 2, Pushes: 3}
	if err := o.complete(); err != nil || o.Servers != 1 || o.Collects != 2 || o.Pushes != 3 || o.Dispatches != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	if err := (&Options{Data: t.TempDir(), Servers: 2}).complete(); err == nil {
		t.Error("two servers are no cluster that can lose one")
	}
}
