// Package up runs Weft as separate processes on one machine, the way it runs on many: NATS servers, a Redis, several of
// each service that may have several, and the archive. It starts them, waits until they are ready, starts again what
// dies, and stops them.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/services/weft/manifest"
)

// partitions is P of a small cluster that fits one machine.
const partitions = 4

// Options says what to run. A port of 0 is any free one.
type Options struct {
	Data      string
	Archive   string // mongodb://…; empty for SQLite in the data folder
	BuildNATS bool   // build nats-server from its module, instead of taking it from PATH
	Servers   int    // nats-servers: 1, or 3 that keep three replicas of every stream; 0 is 1
	Nodes     int    // push nodes, collects and dispatches each, at least 1
	// Collects, Pushes and Dispatches are as many as Nodes where they are 0.
	Collects, Pushes, Dispatches int
	NATSPort                     int // of the first server; the next ones get the ports 10 above each other
	PushPort                     int // as with NATS
	CollectPort                  int
	Env                          []string // NAME=value: what the processes find in their environment besides ours
	Log                          *slog.Logger
	Out                          io.Writer // gets the lines that a person reads, one call for each
	Started                      time.Time
	Ready                        func(manifest.Manifest) // called by Run once everything is ready; nil for nothing

	// Between says at what address a process finds a server whose own address is given: for a proxy between the two.
	// Servers are nats-1 …, redis and mongodb; of a process nats-1 … the others are its cluster's routes. nil: their
	// own addresses.
	Between func(process, server, address string) (string, error)
	// Restart is called when a process has ended, with how; it is started again when Restart returns, or never when
	// ctx has ended. pause is what is waited when Restart is nil: 1 s, up to 10 s while it dies young.
	Restart func(ctx context.Context, name, how string, pause time.Duration)
}

func (o *Options) between(process, server, address string) (string, error) {
	if o.Between == nil {
		return address, nil
	}
	address, err := o.Between(process, server, address)
	if err != nil {
		return "", fmt.Errorf("between %s and %s: %w", process, server, err)
	}
	return address, nil
}

// Run starts everything, says how to use it, and stops it when ctx ends.
func Run(ctx context.Context, o Options) error {
	f, err := Start(ctx, o)
	if err != nil {
		return err
	}
	m := f.Manifest()
	if err := local.Welcome(o.Out, m, f.key, o.Started); err != nil {
		return errors.Join(err, f.Stop())
	}
	if o.Ready != nil {
		o.Ready(m)
	}
	<-ctx.Done()
	return f.Stop()
}

// Start starts everything and returns when it is ready; ctx is only for the start. From then on a process that dies is
// started again with the same arguments, on the same ports, and the manifest in the data folder tells. Stop must be
// called; after an error nothing runs.
func Start(ctx context.Context, o Options) (*Fabric, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	lock, err := local.Lock(o.Data)
	if err != nil {
		return nil, err
	}
	supervision, quit := context.WithCancel(context.WithoutCancel(ctx))
	f := &Fabric{o: o, lock: lock, quit: quit}
	if err := f.start(ctx); err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	f.supervise(supervision)
	return f, nil
}

// complete fills in what was not said, and makes the data folder.
func (o *Options) complete() (err error) {
	if o.Servers = max(o.Servers, 1); o.Servers != 1 && o.Servers != 3 {
		return fmt.Errorf("%d nats-servers make no cluster here: use 1 or 3", o.Servers)
	}
	o.Nodes = max(o.Nodes, 1)
	for _, n := range []*int{&o.Collects, &o.Pushes, &o.Dispatches} {
		if *n == 0 {
			*n = o.Nodes
		}
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(o.Data, "log"), 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	return nil
}

// start starts the servers, then the services, and waits for each lot.
func (f *Fabric) start(ctx context.Context) (err error) {
	keys := filepath.Join(f.o.Data, "keys")
	if f.key, err = auth.LoadOrCreateKey(keys); err != nil {
		return err
	}
	nodes, err := f.o.natsNodes()
	if err != nil {
		return err
	}
	redis, err := local.Ports(0)
	if err != nil {
		return err
	}
	if err := f.startServers(ctx, nodes, redis[0]); err != nil {
		return err
	}
	var servers []string
	for _, n := range nodes {
		servers = append(servers, "nats://"+n.client)
	}
	f.m = manifest.Manifest{Name: "up", Data: f.o.Data, NATS: strings.Join(servers, ","), Keys: keys}
	if err := local.ForgetOwners(ctx, f.m.NATS); err != nil {
		return err
	}
	from := len(f.all)
	if err := f.startServices(nodes, redis[0]); err != nil {
		return err
	}
	if err := f.ready(ctx, from); err != nil {
		return err
	}
	f.m.Processes = f.processes()
	return manifest.Write(f.o.Data, f.m)
}

// startServers starts nats-servers and redis-server and waits until they answer. The servers of a cluster answer only
// when they see each other: all are started before.
func (f *Fabric) startServers(ctx context.Context, nodes []natsNode, redis string) error {
	server, err := f.o.natsServer(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		config, err := f.o.writeNATSConfig(n, nodes)
		if err != nil {
			return err
		}
		err = f.add(process{
			name: n.name, role: "nats-server", data: JetStream(f.o.Data, n.name, len(nodes)), argv: []string{server, "--config", config},
			ports: n.ports(), probe: "http://" + n.admin + "/healthz",
		})
		if err != nil {
			return err
		}
	}
	err = f.add(process{
		name: "redis", role: "redis-server", data: f.o.Data, ports: []string{redis}, probe: "tcp://" + redis,
		argv: []string{"redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(local.Port(redis)), "--save", "", "--appendonly", "no", "--dir", f.o.Data},
	})
	if err != nil {
		return err
	}
	return f.ready(ctx, 0)
}

// next is the port of the i-th of a kind: any free one stays any free one.
func next(port, i int) int {
	if port == 0 {
		return 0
	}
	return port + 10*i
}

// archive is how a process is told of the archive.
func (o *Options) archive(process string) (string, error) {
	if o.Archive == "" {
		return "sqlite:" + filepath.Join(o.Data, "archive.db"), nil
	}
	u, err := url.Parse(o.Archive)
	if err != nil || o.Between == nil || u.Scheme != "mongodb" {
		return o.Archive, nil //nolint:nilerr // collect says what is wrong with it
	}
	if strings.Contains(u.Host, ",") {
		return "", errors.New("a replica set tells its members' own addresses: name one MongoDB server, to put a proxy before it")
	}
	if u.Port() == "" {
		u.Host = u.Host + ":27017"
	}
	if u.Host, err = o.between(process, "mongodb", u.Host); err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("directConnection", "true") // or the driver goes to the addresses that the server tells
	u.RawQuery = q.Encode()
	return u.String(), nil
}
