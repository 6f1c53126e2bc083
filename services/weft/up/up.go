// Package up runs Weft as separate processes on one machine, the way it runs on many: a NATS server, a Redis, two of
// each service that may have two, and the archive. It starts them, waits until they are ready, and stops them.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/services/weft/manifest"
)

const (
	// partitions is P of a small cluster that fits one machine.
	partitions = 4
	// readyWait is how long a process may take until it is ready.
	readyWait = 30 * time.Second
	readyPoll = 25 * time.Millisecond
)

// Options says what to run. A port of 0 is any free one.
type Options struct {
	Data        string
	Archive     string // mongodb://…; empty for SQLite in the data folder
	BuildNATS   bool   // build nats-server from its module, instead of taking it from PATH
	Nodes       int    // push nodes, collects and dispatches each
	NATSPort    int
	PushPort    int // of the first node; the next ones get the ports 10 above each other
	CollectPort int
	Log         *slog.Logger
	Out         io.Writer
	Started     time.Time
	Ready       func(manifest.Manifest) // called once everything is ready; nil for nothing
}

// Run starts everything, and stops it when ctx ends. A process that dies meanwhile is reported; the others go on.
func Run(ctx context.Context, o Options) (err error) {
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(o.Data, "log"), 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := local.Lock(o.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	key, err := auth.LoadOrCreateKey(filepath.Join(o.Data, "keys"))
	if err != nil {
		return err
	}
	f := &fleet{log: o.Log, data: o.Data, out: o.Out}
	defer func() { err = errors.Join(err, f.stop(), manifest.Remove(o.Data)) }()
	m, err := o.start(ctx, f)
	if err != nil {
		return err
	}
	if err := manifest.Write(o.Data, *m); err != nil {
		return err
	}
	if err := local.Welcome(o.Out, *m, key, o.Started); err != nil {
		return err
	}
	if o.Ready != nil {
		o.Ready(*m)
	}
	<-ctx.Done()
	return nil
}

// start starts the servers, then the services, and waits for each lot.
func (o *Options) start(ctx context.Context, f *fleet) (*manifest.Manifest, error) {
	ports, err := local.Ports(o.NATSPort, 0, 0)
	if err != nil {
		return nil, err
	}
	nats, natsAdmin, redis := ports[0], ports[1], ports[2]
	if err := o.startServers(ctx, f, nats, natsAdmin, redis); err != nil {
		return nil, err
	}
	if err := local.ForgetOwners(ctx, "nats://"+nats); err != nil {
		return nil, err
	}
	m := &manifest.Manifest{Name: "up", Data: o.Data, NATS: "nats://" + nats, Keys: filepath.Join(o.Data, "keys")}
	if err := o.startServices(f, m, "redis://"+redis+"/0"); err != nil {
		return nil, err
	}
	if err := f.ready(ctx); err != nil {
		return nil, err
	}
	m.Processes = f.processes()
	return m, nil
}

// startServers starts nats-server and redis-server and waits until they answer.
func (o *Options) startServers(ctx context.Context, f *fleet, nats, natsAdmin, redis string) error {
	server, err := o.natsServer(ctx)
	if err != nil {
		return err
	}
	config, err := writeNATSConfig(o.Data, nats, natsAdmin)
	if err != nil {
		return err
	}
	err = f.start(process{
		name: "nats", role: "nats-server", data: filepath.Join(o.Data, "nats"), argv: []string{server, "--config", config},
		ports: []string{nats, natsAdmin}, probe: "http://" + natsAdmin + "/healthz",
	})
	if err != nil {
		return err
	}
	err = f.start(process{
		name: "redis", role: "redis-server", data: o.Data, ports: []string{redis}, probe: "tcp://" + redis,
		argv: []string{"redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(local.Port(redis)), "--save", "", "--appendonly", "no", "--dir", o.Data},
	})
	if err != nil {
		return err
	}
	return f.ready(ctx)
}

// startServices starts the services, which are this same program under other names.
func (o *Options) startServices(f *fleet, m *manifest.Manifest, redis string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	archive := o.Archive
	if archive == "" {
		archive = "sqlite:" + filepath.Join(o.Data, "archive.db")
	}
	run := func(role string, i int, listen string, args ...string) error {
		admin, err := local.Ports(0)
		if err != nil {
			return err
		}
		argv := append([]string{self, "run", role, "-nats", m.NATS, "-admin", admin[0]}, args...)
		ports := admin
		if listen != "" {
			argv = append(argv, "-listen", listen)
			ports = append(ports, listen)
		}
		return f.start(process{
			name: fmt.Sprintf("%s-%d", role, i), role: role, data: o.Data, argv: argv, ports: ports, probe: "http://" + admin[0] + "/readyz",
		})
	}
	if err := run("auth", 1, "", "-auth-keys", m.Keys, "-auth-issue"); err != nil {
		return err
	}
	for i := range max(o.Nodes, 1) {
		listen, err := local.Ports(next(o.CollectPort, i), next(o.PushPort, i))
		if err != nil {
			return err
		}
		m.Collect = append(m.Collect, "http://"+listen[0])
		m.Push = append(m.Push, "http://"+listen[1])
		err = errors.Join(
			run("collect", i+1, listen[0], "-archive", archive, "-redis", redis, "-partitions", strconv.Itoa(partitions)),
			run("dispatch", i+1, "", "-redis", redis),
			run("push", i+1, listen[1], "-redis", redis, "-demo"),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// next is the port of the i-th of a kind: any free one stays any free one.
func next(port, i int) int {
	if port == 0 {
		return 0
	}
	return port + 10*i
}

// answers says whether a process answers its probe: an HTTP URL with 200, or a TCP connection.
func answers(ctx context.Context, probe string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if address, ok := strings.CutPrefix(probe, "tcp://"); ok {
		return dials(ctx, address)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, probe, nil)
	if err != nil {
		return false
	}
	response, err := new(http.Client).Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}
