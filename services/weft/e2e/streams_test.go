package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// A device reads Server-Sent Events while its messages are published, and the node that serves it dies by kill -9 in the
// middle, twice. All that the device keeps is the id of the last event, with which it resumes at the other node: each message of its
// mailbox and of a topic comes exactly once and in order. One device acknowledges nothing else, one posts now and then, to the
// node that does not serve it.
func TestServerSentEventsOutliveAKilledNode(t *testing.T) {
	for name, each := range map[string]int{"the id alone": 0, "acknowledged": 20} { // 0 is never
		t.Run(name, func(t *testing.T) {
			f := &fabric{t: t, kind: "up", data: t.TempDir()}
			f.start()
			t.Cleanup(f.stop)
			e := &eventReader{
				f: f, token: f.token(identity.Identity{User: "alice", Topics: []string{"*"}}, time.Hour),
				handled: map[string]uint64{}, kills: []int{600, 1200}, each: each, more: make(chan struct{}, 3),
			}
			// The first stream is there before anything is published (on a topic a device starts at the head), and after each
			// kill there is more to come.
			published := make(chan error, 1)
			go func() { published <- f.publishBoth(e.more, 3, 350) }()
			for attempts := 0; e.count < all; attempts++ {
				if err := e.read(); err != nil || attempts > 1000 {
					t.Fatalf("after %v and %d attempts: %v", e.handled, attempts, err)
				}
			}
			if len(e.kills) != 0 || e.resumed < 2 {
				t.Errorf("%d nodes were not killed, %d streams went on elsewhere", len(e.kills), e.resumed)
			}
			if err := <-published; err != nil {
				t.Error(err)
			}
		})
	}
}

// all is how many messages there are, of both addresses.
const all = 2 * 3 * 350

// publishBoth publishes numbered messages to a user and a topic, part by part.
func (f *fabric) publishBoth(more <-chan struct{}, parts, each int) error {
	nc := f.connect()
	js, err := nc.JetStream()
	if err != nil {
		return err
	}
	for n := 1; n <= parts*each; n++ {
		if n%each == 1 {
			<-more
		}
		for _, to := range []subject.Address{user("alice"), {Tenant: subject.DefaultTenant, Kind: subject.Topic, ID: "news"}} {
			if _, err := js.Publish(subject.In(to), strconv.AppendInt(nil, int64(n), 10)); err != nil {
				return err
			}
		}
	}
	return nil
}

// eventReader is a device that resumes by the id of the last event.
type eventReader struct {
	f       *fabric
	token   string
	node    int // which node serves it
	id      string
	more    chan struct{} // takes one for each part that may be published
	begun   bool
	handled map[string]uint64
	count   int   // of all messages
	kills   []int // after how many the node that serves it is killed
	resumed int   // streams that began behind messages
	each    int   // after how many messages it posts an acknowledgement; 0 for never
}

// read is one stream. Its end is no error; a message that is not the next one is.
func (e *eventReader) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	at := e.f.manifest.Push[e.node%len(e.f.manifest.Push)]
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at+protocol.PathSSE+"?device=phone&topic=news", nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+e.token)
	if e.id != "" {
		r.Header.Set(protocol.LastEventID, e.id)
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		e.node++   // it is dead; so is this attempt
		return nil // another one is worth a try
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		if response.Header.Get("Retry-After") == "" {
			return fmt.Errorf("%s: %s", response.Status, text)
		}
		return nil
	}
	lines := bufio.NewReader(response.Body)
	id := ""
	for e.count < all {
		line, err := lines.ReadString('\n')
		if err != nil {
			e.node++
			return nil // the node is dead
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			id = value
		case "data":
			if err := e.take([]byte(value)); err != nil {
				return err
			}
		case "":
			if id != "" {
				e.id = id
			}
		}
	}
	return nil
}

// take handles the data of one event.
func (e *eventReader) take(data []byte) error {
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		return fmt.Errorf("%q: %w", data, err)
	}
	o.raw = data
	switch o.T {
	case protocol.TWelcome:
		if !e.begun {
			e.begun = true
			e.more <- struct{}{}
		}
		if e.count > 0 {
			e.resumed++
		}
		return nil
	case protocol.TMsg:
	default:
		return fmt.Errorf("%s came", data)
	}
	if next := e.handled[o.Ch] + 1; o.Seq != next || o.data() != strconv.FormatUint(next, 10) {
		return fmt.Errorf("%s came after %d", data, e.handled[o.Ch])
	}
	e.handled[o.Ch]++
	e.count++
	if e.each > 0 && e.count%e.each == 0 {
		if err := e.acknowledge(o.Ch, o.Seq); err != nil {
			return err
		}
	}
	if len(e.kills) > 0 && e.count == e.kills[0] {
		e.kills = e.kills[1:]
		defer func() { e.more <- struct{}{} }()
		return e.f.killServer(e.f.manifest.Push[e.node%len(e.f.manifest.Push)])
	}
	return nil
}

// acknowledge posts to the node that does not serve the device; where that can't be done now, it is left.
func (e *eventReader) acknowledge(ch string, seq uint64) error {
	at := e.f.manifest.Push[(e.node+1)%len(e.f.manifest.Push)]
	body, err := json.Marshal(protocol.Ack{Ch: ch, Seq: seq})
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodPost, at+protocol.PathAck+"?device=phone", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+e.token)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return nil // that node is dead
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusNoContent && response.Header.Get("Retry-After") == "" {
		return fmt.Errorf("acknowledge %s %d: %s: %s", ch, seq, response.Status, text)
	}
	return nil
}

// killServer kills the push node that serves a URL, once all are there: the other one can take its devices.
func (f *fabric) killServer(at string) error {
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return err
	}
	pid := 0
	for _, p := range f.manifest.Processes {
		if p.Role != "push" {
			continue
		}
		p = f.awaitProcess(p.Name, func(p manifest.Process) bool { return !p.Down })
		if slices.Contains(p.Ports, port) {
			pid = p.PID
		}
	}
	if pid == 0 {
		return errors.New("no push node serves " + at)
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}
