package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// shutdown bounds how long an HTTP server waits for requests that are under way.
const shutdown = 5 * time.Second

// ServeHTTP listens on address, which the flag named flagName gave, and serves until ctx ends; then it waits up to
// 5 s for requests that are under way.
func ServeHTTP(ctx context.Context, flagName, address string, handler http.Handler) error {
	l, err := Listen(flagName, address) //nolint:contextcheck // a bind on an address of ours does not wait
	if err != nil {
		return err
	}
	return Serve(ctx, l, handler)
}

// Serve is ServeHTTP for a service that has to know that it listens before it says that it is ready. It closes l. It
// speaks HTTP/1.1, and HTTP/2 without TLS to clients that begin with it, as gRPC does.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	return serve(ctx, l, newServer(handler))
}

// ServeStreams is Serve for responses that go on for hours to clients that need not say anything. One whose host is gone,
// or can't be reached, is given up after silence: the kernel ends a connection with bytes that nobody acknowledged
// for so long (on Linux; elsewhere it takes minutes, by its own rules), and a client of HTTP/2 has to answer pings
// while nothing is written. Its request's context ends then.
func ServeStreams(ctx context.Context, l net.Listener, handler http.Handler, silence time.Duration) error {
	server := newServer(handler)
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	server.HTTP2 = &http.HTTP2Config{SendPingTimeout: silence / 2, PingTimeout: silence / 2, MaxReceiveBufferPerStream: inAdvance}
	return serve(ctx, impatient{l, silence}, server)
}

// inAdvance is how many bytes a client may send on a stream of HTTP/2 before anybody reads them: they are held in memory, also of
// clients that have not said yet who they are. Go's default is 1 MiB.
const inAdvance = 64 << 10

// connKey is where ServeStreams keeps a request's connection.
type connKey struct{}

// Conn is the connection of a request that came through ServeStreams, for who has to close it: over HTTP/2 nothing else
// ends a stream whose client reads nothing, as its end would be the next thing to be read. Other streams of the connection end with it.
func Conn(ctx context.Context) net.Conn {
	return ctx.Value(connKey{}).(net.Conn) //nolint:forcetypeassert // another server's request is a mistake of ours
}

// impatient is a listener whose connections are given up after silence. It is set on each: one that was made before the
// server began would not have it from the listener.
type impatient struct {
	net.Listener
	silence time.Duration
}

// Accept implements net.Listener.
func (l impatient) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		giveUpAfter(tcp, l.silence)
	}
	return conn, err
}

func newServer(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: protocols,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
	}
}

func serve(ctx context.Context, l net.Listener, server *http.Server) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
		defer cancel()
		if err := server.Shutdown(grace); !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return server.Close() // whoever does not end by then, a client that never sends its body say, is no fault of ours
	})
	return group.Wait()
}
