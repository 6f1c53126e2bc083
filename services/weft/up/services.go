package up

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weftpush/weft/services/weft/local"
)

// services starts services: what it knows is the same for all of them.
type services struct {
	f       *Fabric
	program string // this program: it is the services too, under other names
	nodes   []natsNode
	redis   string
}

// startServices starts auth, and as many of the others as there are to be. They are started in turns, so that each
// kind has its first before any has its second.
func (f *Fabric) startServices(nodes []natsNode, redis string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s := services{f: f, program: self, nodes: nodes, redis: redis}
	if err := s.run("auth", 0, "", "-auth-keys", filepath.Join(f.o.Data, "keys"), "-auth-issue"); err != nil {
		return err
	}
	for i := range max(f.o.Collects, f.o.Dispatches, f.o.Pushes) {
		if err := s.round(i); err != nil {
			return err
		}
	}
	return nil
}

// round starts the i-th of each kind that has so many.
func (s *services) round(i int) error {
	o := &s.f.o
	if i < o.Collects {
		listen, err := local.Ports(next(o.CollectPort, i))
		if err != nil {
			return err
		}
		archive, err := o.archive(name("collect", i))
		if err != nil {
			return err
		}
		err = s.run("collect", i, listen[0], "-archive", archive, "-partitions", strconv.Itoa(partitions), "-replicas", strconv.Itoa(o.Servers))
		if err != nil {
			return err
		}
		s.f.m.Collect = append(s.f.m.Collect, "http://"+listen[0])
	}
	if i < o.Dispatches {
		if err := s.run("dispatch", i, ""); err != nil {
			return err
		}
	}
	if i >= o.Pushes {
		return nil
	}
	listen, err := local.Ports(next(o.PushPort, i))
	if err != nil {
		return err
	}
	s.f.m.Push = append(s.f.m.Push, "http://"+listen[0])
	return s.run("push", i, listen[0], "-demo")
}

// run starts one service. listen is empty for one that serves nothing but its readiness.
func (s *services) run(role string, i int, listen string, args ...string) error {
	ports, err := local.Ports(0)
	if err != nil {
		return err
	}
	me := name(role, i)
	argv := append([]string{s.program, "run", role, "-admin", ports[0]}, args...)
	nats := make([]string, len(s.nodes))
	for i, n := range s.nodes {
		address, err := s.f.o.between(me, n.name, n.client)
		if err != nil {
			return err
		}
		nats[i] = "nats://" + address
	}
	argv = append(argv, "-nats", strings.Join(nats, ","))
	if role != "auth" {
		redis, err := s.f.o.between(me, "redis", s.redis)
		if err != nil {
			return err
		}
		argv = append(argv, "-redis", "redis://"+redis+"/0")
	}
	probe := "http://" + ports[0] + "/readyz"
	if listen != "" {
		argv = append(argv, "-listen", listen)
		ports = append(ports, listen)
	}
	return s.f.add(process{name: me, role: role, data: s.f.o.Data, argv: argv, ports: ports, probe: probe})
}

// name is that of the i-th process of a role.
func name(role string, i int) string { return fmt.Sprintf("%s-%d", role, i+1) }
