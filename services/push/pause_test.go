package push

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

// TestAPauseShowsOnEitherClock, to the first who looks, once.
func TestAPauseShowsOnEitherClock(t *testing.T) {
	for _, c := range []struct {
		name      string
		wall, ran time.Duration
		paused    bool
	}{
		{"a busy machine", 4 * time.Second, 4 * time.Second, false},
		{"a stopped process", 6 * time.Second, 6 * time.Second, true},
		{"a suspended machine, whose monotonic clock stood still", time.Hour, time.Millisecond, true},
		{"a wall clock that was set back", -time.Hour, time.Second, false},
		{"a stopped process and a wall clock that was set back", -time.Hour, 6 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			wall, ran := time.Now().Round(0), time.Minute
			p := newPulse()
			p.clock = func() (time.Time, time.Duration) { return wall, ran }
			p.last.Store(&beat{wall: wall, ran: ran})
			for range 3 { // it ticks: no pause, however long that goes on
				wall, ran = wall.Add(4*time.Second), ran+4*time.Second
				if b := p.tick(); b.pauses != 0 {
					t.Fatalf("%+v after 4 s", b)
				}
			}
			wall, ran = wall.Add(c.wall), ran+c.ran
			for range 2 {
				if b := p.check(); (b.pauses == 1) != c.paused || b.pauses > 1 {
					t.Errorf("%+v; want a pause: %t", b, c.paused)
				}
			}
			if b := p.tick(); (b.pauses == 1) != c.paused {
				t.Errorf("%+v at the tick; want a pause: %t", b, c.paused)
			}
		})
	}
}

// sleep lets the node of a bench have been paused, for all that its clocks say.
func (b *bench) sleep() {
	last := b.node.pulse.last.Load()
	b.node.pulse.clock = func() (time.Time, time.Duration) { return last.wall.Add(time.Minute), last.ran + time.Minute }
}

func (p *paper) questions() []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// TestNothingIsWrittenAfterAPauseBeforeTheClientIsHeard and the device was looked up, in either order.
func TestNothingIsWrittenAfterAPauseBeforeTheClientIsHeard(t *testing.T) {
	for _, heardFirst := range []bool{true, false} {
		alone(t, 4096, func(b *bench, s *session, p *paper) {
			b.send(alice, "1")
			b.settle()
			must(t, s.ack("", 1))
			p.take()
			b.sleep()
			b.send(alice, "2") // before any tick
			b.settle()
			s.hear() // something that waited in the socket
			b.send(alice, "3")
			b.pass(s, time.Second, false)
			if got := p.take(); len(got) != 0 || !slices.Equal(p.questions(), []uint32{1}) {
				t.Fatalf("%s was written, asked %d; want one question", kinds(got), p.questions())
			}
			steps := []func(uint32){s.echo, s.vouch}
			if !heardFirst {
				slices.Reverse(steps)
			}
			steps[0](1)
			b.settle()
			if got := p.take(); len(got) != 0 {
				t.Fatalf("%s was written when half was known", kinds(got))
			}
			steps[1](1)
			b.settle()
			if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{2, 3}) {
				t.Errorf("%d came; want 2 and 3", got)
			}
			b.pass(s, 5*time.Second, true)
			b.send(alice, "4")
			b.settle()
			if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{4}) || len(p.questions()) != 1 {
				t.Errorf("%d came, asked %d; want 4 and no more questions", got, p.questions())
			}
		})
	}
}

// TestAnOldAnswerIsNone: what answers an earlier question does not answer the one after the next pause, and no client can
// answer before it is asked.
func TestAnOldAnswerIsNone(t *testing.T) {
	alone(t, 4096, func(b *bench, s *session, p *paper) {
		s.echo(2)
		b.sleep()
		b.pass(s, time.Second, true)
		b.sleep()
		b.pass(s, time.Second, true)
		if got := p.questions(); !slices.Equal(got, []uint32{1, 2}) {
			t.Fatalf("asked %d; want 1 and 2", got)
		}
		s.vouch(2)
		s.echo(1)
		b.send(alice, "1")
		b.settle()
		if got := p.take(); len(got) != 0 {
			t.Fatalf("%s was written", kinds(got))
		}
		s.echo(2)
		b.settle()
		if got := seqs(p.take(), ""); !slices.Equal(got, []uint64{1}) {
			t.Errorf("%d came; want 1", got)
		}
	})
}

// TestAClientHasAHeartbeatToAnswerAfterAPause, however long the node did not hear it; then it is closed as silent, also
// when it says anything but the answer.
func TestAClientHasAHeartbeatToAnswerAfterAPause(t *testing.T) {
	for _, babbles := range []bool{false, true} {
		alone(t, 4096, func(b *bench, s *session, p *paper) {
			beat := b.node.cfg.Heartbeat
			s.heard = time.Now().Add(-time.Hour)
			b.sleep()
			b.pass(s, beat-time.Second, babbles)
			if len(p.closed()) != 0 {
				t.Fatalf("closed with %d", p.closed())
			}
			b.pass(s, beat+3*time.Second, babbles)
			ended(t, p, protocol.CloseSlow, problem.Silent)
		})
	}
}

// TestAStuckWindowIsNotHeldAgainstTheClientOfAPausedNode.
func TestAStuckWindowIsNotHeldAgainstTheClientOfAPausedNode(t *testing.T) {
	alone(t, 1024, func(b *bench, s *session, p *paper) {
		b.send(alice, `"`+strings.Repeat("x", 900)+`"`)
		b.send(alice, `"`+strings.Repeat("x", 900)+`"`)
		b.settle()
		s.fullSince = time.Now().Add(-time.Hour)
		b.sleep()
		b.pass(s, time.Second, true)
		if len(p.closed()) != 0 {
			t.Errorf("closed with %d", p.closed())
		}
	})
}

