package push

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	connectgo "connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
)

// unsaid begins a call whose message does not come, without a token.
func (n *running) unsaid(t *testing.T, procedure string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", n.listener.Addr().String())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: weft\r\nContent-Type: application/grpc-web\r\nContent-Length: 100\r\n\r\n\x00", procedure)
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	return conn
}

// Calls whose message connect reads before a method of ours runs have as long for it as a hello has.
func TestCallsWhoseMessageDoesNotComeEnd(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = 200 * time.Millisecond })
	for _, procedure := range []string{weftv1connect.PushServiceSubscribeProcedure, weftv1connect.PushServiceAcknowledgeProcedure} {
		if _, err := io.ReadAll(n.unsaid(t, procedure)); err != nil {
			t.Errorf("%s is waited for: %v", procedure, err)
		}
	}
}

// Nor does a node that stops wait for them, or for who has asked what it serves and may ask again.
func TestCallsWhoseMessageDoesNotComeDelayNobody(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = patience })
	n.unsaid(t, weftv1connect.PushServiceSubscribeProcedure)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	stream := grpcreflect.NewClient(&http.Client{Transport: transport}, "http://"+n.listener.Addr().String(), connectgo.WithGRPC()).NewStream(t.Context())
	defer func() { _, _ = stream.Close() }()
	_, err := stream.ListServices()
	must(t, err)
	begun := time.Now()
	n.stop()
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// What came in time does not end when that time is over, nor when the node that serves it says so first.
func TestCallsThatCameInTimeStay(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.greeting = 200 * time.Millisecond })
	var guests []*guest
	for i, d := range callDoors() {
		g := n.guest(t, d, fmt.Sprint("phone", i))
		guests = append(guests, g)
	}
	<-time.After(2 * n.greeting)
	w.push(alice, "1")
	for _, g := range guests {
		g.wants("", 1, 1)
	}
	n.stop()
	for _, g := range guests {
		g.ends(protocol.CloseDraining, problem.Draining)
	}
}

// Of who has no good token nothing is read, and so nothing held.
func TestPostsOfNobodyAreNotRead(t *testing.T) {
	n := newWorld(t).node(func(n *Service) { n.greeting = 200 * time.Millisecond })
	response, err := http.ReadResponse(bufio.NewReader(n.unsaid(t, protocol.PathAck)), nil)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("it is answered %s", response.Status)
	}
}
