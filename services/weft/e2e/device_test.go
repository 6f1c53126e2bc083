package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/protocol"
)

// device is a client that shows the wire as it is: it repeats nothing, drops nothing and acknowledges only when told.
type device struct {
	t       *testing.T
	conn    *websocket.Conn
	welcome protocol.Welcome
	objects chan object
	closed  error // why the connection ended; read after objects is closed
}

// object is any object of a push node, with its bytes.
type object struct {
	T     string `json:"t"`
	Seq   uint64 `json:"seq"`
	ID    string `json:"id"`
	Type  string `json:"type"`
	Ch    string `json:"ch"`
	From  uint64 `json:"from"`
	To    uint64 `json:"to"`
	Why   string `json:"why"`
	Code  string `json:"code"`
	Field string `json:"field"`
	Text  string `json:"message"`
	Mime  string `json:"content_type"`
	Bytes []byte `json:"data64"`
	Again bool   `json:"re"`
	raw   []byte
}

// data is the payload as it was published.
func (o object) data() string {
	if b := protocol.Data(o.raw); b != nil {
		return string(b)
	}
	return string(o.Bytes)
}

// device connects a device of a user to the next push node and says hello.
func (f *fabric) device(user, name string, hello protocol.FromClient) *device {
	f.t.Helper()
	token := f.token(identity.Identity{User: user, Topics: []string{"*"}}, time.Hour)
	hello.T, hello.Device = protocol.THello, name
	d := f.dial(token)
	d.say(hello)
	o := d.next()
	if o.T != protocol.TWelcome {
		f.t.Fatalf("%s instead of welcome", o.raw)
	}
	if err := json.Unmarshal(o.raw, &d.welcome); err != nil {
		f.t.Fatal(err)
	}
	return d
}

// dial opens a connection without saying anything on it.
func (f *fabric) dial(token string) *device {
	f.t.Helper()
	url := f.manifest.Push[f.next%len(f.manifest.Push)]
	f.next++
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Name}, HandshakeTimeout: patience}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	conn, response, err := dialer.Dial("ws"+strings.TrimPrefix(url, "http")+protocol.Path, header)
	if err != nil {
		f.t.Fatal(err)
	}
	_ = response.Body.Close()
	d := &device{t: f.t, conn: conn, objects: make(chan object, 100_000)}
	go d.read()
	f.t.Cleanup(d.leave)
	return d
}

func (d *device) read() {
	defer close(d.objects)
	for {
		_, text, err := d.conn.ReadMessage()
		if err != nil {
			d.closed = err
			return
		}
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			var o object
			if err := json.Unmarshal(line, &o); err != nil {
				d.closed = fmt.Errorf("%q is not an object: %w", line, err)
				return
			}
			o.raw = line
			d.objects <- o
		}
	}
}

// say sends objects in one text message.
func (d *device) say(objects ...any) {
	d.t.Helper()
	var lines [][]byte
	for _, o := range objects {
		b, err := json.Marshal(o)
		if err != nil {
			d.t.Fatal(err)
		}
		lines = append(lines, b)
	}
	if err := d.conn.WriteMessage(websocket.TextMessage, bytes.Join(lines, []byte("\n"))); err != nil {
		d.t.Fatal(err)
	}
}

// ack acknowledges the user's own mailbox.
func (d *device) ack(seq uint64) {
	d.t.Helper()
	d.say(protocol.FromClient{T: protocol.TAck, Seq: seq})
}

// next is the next object; heartbeats are answered on the way.
func (d *device) next() object {
	d.t.Helper()
	late := time.After(patience)
	for {
		select {
		case o, ok := <-d.objects:
			if !ok {
				d.t.Fatalf("the connection ended: %v", d.closed)
			}
			if o.T == protocol.TPing {
				d.say(protocol.Beat{T: protocol.TPong})
				continue
			}
			return o
		case <-late:
			d.t.Fatal("nothing came")
		}
	}
}

// message is the next object, which must be a message with this sequence.
func (d *device) message(seq uint64) object {
	d.t.Helper()
	o := d.next()
	if o.T != protocol.TMsg || o.Seq != seq {
		d.t.Fatalf("%.300s instead of message %d", o.raw, seq)
	}
	return o
}

// silent checks that nothing but heartbeats comes before the answer to a ping: what the node had to send before that
// is here.
func (d *device) silent() {
	d.t.Helper()
	d.say(protocol.Beat{T: protocol.TPing})
	if o := d.next(); o.T != protocol.TPong {
		d.t.Fatalf("%.300s came, but nothing should", o.raw)
	}
}

// ending waits for the connection's end and returns the last error object and the close code.
func (d *device) ending() (object, int) {
	d.t.Helper()
	var last object
	late := time.After(patience)
	for {
		select {
		case o, ok := <-d.objects:
			if ok {
				if o.T == protocol.TError {
					last = o
				}
				continue
			}
			if e, ok := errors.AsType[*websocket.CloseError](d.closed); ok {
				return last, e.Code
			}
			d.t.Fatalf("the connection ended without a close frame: %v", d.closed)
		case <-late:
			d.t.Fatal("the connection did not end")
		}
	}
}

// leave closes the connection and waits for the reader.
func (d *device) leave() {
	_ = d.conn.Close()
	for range d.objects { //nolint:revive // until it is closed
	}
}
