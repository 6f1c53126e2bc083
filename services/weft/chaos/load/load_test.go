package load

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/services/weft/dev"
	"github.com/weftpush/weft/services/weft/manifest"
)

// patienceOfTests bounds every wait.
const patienceOfTests = 2 * time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fabric runs `weft dev` in this process for the time of a test.
func fabric(t *testing.T) (manifest.Manifest, auth.Key) {
	t.Helper()
	t.Setenv("WEFT_HEARTBEAT", "4s")
	ready := make(chan manifest.Manifest, 1)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	options := dev.Options{
		Data: t.TempDir(), Log: slog.New(slog.DiscardHandler), Out: io.Discard, Started: time.Now(),
		Then: func(ctx context.Context, m manifest.Manifest) error { ready <- m; <-ctx.Done(); return nil },
	}
	go func() { ended <- dev.Run(ctx, options) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case m := <-ready:
		keys, err := auth.LoadKeys(m.Keys)
		if err != nil {
			t.Fatal(err)
		}
		return m, keys[0]
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	case <-time.After(patienceOfTests):
		t.Fatal("the fabric is not ready")
	}
	panic("unreachable")
}

// run puts a load on a fabric for a while and returns the history.
func run(t *testing.T, writing time.Duration, change func(*Options)) (*Load, []record.Record) {
	t.Helper()
	m, key := fabric(t)
	folder := t.TempDir()
	log, err := record.Create(folder)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{NATS: m.NATS, Push: m.Push, Collect: m.Collect, Key: key, Log: log, Seed: 7, Users: 3, Writers: 3, Rate: 200, Keep: 10 * time.Second}
	change(&o)
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), patienceOfTests)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx) })
	select {
	case <-l.Connected():
	case <-ctx.Done():
		t.Fatal("not all devices were welcomed")
	}
	publishing, enough := context.WithTimeout(ctx, writing)
	defer enough()
	if err := l.Publish(publishing); err != nil {
		t.Error(err)
	}
	if left := l.Settle(ctx); left > 0 {
		t.Errorf("%d messages did not reach every device", left)
	}
	stop()
	running.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var history []record.Record
	if err := record.Read(folder, func(r record.Record) error { history = append(history, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return l, history
}

// got is what reached a device: how often each message.
type got map[string]map[string]int

// check compares a history by hand with what has to be in it.
func check(t *testing.T, l *Load, history []record.Record) (ops map[string]record.Op, arrived got) {
	t.Helper()
	ops, arrived = make(map[string]record.Op), make(got)
	for _, r := range history {
		if r.Op != nil {
			ops[r.Op.ID] = *r.Op
		}
	}
	for _, r := range history {
		g := r.Got
		if g == nil {
			continue
		}
		op, sent := ops[g.ID]
		if !sent || !g.Sound || g.For != g.To || op.To != g.To || op.Writer != g.Writer || op.Counter != g.Counter || g.Session == 0 {
			t.Errorf("%+v is no message of %+v", g, op)
		}
		if arrived[g.Device] == nil {
			arrived[g.Device] = make(map[string]int)
		}
		arrived[g.Device][g.ID]++
	}
	for _, d := range l.Devices() {
		for id, op := range ops {
			times := arrived[d.Name][id]
			owed := false
			for _, address := range d.Addresses {
				owed = owed || op.To == address
			}
			if owed && op.Result == record.OK && (times == 0 || d.App && times > 1) || !owed && times > 0 {
				t.Errorf("%s got %s %d times", d.Name, id, times)
			}
		}
	}
	return ops, arrived
}

func TestACalmLoadIsCompleteInTheHistory(t *testing.T) {
	l, history := run(t, 3*time.Second, func(*Options) {})
	ops, _ := check(t, l, history)
	doors := make(map[record.Door]int)
	counters := make(map[string]uint64)
	for _, r := range history {
		if op := r.Op; op != nil {
			doors[op.Door]++
			line := op.Writer + " " + op.To
			if counters[line]++; op.Counter != counters[line] {
				t.Errorf("%s: operation %d after %d", line, op.Counter, counters[line]-1)
			}
			if op.Result != record.OK || op.End < op.Start || op.Tries < 1 || (op.Door == record.Stream) != (op.Seq == 0) {
				t.Errorf("operation %+v", op)
			}
		}
		if c := r.Conn; c != nil && c.What == "open" && c.Node == "" {
			t.Errorf("connection %+v", c)
		}
	}
	if n := len(ops); n < 100 || n > 650 || len(doors) != 4 {
		t.Errorf("%d operations in 3 s at 200 a second, by door %v", n, doors)
	}
	if want := 3*3 + 2*3; len(counters) != want {
		t.Errorf("%d pairs of writer and address, want %d", len(counters), want)
	}
	if l.Acked() != len(ops) {
		t.Errorf("%d acknowledged of %d", l.Acked(), len(ops))
	}
	if l.InFlight() != 0 {
		t.Errorf("%d in flight", l.InFlight())
	}
}

func TestAWildLoadIsComplete(t *testing.T) {
	l, history := run(t, 8*time.Second, func(o *Options) { o.Mischief, o.Users = time.Second, len(doors) })
	check(t, l, history)
	code := regexp.MustCompile(`(^|[^:\d])44\d\d\b`) // a close code; a port stands behind a colon
	seen, over := make(map[string]int), make(map[string]int)
	for _, r := range history {
		if c := r.Conn; c != nil {
			seen[c.What]++
			over[c.Over]++
			if c.What == "closed" && code.MatchString(c.Why) && !strings.Contains(c.Why, "4408") {
				t.Errorf("%+v", c)
			}
		}
	}
	if seen["open"] < 2*len(l.Devices()) || seen["closed"] < len(l.Devices()) || seen["away"] == 0 || seen["away"] != seen["back"] {
		t.Errorf("connections: %v", seen)
	}
	for _, door := range []string{overClient, overWebSocket, overSSE, overConnect, overSubscribe} {
		if over[door] == 0 {
			t.Errorf("no session over %s: %v", door, over)
		}
	}
}

func TestWhatMayExpireIsOwedToNobody(t *testing.T) {
	_, history := run(t, time.Second, func(o *Options) { o.TTL = time.Second })
	fleeting := 0
	for _, r := range history {
		if op := r.Op; op != nil {
			if (op.TTL != 0) != (op.To == "user:u3") {
				t.Errorf("%+v", op)
			}
			if op.TTL != 0 {
				fleeting++
			}
		}
	}
	if fleeting == 0 {
		t.Error("nothing was published that expires")
	}
}

func TestNewWantsWhatItNeeds(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(fmt.Sprint(err), "needs") {
		t.Errorf("got %v", err)
	}
}
