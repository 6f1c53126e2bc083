package push

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	connectgo "connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/weftpush/weft/shared/message"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
)

// BenchmarkTranslate is what gRPC adds to a message of a session: its object read and written as protobuf.
func BenchmarkTranslate(b *testing.B) {
	for _, size := range []int{256, 8 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m := &message.Message{
				To: news, Seq: 1, ID: "01JD0000000000000000000000", Type: "order.paid", ContentType: message.JSON, At: time.Now().UnixMilli(),
				Payload: []byte(`{"text":"` + strings.Repeat("x", size-11) + `"}`),
			}
			object := protocol.AppendMessage(nil, m)
			var wire []byte
			b.ReportAllocs()
			for b.Loop() {
				o, err := protocol.Decode(object)
				must(b, err)
				wire, err = proto.MarshalOptions{}.MarshalAppend(wire[:0], &weftv1.ConnectResponse{Object: &weftv1.ConnectResponse_Message{Message: wireMessage(&o, payload(object, &o))}})
				must(b, err)
			}
		})
	}
}

// BenchmarkCall measures the way from a session's writer to a client in the same process that reads: the CPU of both ends
// and the kernel, for objects of 256 bytes in writes of 32.
func BenchmarkCall(b *testing.B) {
	object := protocol.AppendMessage(nil, &message.Message{
		To: alice, Seq: 1, ID: "01JD0000000000000000000000", Type: "bench", ContentType: message.JSON, At: time.Now().UnixMilli(),
		Payload: []byte(`{"text":"` + strings.Repeat("x", 245) + `"}`),
	})
	for name, each := range map[string]int{"writes=32": 32, "writes=1": 1} {
		b.Run(name, func(b *testing.B) {
			n := b.N
			door := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				connectgo.NewServerStreamHandler("/x", func(ctx context.Context, _ *connectgo.Request[weftv1.SubscribeRequest], stream *connectgo.ServerStream[weftv1.SubscribeResponse]) error {
					c := newCall(ctx, 0, subscribed{stream})
					for done := 0; done < n; done += each {
						objects := make([][]byte, each)
						for i := range objects {
							objects[i] = object
						}
						if err := c.Write(objects); err != nil {
							return err
						}
					}
					return nil
				}).ServeHTTP(w, r)
			})
			server := &http.Server{Handler: new(Service).withStream(inBatches(door)), Protocols: new(http.Protocols), ReadHeaderTimeout: patience}
			server.Protocols.SetUnencryptedHTTP2(true)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(b, err)
			var serving sync.WaitGroup
			serving.Go(func() { _ = server.Serve(l) })
			defer serving.Wait()
			defer server.Close()
			r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+l.Addr().String()+"/x", strings.NewReader("\x00\x00\x00\x00\x00"))
			must(b, err)
			r.Header.Set("Content-Type", "application/grpc+proto")
			cpu := cpuTime()
			b.ResetTimer()
			transport := &http.Transport{Protocols: server.Protocols}
			defer transport.CloseIdleConnections()
			answer, err := (&http.Client{Transport: transport}).Do(r)
			must(b, err)
			_, err = io.Copy(io.Discard, answer.Body)
			must(b, err)
			must(b, answer.Body.Close())
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/msg")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

// cpuTime is what this process has used, in user and in kernel mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIdleCall measures what one idle gRPC stream costs a node, in bytes: alone on its connection, as of a device, and
// as one of 100 on a connection, as of a gateway. The clients are bare sockets, Redis is away and the archive forgets the
// devices, so that what grows is the node's.
func BenchmarkIdleCall(b *testing.B) {
	w := newWorld(b)
	n := w.node(func(n *Service) { n.cfg.Heartbeat = time.Hour })
	w.redis.Close()
	for _, c := range []struct {
		name string
		open func(b *testing.B, to *net.TCPAddr, users []string) int
		each int
	}{
		{"subscribe", bareSubscriptions, 1},
		{"connect", bareConnects, 1},
		{"connect=100", bareConnects, 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				heap, stack := footprint()
				const streams = 1000
				var fds []int
				for i := range streams / c.each {
					var users []string
					for j := range c.each {
						users = append(users, fmt.Sprint("user", i*c.each+j))
					}
					fds = append(fds, c.open(b, n.listener.Addr().(*net.TCPAddr), users))
				}
				eventually(b, "the sessions are open", func() bool { return len(n.all()) == streams })
				w.archive.set(func() { w.archive.cursors, w.archive.opens = map[cursorKey]uint64{}, nil })
				moreHeap, moreStack := footprint()
				b.ReportMetric(float64(moreHeap-heap)/streams, "heap-B/stream")
				b.ReportMetric(float64(moreStack-stack)/streams, "stack-B/stream")
				b.ReportMetric(float64(runtime.NumGoroutine())/streams, "goroutines/stream")
				for _, fd := range fds {
					must(b, syscall.Close(fd))
				}
				eventually(b, "the sessions have ended", func() bool { return len(n.all()) == 0 })
			}
		})
	}
	must(b, w.redis.Restart())
}

func bareSubscriptions(b *testing.B, to *net.TCPAddr, users []string) int {
	return bareCalls(b, to, weftv1connect.PushServiceSubscribeProcedure, &weftv1.SubscribeRequest{Device: "phone"}, endStream, users)
}

func bareConnects(b *testing.B, to *net.TCPAddr, users []string) int {
	hello := &weftv1.ConnectRequest{Object: &weftv1.ConnectRequest_Hello{Hello: &weftv1.Hello{Device: "phone"}}}
	return bareCalls(b, to, weftv1connect.PushServiceConnectProcedure, hello, 0, users)
}

// bareCalls opens one stream for each user, with nothing of Go on the client's side but a number.
func bareCalls(b *testing.B, to *net.TCPAddr, path string, body proto.Message, flags byte, users []string) int {
	b.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(b, err)
	must(b, syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}))
	data, err := proto.Marshal(body)
	must(b, err)
	data = append([]byte{0, 0, 0, 0, byte(len(data))}, data...)
	text := frame([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), settings, 0, 0, nil)
	for i, user := range users {
		var fields []byte
		for _, f := range [][2]string{
			{":method", "POST"},
			{":scheme", "http"},
			{":path", path},
			{":authority", "x"},
			{"content-type", "application/grpc+proto"},
			{"te", "trailers"},
			{"authorization", "Bearer " + token(user)},
		} {
			fields = literal(literal(append(fields, 0), f[0]), f[1]) // not indexed, as it is
		}
		stream := uint32(2*i + 1)
		text = frame(frame(text, headers, endHeaders, stream, fields), 0, flags, stream, data)
	}
	_, err = syscall.Write(fd, text)
	must(b, err)
	return fd
}

// Kinds of frames, and flags.
const (
	headers    = 1
	settings   = 4
	endStream  = 1
	endHeaders = 4
)

// frame appends a frame of HTTP/2.
func frame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// literal appends a string of HPACK without Huffman's code.
func literal(b []byte, s string) []byte {
	if len(s) < 127 {
		return append(append(b, byte(len(s))), s...)
	}
	return append(binary.AppendUvarint(append(b, 127), uint64(len(s)-127)), s...)
}
