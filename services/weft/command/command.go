// Package command is the command line of weft: it parses, and calls the packages that do the work.
package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/collect"
	"github.com/weftpush/weft/services/dispatch"
	"github.com/weftpush/weft/services/push"
	"github.com/weftpush/weft/services/weft/dev"
	"github.com/weftpush/weft/services/weft/up"
	"github.com/weftpush/weft/shared/service"
)

// Exit codes of every command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 1 && args[0] == "run" {
		return runService(args[1], args[2:])
	}
	started := time.Now()
	root := &cobra.Command{
		Use:           "weft",
		Short:         "Weft delivers messages that are published on NATS to every device of their user",
		SilenceUsage:  true,
		SilenceErrors: true,
		Example: `  weft dev                          everything on this machine, in one process
  weft listen --user alice          receive, in a second terminal
  weft pub user:alice '{"n":1}'     publish, in a third`,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	root.AddCommand(devCommand(started, log), upCommand(started, log))
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "weft: %v\n", err)
	if ran == root || !ran.Runnable() {
		return exitUsage
	}
	return exitFailed
}

func devCommand(started time.Time, log *slog.Logger) *cobra.Command {
	o := dev.Options{Started: started, Log: log}
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process: NATS, Redis, the archive and all services, on 127.0.0.1",
		Args:  cobra.NoArgs,
		Example: `  weft dev
  weft dev --data /tmp/weft --nats-port 0 --push-port 0 --collect-port 0 --admin-port 0`,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			return dev.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Data, "data", ".weft", "folder of everything that is kept")
	f.IntVar(&o.NATSPort, "nats-port", 4222, "port of NATS; 0 for any free one")
	f.IntVar(&o.PushPort, "push-port", 8080, "port of WebSockets and the demo; 0 for any free one")
	f.IntVar(&o.CollectPort, "collect-port", 8081, "port of POST /v1/messages; 0 for any free one")
	f.IntVar(&o.AdminPort, "admin-port", 9090, "port of /readyz and /healthz; 0 for any free one")
	return c
}

func upCommand(started time.Time, log *slog.Logger) *cobra.Command {
	o := up.Options{Started: started, Log: log}
	c := &cobra.Command{
		Use:   "up",
		Short: "Run everything as separate processes: nats-server, redis-server, auth, and two of each other service",
		Long: `Run everything as separate processes on 127.0.0.1, the way it runs on many machines. redis-server must be on PATH
(on Debian: apt-get install redis-server), nats-server too unless --build-nats builds it. The archive is one SQLite
file that the collects share, or the MongoDB that --archive names.`,
		Args: cobra.NoArgs,
		Example: `  weft up --build-nats
  weft up --archive mongodb://127.0.0.1:27017/weft`,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			return up.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Data, "data", ".weft", "folder of everything that is kept")
	f.StringVar(&o.Archive, "archive", "", "MongoDB `URI` with the database's name; SQLite in the data folder if it is not given")
	f.BoolVar(&o.BuildNATS, "build-nats", false, "build nats-server from its module instead of taking it from PATH")
	f.IntVar(&o.Nodes, "nodes", 2, "how many push nodes, collects and dispatches each")
	f.IntVar(&o.NATSPort, "nats-port", 4222, "port of NATS; 0 for any free one")
	f.IntVar(&o.PushPort, "push-port", 8080, "port of the first push node, the next ones 10 above each other; 0 for any free ones")
	f.IntVar(&o.CollectPort, "collect-port", 8081, "port of the first collect, the next ones 10 above each other; 0 for any free ones")
	return c
}

// runService is `weft run <service>`: the service's own program, under another name. `weft up` starts its processes
// with it, so that one binary is enough.
func runService(name string, args []string) int {
	switch name {
	case "auth":
		var cfg auth.Config
		return service.Main(name, args, &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return auth.New(cfg, nc, log)
		})
	case "collect":
		var cfg collect.Config
		return service.Main(name, args, &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return collect.New(cfg, nc, log)
		})
	case "dispatch":
		var cfg dispatch.Config
		return service.Main(name, args, &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return dispatch.New(cfg, nc, log)
		})
	case "push":
		var cfg push.Config
		return service.Main(name, args, &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return push.New(cfg, nc, log)
		})
	}
	fmt.Fprintf(os.Stderr, "weft: there is no service %q; there are auth, collect, dispatch and push\n", name)
	return exitUsage
}
