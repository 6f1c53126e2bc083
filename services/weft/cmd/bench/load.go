package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// connecting is how many devices connect at once.
	connecting = 50
	// quiet is how long after the last arrival what is missing counts as lost.
	quiet = 10 * time.Second
)

// payload is what is published; pad fills it up.
type payload struct {
	N   int    `json:"n"`  // number of the message for its user, from 1
	At  int64  `json:"at"` // ns since 1970, just before it was published
	Pad string `json:"pad"`
}

// receiver is one user's device, and what it saw.
type receiver struct {
	user      string
	conn      *websocket.Conn
	start     uint64 // the mailbox's head before the run
	next      int    // number that should come next
	doubled   int
	unordered int
	latencies []time.Duration
}

// measure connects the devices, publishes, waits and reports.
func measure(ctx context.Context, o options, m manifest.Manifest) error {
	var arrived atomic.Int64
	receivers, err := connectAll(ctx, o, m)
	if err != nil {
		return err
	}
	before := readCPU(m)
	began := time.Now()
	var readers sync.WaitGroup
	for _, r := range receivers {
		readers.Go(func() { r.read(&arrived) })
	}
	published, err := publishAll(ctx, o, m, receivers)
	if err == nil {
		err = await(ctx, &arrived, int64(o.messages))
	}
	took := time.Since(began)
	used := readCPU(m).since(before)
	for _, r := range receivers {
		_ = r.conn.Close()
	}
	readers.Wait()
	if err != nil {
		return err
	}
	return report(o, receivers, published, took, used)
}

// connectAll connects a device of each user, the push nodes in turn.
func connectAll(ctx context.Context, o options, m manifest.Manifest) ([]*receiver, error) {
	keys, err := auth.LoadKeys(m.Keys)
	if err != nil {
		return nil, err
	}
	receivers := make([]*receiver, o.users)
	var group errgroup.Group
	group.SetLimit(connecting)
	for i := range receivers {
		receivers[i] = &receiver{user: fmt.Sprintf("%s-%d", o.prefix, i), next: 1}
		group.Go(func() error {
			if err := receivers[i].connect(ctx, keys[0], m.Push[i%len(m.Push)]); err != nil {
				return fmt.Errorf("connect user %d: %w", i, err)
			}
			return nil
		})
	}
	return receivers, group.Wait()
}

func (r *receiver) connect(ctx context.Context, key auth.Key, url string) error {
	token, err := auth.Sign(key, identity.Identity{Tenant: subject.DefaultTenant, User: r.user}, time.Hour)
	if err != nil {
		return err
	}
	dialer := websocket.Dialer{Subprotocols: []string{protocol.Name}}
	conn, answer, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(url, "http")+protocol.Path, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if err := conn.WriteJSON(protocol.FromClient{T: protocol.THello, Device: "bench"}); err != nil {
		return err
	}
	var welcome protocol.Welcome
	if err := conn.ReadJSON(&welcome); err != nil {
		return err
	}
	if welcome.T != protocol.TWelcome {
		return fmt.Errorf("%q instead of welcome", welcome.T)
	}
	r.conn, r.start = conn, welcome.Mailboxes["user:"+r.user].Head
	return nil
}

// read counts what comes until the connection is closed, and acknowledges each text message at once.
func (r *receiver) read(arrived *atomic.Int64) {
	for {
		_, text, err := r.conn.ReadMessage()
		if err != nil {
			return
		}
		now := time.Now()
		var last uint64
		for object := range bytes.SplitSeq(text, []byte("\n")) {
			if seq := r.take(object, now); seq > 0 {
				last = seq
				arrived.Add(1)
			}
		}
		answer := protocol.FromClient{T: protocol.TPong}
		if last > 0 {
			answer = protocol.FromClient{T: protocol.TAck, Seq: last}
		}
		if err := r.conn.WriteJSON(answer); err != nil {
			return
		}
	}
}

// take judges one object and returns its sequence, 0 if it is no message of this run.
func (r *receiver) take(object []byte, now time.Time) uint64 {
	var msg protocol.Msg
	var p payload
	if json.Unmarshal(object, &msg) != nil || msg.T != protocol.TMsg || json.Unmarshal(protocol.Data(object), &p) != nil {
		return 0
	}
	switch {
	case p.N < r.next:
		r.doubled++
		return 0
	case p.N > r.next, msg.Seq != r.start+uint64(p.N): //nolint:gosec // numbers of this run
		r.unordered++
	}
	r.next = p.N + 1
	r.latencies = append(r.latencies, now.Sub(time.Unix(0, p.At)))
	return msg.Seq
}

// publishAll publishes to the users in turn and returns how long it took until everything was accepted.
func publishAll(ctx context.Context, o options, m manifest.Manifest, receivers []*receiver) (time.Duration, error) {
	nc, err := nats.Connect(m.NATS)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(o.window))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	pad := strings.Repeat("x", o.size)
	for i := range o.messages {
		if o.rate > 0 {
			due := began.Add(time.Duration(i) * time.Second / time.Duration(o.rate))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		r := receivers[i%len(receivers)]
		body, err := json.Marshal(payload{N: i/len(receivers) + 1, At: time.Now().UnixNano()})
		if err != nil {
			return 0, err
		}
		if short := o.size - len(body); short > 0 {
			body = append(append(body[:len(body)-2], pad[:short]...), '"', '}')
		}
		to := subject.In(subject.UserAddress(subject.DefaultTenant, r.user))
		if _, err := js.PublishAsync(to, body, jetstream.WithStallWait(10*time.Second)); err != nil {
			return 0, fmt.Errorf("publish message %d: %w", i, err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return time.Since(began), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// await waits until everything has arrived, or nothing came for a while.
func await(ctx context.Context, arrived *atomic.Int64, wanted int64) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	last, since := arrived.Load(), time.Now()
	for arrived.Load() < wanted {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if n := arrived.Load(); n > last {
			last, since = n, time.Now()
		} else if time.Since(since) > quiet {
			return nil // the report tells what is missing
		}
	}
	return nil
}
