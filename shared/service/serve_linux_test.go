package service_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/service"
)

// wedge is a client's connection that stops.
type wedge struct {
	net.Conn
	stuck chan struct{} // closed: reads no more
	over  chan struct{}
}

func (w *wedge) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	select {
	case <-w.stuck:
		<-w.over
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

// streams serves a response that goes on until its request's context ends, and tells when that is.
func streams(t *testing.T, silence time.Duration, again time.Duration) (address string, ended <-chan time.Time) {
	t.Helper()
	l, err := service.Listen("listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over, served := make(chan time.Time, 1), make(chan error, 1)
	go func() {
		served <- service.ServeStreams(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			control, tick := http.NewResponseController(w), time.NewTicker(again)
			defer tick.Stop()
			for {
				_, _ = w.Write([]byte(".")) // the context tells when it fails
				_ = control.Flush()
				select {
				case <-r.Context().Done():
					over <- time.Now()
					return
				case <-tick.C:
				}
			}
		}), silence)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), over
}

// listen asks for the stream and reads its first byte.
func listen(t *testing.T, address string, two bool) (*wedge, *http.Response) {
	t.Helper()
	w := &wedge{stuck: make(chan struct{}), over: make(chan struct{})}
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		w.Conn = conn
		return w, err
	}}
	transport.Protocols.SetHTTP1(!two)
	transport.Protocols.SetUnencryptedHTTP2(two)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := response.Body.Read(make([]byte, 1)); err != nil || (response.ProtoMajor == 2) != two {
		t.Fatal(response.Proto, err)
	}
	t.Cleanup(sync.OnceFunc(func() {
		close(w.over)
		_ = w.Close()
		_ = response.Body.Close()
		transport.CloseIdleConnections()
	}))
	return w, response
}

func within(t *testing.T, ended <-chan time.Time, begun time.Time, least, most time.Duration) {
	t.Helper()
	select {
	case at := <-ended:
		if took := at.Sub(begun); took < least || took > most {
			t.Errorf("given up after %s; want %s to %s", took, least, most)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the client is never given up")
	}
}

// TestAHostThatIsGoneIsGivenUp: the kernel of the client drops what comes, and answers nothing.
func TestAHostThatIsGoneIsGivenUp(t *testing.T) {
	for name, two := range map[string]bool{"HTTP 1": false, "HTTP 2": true} {
		t.Run(name, func(t *testing.T) {
			const silence = time.Second
			address, ended := streams(t, silence, silence/4)
			w, _ := listen(t, address, two)
			begun := time.Now()
			close(w.stuck)
			raw, err := w.Conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var failed error
			err = raw.Control(func(fd uintptr) {
				failed = syscall.AttachLsf(int(fd), []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}}) //nolint:staticcheck // keep 0 bytes: golang.org/x/net/bpf is a module more for one instruction
			})
			if err != nil || failed != nil {
				t.Fatal(err, failed)
			}
			within(t, ended, begun, silence/4, 3*silence)
		})
	}
}

// TestAClientOfHTTP2ThatAnswersNoPingsIsGivenUp, while nothing is written to it; one that does stays.
func TestAClientOfHTTP2ThatAnswersNoPingsIsGivenUp(t *testing.T) {
	const silence = 600 * time.Millisecond
	address, ended := streams(t, silence, time.Hour)
	w, _ := listen(t, address, true)
	select {
	case <-ended:
		t.Fatal("a client that answers was given up")
	case <-time.After(3 * silence):
	}
	begun := time.Now()
	close(w.stuck)
	within(t, ended, begun, silence/4, 4*silence)
}
