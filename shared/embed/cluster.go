package embed

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"
)

// Cluster starts three servers that form a JetStream cluster, for tests of what replicas do. Their data is in folders
// below dir. They have elected a leader when Cluster returns.
func Cluster(dir string, partitions int) ([]*Server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, fmt.Errorf("find ports for the routes: %w", err)
	}
	var routes []*url.URL
	for _, port := range ports {
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	servers := make([]*Server, len(ports))
	var group errgroup.Group // a server of a cluster is ready when it sees the others: they must start together
	for i, port := range ports {
		name := string(rune('a' + i))
		options := &server.Options{ServerName: name, StoreDir: filepath.Join(dir, name), Routes: routes}
		options.Cluster = server.ClusterOpts{Name: "weft", Host: "127.0.0.1", Port: port}
		group.Go(func() (err error) {
			servers[i], err = start(options, partitions, nil)
			return err
		})
	}
	err = group.Wait()
	if err == nil {
		err = elected(servers)
	}
	if err != nil {
		for _, s := range servers {
			if s != nil {
				s.Stop()
			}
		}
		return nil, fmt.Errorf("start a cluster in %s: %w", dir, err)
	}
	return servers, nil
}

// elected waits until there is a leader that knows all servers to be there.
func elected(servers []*Server) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(startWait); time.Now().Before(deadline); <-look.C {
		for _, s := range servers {
			if s.server.JetStreamIsLeader() && len(s.server.JetStreamClusterPeers()) == len(servers) {
				return nil
			}
		}
	}
	return errors.New("no JetStream leader was elected")
}

// freePorts finds ports that nobody listens on. Somebody else may take one before it is used; the start fails then.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a bind on loopback does not wait
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // only at the end, so that the ports differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
