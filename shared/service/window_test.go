package service_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// TestAStreamMayNotSendMuchInAdvance: what nobody has read of a stream of HTTP/2 is held in memory, also of a client that has
// not said yet who it is.
func TestAStreamMayNotSendMuchInAdvance(t *testing.T) {
	address, _ := streams(t, time.Minute, time.Minute)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(conn, head); err != nil || head[3] != 4 {
		t.Fatalf("%x came instead of settings, %v", head, err)
	}
	settings := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(conn, settings); err != nil {
		t.Fatal(err)
	}
	window := uint32(65535) // of RFC 9113
	for ; len(settings) >= 6; settings = settings[6:] {
		if binary.BigEndian.Uint16(settings) == 4 {
			window = binary.BigEndian.Uint32(settings[2:])
		}
	}
	if window > 64<<10 {
		t.Errorf("a client may send %d bytes before anybody reads", window)
	}
}
