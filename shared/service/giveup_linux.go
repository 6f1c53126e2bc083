package service

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall does not have.
const tcpUserTimeout = 0x12

// giveUpAfter sets how long bytes may stay unacknowledged on the connections that l accepts: they inherit it.
func giveUpAfter(l net.Listener, silence time.Duration) error {
	raw, ok := l.(syscall.Conn)
	if !ok {
		return nil // a listener of a test's own making has no kernel below it
	}
	conn, err := raw.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the listener %s: %w", l.Addr(), err)
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(silence.Milliseconds()))
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT on %s: %w", l.Addr(), err)
	}
	return nil
}
