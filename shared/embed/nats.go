package embed

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/weftpush/weft/shared/subject"
)

// startWait bounds how long a server may take to start. An empty one is ready in 30 ms; one that recovers the
// streams of a killed process needs longer.
const startWait = 20 * time.Second

// NATSOptions says how to run a server.
type NATSOptions struct {
	Dir        string       // of the file store; made if it is not there, and found again by the next start
	Port       int          // 0 for any free one
	Partitions int          // P of the fabric, for the mapping of weft.in.>
	Log        *slog.Logger // gets the server's warnings and errors; nil for none
	// MaxStore is the most bytes of all streams together; 0 for three quarters of what the disk has free. At this limit
	// the server refuses what is published, and goes on as soon as there is room; at the end of the disk it gives no answer,
	// and a stream that met it takes nothing more until the server is started again (2.15.2).
	MaxStore int64
}

// Server is a running nats-server.
type Server struct {
	server *server.Server
}

// NATS starts a server on 127.0.0.1 that keeps JetStream's data in a folder and spreads weft.in.> over the partitions.
// It answers clients when NATS returns. It does not touch the process's signals: Stop ends it.
func NATS(o NATSOptions) (*Server, error) {
	s, err := start(&server.Options{ServerName: "weft", Port: o.Port, StoreDir: o.Dir, JetStreamMaxStore: o.MaxStore}, o.Partitions, o.Log)
	if err != nil {
		return nil, fmt.Errorf("start NATS on 127.0.0.1:%d with data in %s: %w", o.Port, o.Dir, err)
	}
	return s, nil
}

// URL is where clients connect.
func (s *Server) URL() string { return s.server.ClientURL() }

// Stop ends the server and returns when all of it has ended. What was acknowledged is in the folder.
func (s *Server) Stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// start completes the options, starts the server and waits until it answers.
func start(options *server.Options, partitions int, log *slog.Logger) (*Server, error) {
	options.Host = "127.0.0.1"
	options.JetStream = true
	options.NoSigs = true
	if options.Port == 0 {
		options.Port = server.RANDOM_PORT
	} else if err := free(options.Port); err != nil {
		return nil, err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, err
	}
	failures := &serverLog{log: log}
	s.SetLoggerV2(failures, false, false, false)
	if err := s.GlobalAccount().AddMapping(subject.InMapping, subject.PartitionMapping(partitions)); err != nil {
		return nil, fmt.Errorf("map %s to %d partitions: %w", subject.InMapping, partitions, err)
	}
	s.Start()
	running := &Server{server: s}
	for waited := time.Duration(0); !s.ReadyForConnections(100 * time.Millisecond); waited += 100 * time.Millisecond {
		if failure := failures.fatal.Load(); failure != nil || waited > startWait {
			running.Stop()
			return nil, fmt.Errorf("not ready after %s: %v", waited, failure)
		}
	}
	return running, nil
}

// free says whether the port can be had. The server itself would only log that it can't, and never be ready.
func free(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // a bind on loopback does not wait
	if err != nil {
		return err
	}
	return l.Close()
}
