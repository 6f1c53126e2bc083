package service_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/weftpush/weft/shared/service"
)

// A client that announces a body and never sends it holds its connection; a service that stops does so all the same, and
// that is no failure.
func TestServeEndsWithoutClientsThatDoNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- service.Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			close(asked)
		}))
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-asked
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
