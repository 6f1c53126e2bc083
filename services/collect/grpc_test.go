package collect

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/service"
	"github.com/weftpush/weft/shared/subject"
)

// counter is where calls are made: the doors of a collect behind the server that Run uses.
type counter struct {
	*world
	service *Service
	url     string
	client  *http.Client // HTTP/2 without TLS
	close   func()       // ends serving and waits
}

// newCounter opens the doors of a collect that owns a partition.
func newCounter(t testing.TB) *counter {
	t.Helper()
	w := newWorld(t)
	w.auth()
	r := w.start()
	w.archived(subject.Publish(subject.UserAddress("default", "warm-up")), `1`)
	return w.counter(r.Service)
}

// newCounterOf opens the doors of a collect without partitions; the test is their owner.
func newCounterOf(t testing.TB) *counter {
	t.Helper()
	w := newWorld(t)
	w.auth()
	s, err := New(DefaultConfig(), w.nc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.archive = w.archive
	return w.counter(s)
}

func (w *world) counter(s *Service) *counter {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := service.Serve(ctx, l, s.httpDoor(ctx)); err != nil {
			w.t.Error(err)
		}
	})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	c := &counter{world: w, service: s, url: "http://" + l.Addr().String(), client: &http.Client{Transport: transport}}
	c.close = sync.OnceFunc(func() { cancel(); serving.Wait() })
	w.t.Cleanup(func() {
		transport.CloseIdleConnections()
		c.close()
	})
	return c
}

// publisher is a client of the door with a token.
func (c *counter) publisher(token string, options ...connect.ClientOption) weftv1connect.PublishServiceClient {
	return weftv1connect.NewPublishServiceClient(c.client, c.url, append(options, connect.WithInterceptors(bearing(token)))...)
}

// bearing sends a token with every call.
type bearing string

func (b bearing) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, r)
	}
}

func (b bearing) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

func (b bearing) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func limit(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// refused holds an error against its gRPC code and its problem, and returns the detail.
func refused(t testing.TB, err error, code connect.Code, why problem.Code, field string) *weftv1.Problem {
	t.Helper()
	p, ok := refusal.Detail[*weftv1.Problem](err)
	if !ok || connect.CodeOf(err) != code || p.GetCode() != string(why) || p.GetField() != field || p.GetMessage() == "" {
		t.Errorf("%v with %v; want %s with %s in %q", err, p, code, why, field)
	}
	return p
}

func TestCall(t *testing.T) {
	c := newCounter(t)
	payload := []byte(" {\"b\": 1,\n\"a\": 1.0} ")
	for i, option := range []connect.ClientOption{connect.WithGRPC(), connect.WithGRPCWeb(), connect.WithProtoJSON()} {
		r, err := c.publisher("good", option).Publish(limit(t), &weftv1.PublishRequest{
			To: "user:alice", Id: string(rune('a' + i)), Type: "t", Ttl: "1h", Traceparent: "00-1", Data: payload,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.GetId() != string(rune('a'+i)) || r.GetSeq() != uint64(i)+1 || r.GetTo() != "user:alice" || r.GetState() != string(message.StateArchived) || r.GetAt() == 0 {
			t.Errorf("%v", r)
		}
	}
	r, err := c.publisher("good").Publish(limit(t), &weftv1.PublishRequest{To: "user:al.ice >*", ContentType: "application/octet-stream", Data: []byte("\x00\xff")})
	if err != nil || len(r.GetId()) != 26 {
		t.Errorf("%v, %v", r, err)
	}
	log := c.logged(5)
	for _, m := range log[1:4] {
		if !bytes.Equal(m.Payload, payload) || m.Type != "t" || m.Trace != "00-1" || m.Expires == 0 || m.To != alice {
			t.Errorf("%+v", m)
		}
	}
	if m := log[4]; string(m.Payload) != "\x00\xff" || m.To.ID != "al.ice >*" || m.ContentType != "application/octet-stream" {
		t.Errorf("%+v", m)
	}
}

// What a person sends with curl: JSON, the payload in base64.
func TestCallByCurl(t *testing.T) {
	d := newDoor(t)
	d.url = strings.TrimSuffix(d.url, "/v1/messages") + weftv1connect.PublishServicePublishProcedure
	for body, want := range map[string]string{
		`{"to":"user:alice","id":"a","data":"eyJuIjoxfQ==","content_type":"application/json"}`: `"seq":"1"`,
		`{"to":"user:alice","id":"b"}`: `"code":"invalid_argument"`,
		`{"to":"user:alice","ttll":1}`: `"code":"invalid_argument"`,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer good")
		r.Header.Set("Content-Type", "application/json")
		answer, err := d.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || !strings.Contains(string(said), want) {
			t.Errorf("%s: %s, %v", body, said, err)
		}
	}
}

func TestCallRefuses(t *testing.T) {
	c := newCounter(t)
	if _, err := c.publisher("good").Publish(limit(t), &weftv1.PublishRequest{To: "user:alice", Id: "taken", Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		token string
		say   *weftv1.PublishRequest
		code  connect.Code
		why   problem.Code
		field string
	}{
		{"", &weftv1.PublishRequest{}, connect.CodeUnauthenticated, problem.Unauthorized, ""},
		{"bad", &weftv1.PublishRequest{}, connect.CodeUnauthenticated, problem.Unauthorized, ""},
		{"good", &weftv1.PublishRequest{}, connect.CodeInvalidArgument, problem.BadAddress, "to"},
		{"good", &weftv1.PublishRequest{To: "robot:1", Data: []byte("1")}, connect.CodeInvalidArgument, problem.BadAddress, "to"},
		{"good", &weftv1.PublishRequest{To: "topic:news", Data: []byte("1")}, connect.CodePermissionDenied, problem.Forbidden, "to"},
		{"good", &weftv1.PublishRequest{To: "user:alice"}, connect.CodeInvalidArgument, problem.Empty, "data"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("{")}, connect.CodeInvalidArgument, problem.BadJSON, "data"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: make([]byte, 64<<10+1)}, connect.CodeInvalidArgument, problem.TooLarge, "data"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Ttl: "soon"}, connect.CodeInvalidArgument, problem.BadHeader, "ttl"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Type: strings.Repeat("t", 257)}, connect.CodeInvalidArgument, problem.BadHeader, "type"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Id: strings.Repeat("t", 257)}, connect.CodeInvalidArgument, problem.BadHeader, "id"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), ContentType: "application/cloudevents+json"}, connect.CodeInvalidArgument, problem.Unsupported, "content_type"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), NotBefore: "x"}, connect.CodeInvalidArgument, problem.Unsupported, "not_before"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Collapse: "x"}, connect.CodeInvalidArgument, problem.Unsupported, "collapse"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("1"), Receipt: "read"}, connect.CodeInvalidArgument, problem.BadHeader, "receipt"},
		{"good", &weftv1.PublishRequest{To: "user:alice", Data: []byte("2"), Id: "taken"}, connect.CodeFailedPrecondition, problem.Conflict, "id"},
	} {
		_, err := c.publisher(r.token, connect.WithGRPC()).Publish(limit(t), r.say)
		if p := refused(t, err, r.code, r.why, r.field); p.GetRetry() || p.GetClose() != 0 {
			t.Errorf("%v", p)
		}
	}
	c.logged(2)
}

