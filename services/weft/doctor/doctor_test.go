package doctor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/weft/dev"
	"github.com/weftpush/weft/services/weft/doctor"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait.
const patience = 30 * time.Second

// signalling closes ready at the first write: `weft dev` prints when everything runs.
type signalling struct {
	once  sync.Once
	ready chan struct{}
}

func (s *signalling) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.ready) })
	return len(b), nil
}

// laptop runs `weft dev` until the test ends, and connects to it.
func laptop(t *testing.T) *nats.Conn {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, data, ended := &signalling{ready: make(chan struct{})}, t.TempDir(), make(chan error, 1)
	go func() {
		ended <- dev.Run(ctx, dev.Options{Data: data, Out: out, Started: time.Now(), Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("weft dev: %v", err)
		}
	})
	select {
	case <-out.ready:
	case <-time.After(patience):
		t.Fatal("weft dev is not ready")
	}
	m, err := manifest.Read(data)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, m.NATS)
}

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func examine(t *testing.T, nc *nats.Conn, o doctor.Options) []doctor.Finding {
	t.Helper()
	findings, err := doctor.Examine(within(t), nc, o)
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

// found says whether something of an area and a level says all of these words.
func found(findings []doctor.Finding, area string, level doctor.Level, words ...string) bool {
	for _, f := range findings {
		all := f.Area == area && f.Level == level && (level == doctor.OK || f.Remedy != "")
		for _, word := range words {
			all = all && strings.Contains(f.What, word)
		}
		if all {
			return true
		}
	}
	return false
}

func TestALaptopIsWell(t *testing.T) {
	nc := laptop(t)
	findings := examine(t, nc, doctor.Options{Durability: doctor.Process})
	for _, f := range findings {
		if f.Level == doctor.Failure || f.Level == doctor.Unknown {
			t.Errorf("%+v", f)
		}
	}
	for _, area := range []string{"nats", "mapping", "streams", "consumers", "owners", "durability", "archive", "redis", "nodes", "auth", "clocks"} {
		if !found(findings, area, doctor.OK) {
			t.Errorf("nothing is said of %s: %+v", area, findings)
		}
	}
	for _, area := range []string{"owners", "nodes"} {
		if !found(findings, area, doctor.Warning, "only one") {
			t.Errorf("that there is one of each is not said of %s", area)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(within(t), fabric.QuarantineStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages of the doctor's are in quarantine", n)
	}
}

// beating sends heartbeats until the test ends; the first is there when it returns.
func beating(t *testing.T, bucket jetstream.KeyValue, key string) {
	t.Helper()
	if _, err := bucket.PutString(within(t), key, "up 1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for every := time.Tick(200 * time.Millisecond); ctx.Err() == nil; {
			select {
			case <-every:
				_, _ = bucket.PutString(ctx, key, "up 2") // it ends with the server
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

func TestALivingCollectThatIsSlowIsWaitedFor(t *testing.T) {
	nc := laptop(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.KeyValue(within(t), fabric.OwnersBucket)
	if err != nil {
		t.Fatal(err)
	}
	beating(t, bucket, fabric.AliveKey("collect", "OTHER"))
	findings := examine(t, nc, doctor.Options{})
	if !found(findings, "archive", doctor.Warning, "1 of 2 living collects") || found(findings, "owners", doctor.Warning, "only one collect") {
		t.Errorf("that one of two does not answer is not found: %+v", findings)
	}
	facts, err := fabric.Wait(within(t), js)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := json.Marshal(admin.CheckAnswer{Instance: "OTHER", Host: "b", Epoch: facts.Epoch, Partitions: facts.Partitions, Redis: admin.Health{Kind: "redis", Problem: "it hangs"}})
	_, err = nc.Subscribe(subject.Admin(admin.Check), func(m *nats.Msg) {
		time.AfterFunc(time.Second, func() { _ = m.Respond(answer) }) // as long as Redis may take
	})
	if err != nil {
		t.Fatal(err)
	}
	findings = examine(t, nc, doctor.Options{})
	if !found(findings, "redis", doctor.Failure, "OTHER at b", "it hangs") || found(findings, "archive", doctor.Warning, "living") {
		t.Errorf("what a slow one says is not found: %+v", findings)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	nc := laptop(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(within(t), fabric.MsgStream(1))
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxAge = time.Hour
	if _, err := js.UpdateStream(within(t), config); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(within(t), fabric.AckStream, fabric.AckConsumer); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(within(t), fabric.EventStream); err != nil {
		t.Fatal(err)
	}
	in, err := js.Stream(within(t), fabric.InStream(2))
	if err != nil {
		t.Fatal(err)
	}
	limited := in.CachedInfo().Config
	limited.Discard = jetstream.DiscardOld
	if _, err := js.UpdateStream(within(t), limited); err != nil {
		t.Fatal(err)
	}
	if _, err := in.PauseConsumer(within(t), fabric.CollectConsumer, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	vanishing := fabric.Consumer(fabric.DispatchConsumer, "")
	vanishing.MaxDeliver = 5
	if _, err := stream.UpdateConsumer(within(t), vanishing); err != nil {
		t.Fatal(err)
	}
	findings := examine(t, nc, doctor.Options{Durability: doctor.Power})
	for _, want := range []struct {
		area  string
		level doctor.Level
		words []string
	}{
		{"streams", doctor.Failure, []string{fabric.EventStream, "missing"}},
		{"streams", doctor.Failure, []string{fabric.InStream(2), "discards"}},
		{"consumers", doctor.Failure, []string{fabric.InStream(2), "paused"}},
		{"consumers", doctor.Failure, []string{fabric.MsgStream(1), "delivers 5 times"}},
		{"streams", doctor.Failure, []string{fabric.MsgStream(1), "1h0m0s"}},
		{"consumers", doctor.Failure, []string{fabric.AckConsumer, fabric.AckStream}},
		{"durability", doctor.Unknown, []string{"power"}},
	} {
		if !found(findings, want.area, want.level, want.words...) {
			t.Errorf("%+v is not found in %+v", want, findings)
		}
	}
}

func TestAnotherMappingIsNamed(t *testing.T) {
	s, err := embed.NATS(embed.NATSOptions{Dir: t.TempDir(), Partitions: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc := connect(t, s.URL())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if findings := examine(t, nc, doctor.Options{}); !found(findings, "streams", doctor.Failure, "no fabric") {
		t.Errorf("that there is no fabric is not found: %+v", findings)
	}
	if err := fabric.Create(within(t), js, fabric.Facts{Epoch: "e", Partitions: 4}, fabric.Options{MaxPayload: nc.MaxPayload()}); err != nil {
		t.Fatal(err)
	}
	findings := examine(t, nc, doctor.Options{})
	for _, area := range []string{"mapping", "owners", "archive", "nodes", "auth"} {
		if !found(findings, area, doctor.Failure) {
			t.Errorf("no failure of %s is found: %+v", area, findings)
		}
	}
}

func TestDurabilityIsReadFromTheMonitoring(t *testing.T) {
	nc := laptop(t)
	for said, want := range map[string]doctor.Level{
		`{"config":{"sync_interval":120000000000}}`: doctor.Failure,
		`{"config":{"sync_always":true}}`:           doctor.OK,
		`what?`:                                     doctor.Unknown,
	} {
		monitor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/jsz" || r.URL.Query().Get("config") != "true" {
				http.NotFound(w, r)
				return
			}
			_, _ = fmt.Fprint(w, said)
		}))
		findings := examine(t, nc, doctor.Options{Durability: doctor.Power, Monitors: []string{monitor.URL}, HTTP: monitor.Client()})
		monitor.Close()
		if !found(findings, "durability", want) {
			t.Errorf("%s is no %s in %+v", said, want, findings)
		}
	}
}
