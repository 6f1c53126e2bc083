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
	"github.com/weftpush/weft/services/weft/cli"
	"github.com/weftpush/weft/services/weft/demo"
	"github.com/weftpush/weft/services/weft/dev"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/services/weft/up"
	"github.com/weftpush/weft/shared/service"
)

// The groups of commands in the help.
const (
	running   = "run"
	using     = "use"
	operating = "operate"
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
		Version:       cli.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		Example: `  weft dev                          everything on this machine, in one process
  weft listen --user alice          receive, in a second terminal
  weft pub user:alice '{"n":1}'     publish, in a third`,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for _, c := range []*cobra.Command{root, devCommand(started, log), upCommand(started, log), demoCommand(started, log)} {
		cli.Usage(c)
		if c != root {
			c.GroupID = running
			root.AddCommand(c)
		}
	}
	root.AddGroup(&cobra.Group{ID: running, Title: "Run a fabric:"}, &cobra.Group{ID: using, Title: "Use it:"}, &cobra.Group{ID: operating, Title: "Operate it:"})
	for group, list := range map[string][]*cobra.Command{
		using:     {cli.NewPub(), cli.NewListen(), cli.NewToken()},
		operating: {cli.NewUndelivered(), cli.NewReplay(), cli.NewQuarantine(), cli.NewAudit(), cli.NewTrace(), cli.NewUser(), cli.NewNodes(), cli.NewTop(), cli.NewTail(), cli.NewKick(), cli.NewDrain(), cli.NewDoctor()},
	} {
		for _, c := range list {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.SetVersionTemplate("weft {{.Version}}\n")
	root.SetHelpCommand(cli.NewHelp())
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "weft: %v\n", err)
	}
	return cli.ExitCode(err)
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
	devFlags(c, &o)
	return c
}

func devFlags(c *cobra.Command, o *dev.Options) {
	f := c.Flags()
	f.StringVar(&o.Data, "data", ".weft", "folder of everything that is kept")
	f.IntVar(&o.NATSPort, "nats-port", 4222, "port of NATS; 0 for any free one")
	f.IntVar(&o.PushPort, "push-port", 8080, "port of WebSockets and the demo; 0 for any free one")
	f.IntVar(&o.CollectPort, "collect-port", 8081, "port of POST /v1/messages; 0 for any free one")
	f.IntVar(&o.AdminPort, "admin-port", 9090, "port of /readyz and /healthz; 0 for any free one")
}

func demoCommand(started time.Time, log *slog.Logger) *cobra.Command {
	o := dev.Options{Started: started, Log: log}
	var file string
	var pause time.Duration
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run everything as `weft dev` does, and publish 329 real GitHub webhooks to watch on the demo page",
		Long: `Run everything as "weft dev" does, and publish the 329 example webhooks of GitHub that the npm package
@octokit/webhooks-examples holds, each to its sender and to the topic of its repository. Open the demo page, log in as
Codertocat, subscribe to the topic Codertocat/Hello-World, go offline, come back. Running it again publishes the same
ids, so nothing comes twice.`,
		Args: cobra.NoArgs,
		Example: `  weft demo
  weft demo --pause 1s
  weft demo --payloads my.ndjson      lines of {"to":"user:alice","id":"1","type":"t","payload":"{}"}`,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			list, err := payloads(c.Context(), file, o.Out)
			if err != nil {
				return err
			}
			o.Then = func(ctx context.Context, m manifest.Manifest) error {
				_, err := demo.Publish(ctx, m.NATS, list, pause, o.Out, cli.Terminal(o.Out))
				if ctx.Err() != nil {
					return nil //nolint:nilerr // it was stopped in the middle, which is no failure
				}
				return err
			}
			return dev.Run(c.Context(), o)
		},
	}
	devFlags(c, &o)
	c.Flags().StringVar(&file, "payloads", "", "`file` of messages instead of the npm package's")
	c.Flags().DurationVar(&pause, "pause", 50*time.Millisecond, "pause between two messages")
	return c
}

// payloads reads the list of the demo's messages.
func payloads(ctx context.Context, file string, out io.Writer) ([]byte, error) {
	if file != "" {
		return os.ReadFile(file)
	}
	return demo.Payloads(ctx, out)
}

func upCommand(started time.Time, log *slog.Logger) *cobra.Command {
	o := up.Options{Started: started, Log: log}
	c := &cobra.Command{
		Use:   "up",
		Short: "Run everything as separate processes: nats-server, redis-server, auth, and two of each other service",
		Long: `Run everything as separate processes on 127.0.0.1, the way it runs on many machines. redis-server must be on PATH
(on Debian: apt-get install redis-server), nats-server too unless --build-nats builds it. The archive is one SQLite
file that the collects share, or the MongoDB that --archive names. A process that dies is started again.`,
		Args: cobra.NoArgs,
		Example: `  weft up --build-nats
  weft up --nats-servers 3 --nodes 3
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
	f.IntVar(&o.Servers, "nats-servers", 1, "how many nats-servers: 1, or 3 that keep three replicas of every stream")
	f.IntVar(&o.NATSPort, "nats-port", 4222, "port of the first nats-server, the next ones 10 above each other; 0 for any free ones")
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
	return cli.ExitUsage
}
