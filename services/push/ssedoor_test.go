package push

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

// eventsClient is a client of Server-Sent Events, and as strict as can be.
type eventsClient struct {
	*record
	to, token, device string
	id                string // of the last event; protected by record.mu
	http              *http.Client
}

func openEvents(t testing.TB, to, token string, hello protocol.FromClient, two bool) peer {
	t.Helper()
	made := make(chan *tap, 10)
	transport := &http.Transport{DialContext: wireTap(made), DisableCompression: true}
	if two {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	c := &eventsClient{record: newRecord(t), to: to, token: token, device: hello.Device, http: &http.Client{Transport: transport}}
	query := url.Values{"topic": hello.Topics}
	if hello.Device != "" {
		query.Set("device", hello.Device)
	}
	if hello.Client != "" {
		query.Set("client", hello.Client)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to+protocol.PathSSE+"?"+query.Encode(), nil)
	must(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if hello.Cursors != nil || hello.Epoch != "" {
		c.id = eventID(t, hello)
		r.Header.Set(protocol.LastEventID, c.id)
	}
	response, err := c.http.Do(r)
	must(t, err)
	c.line = <-made
	var reading sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		_ = c.line.Close()
		transport.CloseIdleConnections()
		reading.Wait()
	})
	if response.StatusCode != http.StatusOK {
		c.refused(response)
		return c
	}
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" || response.ProtoMajor != map[bool]int{false: 1, true: 2}[two] {
		t.Errorf("it is %s of %s", kind, response.Proto)
	}
	reading.Go(func() { c.read(response.Body) })
	return c
}

// eventID is a hello's epoch and cursors as the id of an event.
func eventID(t testing.TB, hello protocol.FromClient) string {
	t.Helper()
	epoch := hello.Epoch
	if epoch == "" {
		epoch = "e1" // an id always has one
	}
	b := protocol.AppendEventID(nil, epoch)
	for _, name := range slices.Sorted(maps.Keys(hello.Cursors)) {
		b = protocol.AppendCursor(b, protocol.CursorToken(address(t, name)), hello.Cursors[name])
	}
	return string(b)
}

func (c *eventsClient) read(body io.ReadCloser) {
	defer close(c.came)
	defer body.Close()
	lines := bufio.NewReader(body)
	event := map[string]string{}
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // half a line counts for nothing
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			c.event(event)
			event = map[string]string{}
		case name == "" || name == "retry":
		case name == "id" || name == "event" || name == "data":
			if _, twice := event[name]; twice {
				c.t.Errorf("%s is there twice", name)
			}
			event[name] = value
		default:
			c.t.Errorf("%q is no field of an event", line)
		}
	}
}

// event takes one event. Its kind has to be that of its object, and it has an id if and only if it takes the client on.
func (c *eventsClient) event(event map[string]string) {
	data, ok := event["data"]
	if !ok {
		return // a comment, or retry
	}
	if event["event"] == protocol.TClose {
		var end protocol.Close
		must(c.t, json.Unmarshal([]byte(data), &end))
		c.mu.Lock()
		defer c.mu.Unlock()
		c.code = end.Code
		if end.Reason != c.why || end.Retry == end.Code.Fatal() {
			c.t.Errorf("it ends with %s behind the error %q", data, c.why)
		}
		return
	}
	o, err := protocol.Decode([]byte(data))
	must(c.t, err)
	kind := o.T
	if kind == protocol.TMsg {
		kind = ""
	}
	_, moves := o.Position()
	_, id := event["id"]
	if event["event"] != kind || (moves && !id) || (id && !moves && o.T != protocol.TWelcome) {
		c.t.Errorf("%v is an event of another kind, or its id is missing or wrong", event)
	}
	if id {
		c.mu.Lock()
		c.id = event["id"]
		c.mu.Unlock()
	}
	c.take([]byte(data))
}

// stand is what Last-Event-ID says.
func (c *eventsClient) stand() (string, map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" {
		return "", nil
	}
	epoch, cursors, err := protocol.ParseEventID(c.id)
	must(c.t, err)
	return epoch, cursors
}

func (c *eventsClient) ack(ch string, seq uint64) problem.Code {
	status, p := postAck(c.t, c.to, c.token, c.device, string(object(protocol.Ack{Ch: ch, Seq: seq})))
	if (status == http.StatusNoContent) != (p.Code == "") {
		c.t.Errorf("status %d with %+v", status, p)
	}
	return p.Code
}

// postAck posts acknowledgements.
func postAck(t testing.TB, to, token, device, body string) (int, problem.Problem) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+to+protocol.PathAck+"?device="+url.QueryEscape(device), strings.NewReader(body))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Do(r)
	must(t, err)
	defer response.Body.Close()
	var p problem.Problem
	if text, _ := io.ReadAll(response.Body); len(bytes.TrimSpace(text)) > 0 {
		must(t, json.Unmarshal(text, &p))
	}
	return response.StatusCode, p
}