// program is the environment variable that makes this test binary a push node.
const program = "WEFT_TEST_PUSH"

// runProgram is main of a push node.
func runProgram() int {
	var cfg Config
	return service.Main("push", os.Args[1:], &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
		return New(cfg, nc, log)
	})
}

// process is a push node that is a process of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	listen string
	admin  string
	ended  chan error
	log    *ear
}

// process starts one, and waits until it takes connections.
func (w *world) process(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, listen: free(t), admin: free(t), ended: make(chan error, 1), log: new(ear)}
	self, err := os.Executable()
	must(t, err)
	p.cmd = exec.Command(self, append([]string{"-nats", w.nats.URL(), "-redis", w.redisURL, "-listen", p.listen, "-admin", p.admin}, args...)...)
	p.cmd.Env = append(os.Environ(), program+"=1")
	p.cmd.Stderr = p.log
	must(t, p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // has ended already, mostly
		select {
		case <-p.ended:
		case <-time.After(patience):
			t.Error("the process does not end")
		}
	})
	eventually(t, "the process is ready", func() bool { return p.log.has("msg=ready") })
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(s))
}

// exit waits for the end and returns the status.
func (p *process) exit() int {
	p.t.Helper()
	err := wait(p.t, "the process ends", p.ended)
	p.ended <- err // for the cleanup
	return p.cmd.ProcessState.ExitCode()
}

// dial is running.dial.
func (p *process) device(user, name string) *device {
	p.t.Helper()
	d := dialTo(p.t, p.listen, token(user))
	d.hello(name)
	d.welcome = d.want(protocol.TWelcome)
	return d
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestANodeThatWasStopped (SIGSTOP) writes nothing to a device that is elsewhere by now, and gives everything to the ones
// that stayed. It is not alive for dispatch meanwhile, and is again.
func TestANodeThatWasStopped(t *testing.T) {
	w := newWorld(t)
	bob, carol := subject.UserAddress("default", "bob"), subject.UserAddress("default", "carol")
	stopped, other := w.process(t, "-heartbeat", "4s"), w.node()
	moved, stays, tablet := stopped.device("alice", "phone"), stopped.device("bob", "phone"), stopped.device("bob", "tablet")
	untold := stopped.device("carol", "phone") // moves as well, but the order to close its connection gets lost
	w.push(alice, "1")
	w.push(bob, "1")
	w.push(carol, "1")
	for _, d := range []*device{moved, stays, tablet, untold} {
		d.wants("", 1, 1)
		d.ack("", 1)
	}
	// A sign of life of the device that moves waits in the socket: it must not count.
	eventually(t, "the cursors are there", func() bool { return len(w.acked()) == 4 })
	stopped.signal(syscall.SIGSTOP)
	slept := time.After(6 * time.Second)
	moved.say(protocol.FromClient{T: protocol.TPing})
	untold.say(protocol.FromClient{T: protocol.TPing})
	again := other.device(t, "alice", "phone")
	_, err := w.table.Connect(t.Context(), route.Connection{User: carol, Device: "phone", Node: "elsewhere", Session: newID(time.Now())})
	must(t, err)
	w.push(alice, "2", "3")
	w.push(bob, "2", "3")
	w.push(carol, "2", "3")
	again.wants("", 2, 3)
	<-slept
	stopped.signal(syscall.SIGCONT)
	w.push(alice, "4")
	w.push(bob, "4")
	w.push(carol, "4")
	again.wants("", 4, 4)
	stays.wants("", 2, 4)
	tablet.wants("", 2, 4)
	moved.leftBehind()
	untold.leftBehind()
	again.quiet()
	eventually(t, "the node is alive again", func() bool {
		nodes, err := w.table.Nodes(t.Context())
		return err == nil && len(nodes) == 2 && len(w.holders(bob)) == 1
	})
	stopped.signal(os.Interrupt)
	if code := stopped.exit(); code != 0 {
		t.Errorf("it exits with %d", code)
	}
}

// leftBehind holds that the rest of a connection is no message, and its end 4409.
func (d *device) leftBehind() {
	d.t.Helper()
	late := time.Now().Add(patience) // pings may go on for ever
	for o, ok := d.next(); ok; o, ok = d.next() {
		if o.T == protocol.TMsg || time.Now().After(late) {
			d.t.Fatalf("%s was written to a device that is elsewhere", o.raw)
		}
	}
	if d.code != int(protocol.CloseReplaced) {
		d.t.Errorf("the connection that was left behind is closed with %d", d.code)
	}
}

// TestTheProgramDrains: SIGTERM, then everybody leaves, and the process ends with everything acknowledged handed over.
func TestTheProgramDrains(t *testing.T) {
	w := newWorld(t)
	p := w.process(t, "-drain", "2s")
	d := p.device("alice", "phone")
	w.push(alice, "1")
	d.wants("", 1, 1)
	p.signal(syscall.SIGTERM)
	d.want(protocol.TDrain)
	w.push(alice, "2")
	d.wants("", 2, 2)
	d.ack("", 2)
	d.quiet()
	must(t, d.conn.Close())
	if code := p.exit(); code != 0 {
		t.Errorf("it exits with %d", code)
	}
	if got := w.acked()["alice/phone/default.user.alice"]; got != 2 {
		t.Errorf("the cursor on WEFT_ACK is %d; want 2", got)
	}
	var nodes []string
	eventually(t, "no lease is left", func() bool { nodes, _ = w.table.Nodes(t.Context()); return len(nodes) == 0 })
	raw, err := json.Marshal(w.holders(alice))
	if err != nil || string(raw) != "[]" {
		t.Errorf("%s hold the address", raw)
	}
}