// Not a byte of a body is read before there is a good token and a place for it.
func TestCallIsBounded(t *testing.T) {
	c := newCounter(t)
	for range postsAtOnce {
		c.service.posts <- struct{}{}
	}
	for range streamsAtOnce {
		c.service.streams <- struct{}{}
	}
	_, err := c.publisher("good", connect.WithGRPC()).Publish(limit(t), &weftv1.PublishRequest{To: "user:alice", Data: []byte("1")})
	if p := refused(t, err, connect.CodeResourceExhausted, problem.Busy, ""); !p.GetRetry() {
		t.Error("it is worth a retry")
	}
	_, err = c.stream("good").receipts()
	refused(t, err, connect.CodeResourceExhausted, problem.Busy, "")
	<-c.service.posts
	<-c.service.streams
	for range 3 {
		_, err := c.publisher("good").Publish(limit(t), &weftv1.PublishRequest{To: "user:alice", Data: []byte("1")})
		if code := connect.CodeOf(err); err != nil && code != connect.CodeUnavailable { // a busy machine may not archive it in time
			t.Error(err)
		}
		if _, err := c.stream("good").receipts(); err != nil {
			t.Error(err)
		}
	}
}

// A message that can't be archived now is worth a retry, and the answer names its id.
func TestCallWithoutOwner(t *testing.T) {
	c := newCounterOf(t)
	begun := time.Now()
	_, err := c.publisher("good").Publish(limit(t), &weftv1.PublishRequest{To: "user:alice", Id: "x7", Data: []byte("1")})
	if p := refused(t, err, connect.CodeUnavailable, problem.Unavailable, ""); !p.GetRetry() || !strings.Contains(p.GetMessage(), "x7") || time.Since(begun) > ownerTimeout/2 {
		t.Errorf("%v after %s", p, time.Since(begun))
	}
}

// grpcurl asks for the services and their files.
func TestReflection(t *testing.T) {
	c := newCounterOf(t)
	stream := grpcreflect.NewClient(c.client, c.url, connect.WithGRPC()).NewStream(limit(t))
	defer func() { _, _ = stream.Close() }()
	names, err := stream.ListServices()
	if err != nil || !slices.Contains(names, weftv1connect.PublishServiceName) {
		t.Fatal(names, err)
	}
	if files, err := stream.FileContainingSymbol(weftv1connect.PublishServiceName); err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
}
