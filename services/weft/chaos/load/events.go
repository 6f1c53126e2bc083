package load

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
	"time"

	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// besideTimeout is how long an acknowledgement beside its session may take: the next one covers it.
	besideTimeout = 2 * time.Second
	// eventsMost is how many events are taken together.
	eventsMost = 64
)

// events is a connection of a device over Server-Sent Events. What it has handled it posts to any node.
type events struct {
	*thread
	visit

	body io.Closer // nil until the server has answered
	text *bufio.Reader
	said string // the server's last `error`
}

// openEvents implements opener.
func openEvents(ctx context.Context, v visit) (link, error) {
	alive, t := spin(ctx, new(http.Transport), v.dial)
	e := &events{thread: t, visit: v}
	if err := e.greet(alive); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *events) greet(ctx context.Context) error {
	query := url.Values{"device": {e.hello.Device}, "topic": e.hello.Topics, "client": {e.hello.Client}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+protocol.PathSSE+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+e.token)
	if e.hello.Epoch != "" {
		request.Header.Set(protocol.LastEventID, eventID(e.hello))
	}
	response, err := e.client.Do(request)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	e.body = response.Body
	if response.StatusCode != http.StatusOK {
		return errors.Join(errUnsaid, refused(nil, response))
	}
	e.text = bufio.NewReader(response.Body)
	for {
		o, err := e.event()
		if err != nil {
			return err
		}
		var welcome protocol.Welcome
		switch {
		case o == nil:
		case o.T != protocol.TWelcome || json.Unmarshal(o.raw, &welcome) != nil || welcome.Heartbeat <= 0:
			return fmt.Errorf("the first event is %.200s", o.raw)
		default:
			e.begin(welcome)
			return nil
		}
	}
}

// eventID says what a hello says in the id of an event.
func eventID(hello protocol.FromClient) string {
	id := protocol.AppendEventID(nil, hello.Epoch)
	for address, seq := range hello.Cursors {
		to, err := subject.ParseAddress(subject.DefaultTenant, address)
		if err != nil {
			continue // it came from the server, and the judge sees what is missing
		}
		id = protocol.AppendCursor(id, protocol.CursorToken(to), seq)
	}
	return string(id)
}

// next implements link. It takes together what is there already.
func (e *events) next() ([]object, error) {
	var objects []object
	for len(objects) == 0 || (e.text.Buffered() > 0 && len(objects) < eventsMost) {
		o, err := e.event()
		switch {
		case err != nil:
			return nil, err
		case o != nil:
			objects = append(objects, *o)
		}
	}
	return objects, nil
}

// event reads one event; nil for one that only the link has to know.
func (e *events) event() (*object, error) {
	var kind, data []byte
	for {
		line, err := e.text.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the stream ended without a word")
		} else if err != nil {
			return nil, err
		}
		e.heard()
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\n"), []byte(": "))
		switch string(name) {
		case "event":
			kind = value
		case "data":
			data = value
		case "": // a comment, or the end of an event
			if len(line) == 1 && data != nil {
				return e.take(string(kind), data)
			}
		}
	}
}

func (e *events) take(kind string, data []byte) (*object, error) {
	o := object{raw: data}
	switch kind {
	case protocol.TClose:
		var end protocol.Close
		if err := json.Unmarshal(data, &end); err != nil {
			return nil, fmt.Errorf("%.200q does not say why it is the end: %w", data, err)
		}
		return nil, closedWith(end.Code, e.said)
	case protocol.TError:
		if err := json.Unmarshal(data, &o); err != nil {
			return nil, fmt.Errorf("%.200q is not an object: %w", data, err)
		}
		e.said = o.Code + ": " + o.Message
		return nil, nil //nolint:nilnil // nothing for the device
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("%.200q is not an object: %w", data, err)
	}
	if plain := o.T == protocol.TMsg; plain != (kind == "") || (!plain && kind != o.T) {
		return nil, fmt.Errorf("an event of the kind %q is %.200s", kind, data)
	}
	return &o, nil
}

// closedWith is the end of a connection that the server has ended.
func closedWith(code protocol.CloseCode, said string) error {
	r := &refusal{code: code, said: said}
	if code == protocol.CloseBackOff {
		r.after = time.Second
	}
	return r
}

// close implements link.
func (e *events) close() {
	e.cancel()
	if e.body != nil {
		_ = e.body.Close()
	}
	e.thread.close()
}

// acknowledge implements link.
func (e *events) acknowledge(acks []protocol.FromClient) error {
	body, err := json.Marshal(acks)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), besideTimeout)
	defer cancel()
	where := e.other + protocol.PathAck + "?" + url.Values{"device": {e.hello.Device}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, where, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+e.token)
	response, err := beside.Do(request)
	if err != nil {
		return nil // that node is not there now
	}
	defer func() { _ = response.Body.Close() }()
	if said, _ := io.ReadAll(io.LimitReader(response.Body, answerMost)); response.StatusCode == http.StatusConflict || response.StatusCode == http.StatusBadRequest {
		return fmt.Errorf("an acknowledgement was refused: %s", bytes.TrimSpace(said))
	}
	return nil
}

// beside carries what a device says beside its session. It keeps no connection: nodes come and go.
var beside = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} //nolint:gochecknoglobals // it has no state
