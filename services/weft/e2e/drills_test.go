package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/protocol"
)

// The TypeScript client in Chromium, while push nodes die, browsers go offline, pages are loaded again, tokens expire and
// tabs are closed. The drills are in browser/; what they do to the fabric they ask of an operator here.
func TestBrowserDrills(t *testing.T) {
	// A short heartbeat: a browser that is offline is to be noticed within seconds. The drills' pages are of another origin.
	everywhere(t, func(t *testing.T, f *fabric) {
		f.keepPorts()
		op := newOperator(t, f)
		defer op.close()
		ended := make(chan error, 1)
		var out []byte
		cmd := browserTests(t, f, "drills.test.mjs", "WEFT_KIND="+f.kind, "WEFT_OPERATOR="+op.url)
		go func() {
			var err error
			out, err = cmd.CombinedOutput()
			ended <- err
		}()
		if err := op.serve(ended); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
	}, "WEFT_HEARTBEAT=2s", "WEFT_ORIGINS=*")
}

// keepPorts makes the next start use the ports of this one, as those do who restart a server: browsers know them. The
// NATS port is the system's choice, which another program may have by then; publishers read the manifest again.
func (f *fabric) keepPorts() {
	if f.kind == "dev" { // what `weft up` starts again keeps its ports
		f.args = append(f.args, "--push-port", fmt.Sprint(local.Port(f.manifest.Push[0])), "--collect-port", fmt.Sprint(local.Port(f.manifest.Collect[0])))
	}
}

// operator takes requests of the drills over HTTP and does them in the goroutine of the test, which alone may end it.
type operator struct {
	f      *fabric
	url    string
	orders chan func()
	gone   chan struct{} // closed when nobody takes orders any more
	close  func()
	killed manifest.Process // the last that kill ended
}

func newOperator(t *testing.T, f *fabric) *operator {
	t.Helper()
	o := &operator{f: f, orders: make(chan func()), gone: make(chan struct{})}
	mux := http.NewServeMux()
	for path, do := range map[string]func(url.Values, io.Writer) error{
		"GET /token": o.token, "GET /place": o.place, "POST /kill": o.kill, "POST /start": o.start,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			done := make(chan struct{})
			select {
			case o.orders <- func() {
				defer close(done)
				if err := do(r.URL.Query(), w); err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
				}
			}:
				<-done
			case <-o.gone:
			}
		})
	}
	server := httptest.NewServer(mux)
	o.url, o.close = server.URL, server.Close
	return o
}

// serve does what is asked until the tests have ended, and returns how.
func (o *operator) serve(ended <-chan error) error {
	defer close(o.gone)
	for {
		select {
		case order := <-o.orders:
			order()
		case err := <-ended:
			return err
		}
	}
}

// token gives a token of a user that is good for ttl.
func (o *operator) token(q url.Values, w io.Writer) error {
	ttl, err := time.ParseDuration(q.Get("ttl"))
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, o.f.token(identity.Identity{User: q.Get("user"), Topics: []string{"*"}}, ttl))
	return err
}

// place tells where a device stands for the server: what a client of that name is told that remembers nothing itself. What
// the device has said may be under way still; place waits until it is at the head of each mailbox, but not for ever.
func (o *operator) place(q url.Values, w io.Writer) error {
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for late := time.Now().Add(patience / 3); ; <-poll.C {
		device := o.f.device(q.Get("user"), q.Get("device"), protocol.FromClient{})
		device.leave()
		behind := false
		for _, box := range device.welcome.Mailboxes {
			behind = behind || box.Next <= box.Head
		}
		if !behind || time.Now().After(late) {
			return json.NewEncoder(w).Encode(device.welcome.Mailboxes)
		}
	}
}

// kill ends the process of a push node by SIGKILL: with `weft dev` that is all there is. It is started again by `weft up`
// itself, else by start.
func (o *operator) kill(q url.Values, _ io.Writer) error {
	if o.f.kind == "dev" {
		o.f.kill()
		return nil
	}
	m, err := manifest.Read(o.f.data)
	if err != nil {
		return err
	}
	port := local.Port(q.Get("push"))
	i := slices.IndexFunc(m.Processes, func(p manifest.Process) bool { return p.Role == "push" && slices.Contains(p.Ports, port) })
	if i < 0 || m.Processes[i].Down {
		return fmt.Errorf("no push node runs at port %d: %+v", port, m.Processes)
	}
	o.killed = m.Processes[i]
	return syscall.Kill(o.killed.PID, syscall.SIGKILL)
}

// start starts again what kill has ended, or waits until `weft up` has.
func (o *operator) start(url.Values, io.Writer) error {
	if o.f.kind == "dev" {
		o.f.start()
		return nil
	}
	o.f.awaitProcess(o.killed.Name, func(p manifest.Process) bool { return !p.Down && p.PID != o.killed.PID })
	return nil
}
