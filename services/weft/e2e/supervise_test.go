package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// Every process of `weft up` dies by kill -9, one after the other; each comes back by itself under a new pid, which the
// manifest tells, and what was published meanwhile arrives.
func TestUpStartsAgainWhatDies(t *testing.T) {
	f := &fabric{t: t, kind: "up", data: t.TempDir()}
	f.start()
	t.Cleanup(f.stop)
	for _, before := range f.manifest.Processes {
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", before.Name, err)
		}
		down := f.awaitProcess(before.Name, func(p manifest.Process) bool { return p.Down || p.PID != before.PID })
		if !down.Down {
			t.Errorf("%s was back before the manifest said that it is down", before.Name)
		}
		back := f.awaitProcess(before.Name, func(p manifest.Process) bool { return !p.Down })
		if back.PID == before.PID || !slices.Equal(back.Ports, before.Ports) || !slices.Equal(back.Argv, before.Argv) {
			t.Errorf("%+v came back as %+v", before, back)
		}
		f.awaitReady(back)
	}
	f.manifest = f.awaitManifest()
	nc := f.connect()
	publish(t, nc, subject.In(user("alice")), `{"n":1}`, withID("1"))
	for range f.manifest.Push { // each node delivers
		d := f.device("alice", fmt.Sprintf("device-%d", f.next), protocol.FromClient{})
		d.message(1)
	}
}

// awaitProcess reads the manifest until a process is as wanted.
func (f *fabric) awaitProcess(name string, wanted func(manifest.Process) bool) manifest.Process {
	f.t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for late := time.Now().Add(patience); time.Now().Before(late); <-poll.C {
		m := f.awaitManifest()
		i := slices.IndexFunc(m.Processes, func(p manifest.Process) bool { return p.Name == name })
		if i < 0 {
			f.t.Fatalf("%s is not in the manifest", name)
		}
		if wanted(m.Processes[i]) {
			return m.Processes[i]
		}
	}
	f.t.Fatalf("%s is not as wanted after %s\n%s", name, patience, f.out)
	return manifest.Process{}
}

// awaitReady waits until a process that runs again says that it is ready, if it says so over HTTP.
func (f *fabric) awaitReady(p manifest.Process) {
	f.t.Helper()
	if !strings.HasPrefix(p.Probe, "http://") {
		return
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for late := time.Now().Add(patience); time.Now().Before(late); <-poll.C {
		request, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, p.Probe, nil)
		if err != nil {
			f.t.Fatal(err)
		}
		request.Close = true
		if answer, err := (&http.Client{Timeout: patience}).Do(request); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
	}
	f.t.Fatalf("%s is not ready after %s\n%s", p.Name, patience, f.out)
}

// A cluster of three nats-servers with three replicas of each stream delivers, and goes on when one of them dies.
func TestUpRunsAClusterThatOutlivesAServer(t *testing.T) {
	f := &fabric{t: t, kind: "up", data: t.TempDir(), args: []string{"--nats-servers", "3"}}
	f.start()
	t.Cleanup(f.stop)
	nc := f.connect()
	d := f.device("alice", "phone", protocol.FromClient{})
	request(t, nc, user("alice"), `{"n":1}`, withID("1"))
	d.message(1)
	d.ack(1)

	first := f.manifest.Processes[0]
	if first.Role != "nats-server" {
		t.Fatalf("the first process is %+v, want a nats-server", first)
	}
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(patience); ; { // a client retries under the same id while leaders are chosen
		if _, err = js.Publish(subject.In(user("alice")), []byte(`{"n":2}`), nats.MsgId("2")); err == nil || time.Now().After(late) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	d.message(2)
}
