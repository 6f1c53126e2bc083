package embed_test

import (
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/subject"
)

const configs = "../../nats/"

// loopback says that nothing of a configuration listens to other machines.
func loopback(t *testing.T, o *server.Options) {
	t.Helper()
	if o.Host != "127.0.0.1" || o.HTTPHost != "127.0.0.1" || o.Cluster.Port != 0 && o.Cluster.Host != "127.0.0.1" {
		t.Errorf("%s listens on %s, %s, %s", o.ConfigFile, o.Host, o.HTTPHost, o.Cluster.Host)
	}
}

// startConfig starts a server as its file says, but on a free port, with its data elsewhere.
func startConfig(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Port, o.HTTPPort, o.HTTPHost, o.StoreDir, o.NoSigs, o.NoLog = server.RANDOM_PORT, 0, "", t.TempDir(), true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return s
}

// sorted publishes to each partition's addresses on a server whose configuration has so many partitions.
func sorted(t *testing.T, s *server.Server, partitions int) {
	t.Helper()
	js := connect(t, s.ClientURL())
	create(t, js, fabric.Facts{Epoch: "e1", Partitions: partitions}, 1)
	for _, a := range addresses()[:64] {
		ack, err := js.Publish(within(t, patience), subject.In(a), []byte("1"))
		if err != nil {
			t.Fatal(err)
		}
		if want := fabric.InStream(subject.Partition(a, partitions)); ack.Stream != want {
			t.Errorf("%s went to %s, want %s", subject.In(a), ack.Stream, want)
		}
	}
}

func TestServerConfigStarts(t *testing.T) {
	o, err := server.ProcessConfigFile(configs + "server.conf")
	if err != nil {
		t.Fatal(err)
	}
	loopback(t, o)
	sorted(t, startConfig(t, o), 4)
}

func TestClusterConfigsFitTogether(t *testing.T) {
	ports, routes := map[int]bool{}, map[string]int{}
	for _, name := range []string{"a", "b", "c"} {
		o, err := server.ProcessConfigFile(filepath.Join(configs, "cluster", name+".conf"))
		if err != nil {
			t.Fatal(err)
		}
		loopback(t, o)
		if !o.JetStream || o.ServerName != "weft-"+name || o.Cluster.Name != "weft" || len(o.Routes) != 3 {
			t.Errorf("%s.conf: JetStream %t, name %q, cluster %q, %d routes", name, o.JetStream, o.ServerName, o.Cluster.Name, len(o.Routes))
		}
		ports[o.Port], ports[o.HTTPPort], ports[o.Cluster.Port] = true, true, true
		for _, r := range o.Routes {
			routes[r.Port()]++
		}
		// By itself, without the others, each must sort addresses into 16 partitions.
		o.Cluster, o.Routes = server.ClusterOpts{}, nil
		sorted(t, startConfig(t, o), 16)
	}
	if len(ports) != 9 || len(routes) != 3 {
		t.Errorf("the three need 9 ports and 3 routes; they have %v and %v", ports, routes)
	}
}
