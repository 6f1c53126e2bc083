package push

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// enter connects one client of a storm and waits for its welcome. refused is what it was told instead: the HTTP status, or
// the close code.
func (n *running) enter(user string) (conn *websocket.Conn, refused int, err error) {
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Name}, HandshakeTimeout: patience, ReadBufferSize: 512, WriteBufferSize: 512}
	conn, response, err := dialer.Dial("ws://"+n.listener.Addr().String()+protocol.Path, http.Header{"Authorization": {"Bearer " + token(user)}})
	if err != nil {
		if response == nil || response.Header.Get("Retry-After") == "" {
			return nil, 0, err
		}
		return nil, response.StatusCode, nil
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"t":"hello","device":"phone"}`)); err != nil {
		return conn, 0, err
	}
	for {
		_, text, err := conn.ReadMessage()
		if closed, ok := err.(*websocket.CloseError); ok { //nolint:errorlint // the library does not wrap it
			_ = conn.Close()
			return nil, closed.Code, nil
		}
		if err != nil {
			return conn, 0, err
		}
		var o wire
		if err := json.Unmarshal(text, &o); err == nil && o.T == protocol.TWelcome {
			return conn, 0, nil
		}
	}
}

// storm lets clients come at once and again, after pauses that grow from a tenth of a second to 3 s at random, until all are
// welcome. It returns when each was, and how many were told what.
func (n *running) storm(t *testing.T, clients int) (welcome []time.Duration, refusals map[int]int) {
	t.Helper()
	var mu sync.Mutex // protects what is returned
	refusals = map[int]int{}
	var all sync.WaitGroup
	begun := time.Now()
	for i := range clients {
		all.Go(func() {
			for pause := 100 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
				conn, refused, err := n.enter(fmt.Sprint("user", i))
				mu.Lock()
				refusals[refused]++
				if refused == 0 {
					welcome = append(welcome, time.Since(begun))
				}
				mu.Unlock()
				if conn != nil {
					t.Cleanup(func() { _ = conn.Close() })
				}
				if err != nil {
					t.Error(err)
				}
				if refused == 0 {
					return
				}
				if time.Since(begun) > 3*patience {
					t.Errorf("user%d is turned away for ever", i)
					return
				}
				<-time.After(pause/2 + rand.N(pause/2))
			}
		})
	}
	all.Wait()
	slices.Sort(welcome)
	return welcome, refusals
}

func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)-1)*p/100].Round(100 * time.Microsecond)
}

// meter sends a device that is there a message every 5 ms and measures how long each takes, until stop is called.
func (w *world) meter(d *device, to subject.Address) (stop func() []time.Duration) {
	ending, ended := make(chan struct{}), make(chan []time.Duration, 1)
	go func() {
		var took []time.Duration
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ending:
				slices.Sort(took)
				ended <- took
				return
			case <-tick.C:
			}
			w.push(to, strconv.FormatInt(time.Now().UnixNano(), 10))
			o := d.want(protocol.TMsg)
			sent, _ := strconv.ParseInt(string(protocol.Data(o.raw)), 10, 64)
			took = append(took, time.Since(time.Unix(0, sent)))
			d.ack("", o.Seq)
		}
	}()
	return func() []time.Duration {
		close(ending)
		return <-ended
	}
}

// patient lets a node wait for clients that are slow because the machine is, or that do not answer its pings.
func patient(n *Service) { n.cfg.Heartbeat, n.greeting = time.Hour, patience }

// TestAStorm: 2,000 clients connect at once. All are welcome, and who is here already hardly notices.
func TestAStorm(t *testing.T) {
	const clients = 2000
	w := newWorld(t)
	n := w.node(patient)
	d := n.device(t, "alice", "phone")
	stop := w.meter(d, alice)
	<-time.After(time.Second)
	before := stop()
	var memory, after runtime.MemStats
	runtime.ReadMemStats(&memory)
	stop = w.meter(d, alice)
	begun, worked := time.Now(), processor(t)
	welcome, refusals := n.storm(t, clients)
	share := float64(processor(t)-worked) / float64(time.Since(begun))
	during := stop()
	runtime.ReadMemStats(&after)
	t.Logf("all were welcome after %s (half after %s), refusals %v", welcome[len(welcome)-1].Round(time.Millisecond), percentile(welcome, 50), refusals)
	t.Logf("a message took %s, p99 %s; during the storm %s, p99 %s", percentile(before, 50), percentile(before, 99), percentile(during, 50), percentile(during, 99))
	t.Logf("the process, clients and all, took %d KiB more a client", (after.Sys-memory.Sys)/clients>>10)
	if len(welcome) != clients || len(n.all()) != clients+1 {
		t.Errorf("%d of %d are welcome, %d sessions are open", len(welcome), clients, len(n.all()))
	}
	// Judged by the processor's time: a machine that does other things, too, makes all of it last.
	if late := percentile(during, 99); late.Seconds()*share > 5 {
		t.Errorf("p99 of who was here already is %s during the storm, with %.2f processors", late, share)
	}
}

// processor is the processor's time that this process has had.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestAStormThatIsTooMuch for the gate is turned away and comes again, until all are in: at most the gate's number opens
// at once, and who was turned away was told so in time.
func TestAStormThatIsTooMuch(t *testing.T) {
	const clients, opens = 300, 8
	w := newWorld(t)
	n := w.node(patient, func(n *Service) { n.gate = newGate(100, opens, 50*time.Millisecond) })
	hold := make(chan struct{})
	w.archive.set(func() { w.archive.opening = hold })
	peak := make(chan int, 1)
	time.AfterFunc(time.Second, func() { // many have come and gone meanwhile
		peak <- len(n.all())
		w.archive.set(func() { w.archive.opening = nil })
		close(hold)
	})
	welcome, refusals := n.storm(t, clients)
	if p := <-peak; p != opens {
		t.Errorf("%d opened at once; want %d", p, opens)
	}
	t.Logf("refusals: %v", refusals)
	if len(welcome) != clients || refusals[http.StatusServiceUnavailable] == 0 || refusals[int(protocol.CloseBackOff)] == 0 || len(refusals) != 3 {
		t.Errorf("%d are welcome, the others were told %v; want both %d and %d, and nothing else", len(welcome), refusals, http.StatusServiceUnavailable, protocol.CloseBackOff)
	}
	eventually(t, "nothing is left of who was turned away", func() bool {
		return len(n.all()) == clients && n.gate.arrivals.Load() == 0 && len(n.gate.turns) == 0
	})
}

// TestTheGateLetsGo of who never says hello, or leaves.
func TestTheGateLetsGo(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting, n.gate = 200*time.Millisecond, newGate(1, 1, time.Second) })
	silent := n.dial(t, token("alice"))
	if _, refused, err := n.enter("bob"); refused != http.StatusServiceUnavailable {
		t.Errorf("the second is told %d, %v", refused, err)
	}
	silent.end(protocol.CloseSlow, problem.HelloExpected)
	n.device(t, "alice", "phone").quiet()
}
