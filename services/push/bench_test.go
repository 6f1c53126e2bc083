package push

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// sink is a transport that counts, and acknowledges nothing.
type sink struct{ objects atomic.Int64 }

func (s *sink) Write(objects [][]byte) error {
	s.objects.Add(int64(len(objects)))
	return nil
}

func (s *sink) Ask(uint32) error { return nil }

func (s *sink) Cut() {}

func (s *sink) Close(protocol.CloseCode, string) {}

// BenchmarkTakeFrame measures the way from a frame of 32 messages of 256 bytes to the transports. One operation is one
// message, given to all sessions of its address and acknowledged by them.
func BenchmarkTakeFrame(b *testing.B) {
	for _, sessions := range []int{1, 100} {
		b.Run(fmt.Sprint("sessions=", sessions), func(b *testing.B) {
			bench := newBench(b, 64<<20)
			out := new(sink)
			var all []*session
			for i := range sessions {
				s, _ := bench.session(fmt.Sprint("d", i), map[subject.Address]uint64{alice: 0})
				s.out = out
				all = append(all, s)
			}
			var frames [][]byte
			for done := 0; done < b.N; done += 32 {
				frames = append(frames, frameOf(uint64(done)+1, 32))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i, frame := range frames {
				bench.node.takeFrame(&nats.Msg{Data: frame})
				for _, s := range all {
					if err := s.ack("", uint64(32*i+32)); err != nil {
						b.Fatal(err)
					}
				}
			}
			bench.settle()
			b.ReportMetric(float64(out.objects.Load())/b.Elapsed().Seconds(), "objects/s")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

func frameOf(first uint64, n int) (frame []byte) {
	payload := []byte(`{"text":"` + strings.Repeat("x", 245) + `"}`)
	for i := range uint64(n) {
		m := &message.Message{
			To: alice, Seq: first + i, ID: "01JD0000000000000000000000", Type: "bench", ContentType: message.JSON,
			At: time.Now().UnixMilli(), Payload: payload,
		}
		frame = message.AppendEntry(frame, alice, message.Entry{From: m.Seq, To: m.Seq, Message: m})
	}
	return frame
}

// BenchmarkIdleConnection measures what one idle WebSocket of one user costs the node, in bytes. The clients are bare
// sockets, Redis is away and the archive forgets the devices, so that what grows is the node's.
func BenchmarkIdleConnection(b *testing.B) {
	idle(b, bareClient)
}

// BenchmarkIdleStream measures the same of a stream of Server-Sent Events.
func BenchmarkIdleStream(b *testing.B) {
	idle(b, bareStream)
}

func idle(b *testing.B, open func(b *testing.B, to *net.TCPAddr, user string) int) {
	b.Helper()
	w := newWorld(b)
	n := w.node(func(n *Service) { n.cfg.Heartbeat = time.Hour })
	w.redis.Close()
	for range b.N {
		heap, stack := footprint()
		const connections = 2000
		fds := make([]int, connections)
		for i := range fds {
			fds[i] = open(b, n.listener.Addr().(*net.TCPAddr), fmt.Sprint("user", i))
		}
		w.archive.set(func() { w.archive.cursors, w.archive.opens = map[cursorKey]uint64{}, nil })
		moreHeap, moreStack := footprint()
		b.ReportMetric(float64(moreHeap-heap)/connections, "heap-B/conn")
		b.ReportMetric(float64(moreStack-stack)/connections, "stack-B/conn")
		b.ReportMetric(float64(runtime.NumGoroutine())/connections, "goroutines/conn")
		for _, fd := range fds {
			must(b, syscall.Close(fd))
		}
		eventually(b, "the sessions have ended", func() bool { return len(n.all()) == 0 })
	}
	must(b, w.redis.Restart())
}

// footprint is what lives after several collections, which shrink stacks by half each.
func footprint() (heap, stack int64) {
	for range 8 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.StackInuse)
}

// bareClient opens a session with nothing of Go on the client's side but a number.
func bareClient(b *testing.B, to *net.TCPAddr, user string) int {
	b.Helper()
	fd, err := connect(to, user, "phone")
	must(b, err)
	return fd
}

// bareStream opens a stream of events in the same way.
func bareStream(b *testing.B, to *net.TCPAddr, user string) int {
	b.Helper()
	fd, err := converse(to, step{
		say:  "GET " + protocol.PathSSE + "?device=phone HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token(user) + "\r\n\r\n",
		hear: protocol.TWelcome,
	})
	must(b, err)
	return fd
}

func closeFD(fd int) { _ = syscall.Close(fd) } // of a test that is over

// connect opens a session on a socket that is nothing but a number. A refusal is an error with what was said.
func connect(to *net.TCPAddr, user, device string) (fd int, err error) {
	hello := fmt.Sprintf(`{"t":"hello","device":"%s"}`, device)
	return converse(to, step{"GET " + protocol.Path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: " + protocol.Name + "\r\nAuthorization: Bearer " + token(user) + "\r\n\r\n", "101 "},
		step{"\x81" + string([]byte{0x80 | byte(len(hello)), 0, 0, 0, 0}) + hello, protocol.TWelcome}) // masked with zeros
}

// step is what a socket says, and what has to be in the answer.
type step struct{ say, hear string }

func converse(to *net.TCPAddr, steps ...step) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fd, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		return fd, err
	}
	for _, step := range steps {
		if _, err := syscall.Write(fd, []byte(step.say)); err != nil {
			return fd, err
		}
		buffer := make([]byte, 4096)
		read, err := syscall.Read(fd, buffer)
		if err == nil && !strings.Contains(string(buffer[:read]), step.hear) {
			err = fmt.Errorf("%q came; want %s", buffer[:read], step.hear)
		}
		if err != nil {
			return fd, err
		}
	}
	return fd, nil
}
