package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/shared/subject"
)

// natsModule is the server that --build-nats builds: the version that everything was measured with.
const natsModule = "github.com/nats-io/nats-server/v2@v2.15.2"

// natsServer finds the server's program, or builds it into the data folder, where the next start finds it.
func (o *Options) natsServer(ctx context.Context) (string, error) {
	if !o.BuildNATS {
		path, err := exec.LookPath("nats-server")
		if err != nil {
			return "", errors.New("nats-server is not on PATH; install it, or let --build-nats build it")
		}
		return path, nil
	}
	bin := filepath.Join(o.Data, "bin")
	path := filepath.Join(bin, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	_, _ = fmt.Fprintf(o.Out, "  building %s …\n", natsModule)
	build := exec.CommandContext(ctx, "go", "install", natsModule)
	build.Env = append(os.Environ(), "GOBIN="+bin, "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return path, nil
}

// natsConfig is the configuration of one server; nats/server.conf explains the same settings.
const natsConfig = `server_name: %q
listen: %q
http: %q
jetstream: { store_dir: %q }
mappings: { %q: %q }
`

// clusterConfig makes it one of several. Clients are told of no other server: they have all URLs, perhaps through
// proxies, around which an address that they learn would lead them.
const clusterConfig = `cluster: { name: weft, listen: %q, no_advertise: true%s, routes: [%s] }
`

// noGossip keeps servers that have proxies between them from telling each other the ways around: they learn an
// address where nobody listens, try it once, and keep to their configured routes.
const noGossip = `, advertise: "127.0.0.1:1"`

// natsNode is one nats-server.
type natsNode struct {
	name                   string
	client, admin, cluster string // addresses; cluster is empty for one alone
}

func (n natsNode) ports() []string {
	if n.cluster == "" {
		return []string{n.client, n.admin}
	}
	return []string{n.client, n.admin, n.cluster}
}

// natsNodes finds addresses for the servers.
func (o *Options) natsNodes() ([]natsNode, error) {
	nodes := make([]natsNode, o.Servers)
	for i := range nodes {
		ports, err := local.Ports(next(o.NATSPort, i), 0, 0)
		if err != nil {
			return nil, err
		}
		nodes[i] = natsNode{name: name("nats", i), client: ports[0], admin: ports[1]}
		if o.Servers > 1 {
			nodes[i].cluster = ports[2]
		}
	}
	return nodes, nil
}

// JetStream is the folder in which a nats-server keeps its streams: nats-1 alone in the data folder's `nats`, where
// `weft dev` has it too, one of several under its name.
func JetStream(data, server string, servers int) string {
	if servers <= 1 {
		return filepath.Join(data, "nats")
	}
	return filepath.Join(data, server)
}

// writeNATSConfig writes the configuration of one of the servers and returns its path.
func (o *Options) writeNATSConfig(n natsNode, nodes []natsNode) (string, error) {
	config := fmt.Sprintf(natsConfig, n.name, n.client, n.admin, JetStream(o.Data, n.name, len(nodes)),
		subject.InMapping, subject.PartitionMapping(partitions))
	if len(nodes) > 1 {
		var routes []string
		for _, other := range nodes {
			if other.name == n.name {
				continue
			}
			address, err := o.between(n.name, other.name, other.cluster)
			if err != nil {
				return "", err
			}
			routes = append(routes, fmt.Sprintf("%q", "nats://"+address))
		}
		gossip := ""
		if o.Between != nil {
			gossip = noGossip
		}
		config += fmt.Sprintf(clusterConfig, n.cluster, gossip, strings.Join(routes, ", "))
	}
	path := filepath.Join(o.Data, n.name+".conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", n.name, err)
	}
	return path, nil
}
