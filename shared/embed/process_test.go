package embed_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/weftpush/weft/shared/subject"
)

// memberVariable makes a test binary a server of a cluster instead: only a process of its own can be killed and paused.
const memberVariable = "WEFT_TEST_MEMBER"

// member is a server of a cluster, and what its process is told.
type member struct {
	Name        string
	Dir         string
	Port, Peers int   // where clients and the other servers connect
	All         []int // Peers of all
	Partitions  int

	process *exec.Cmd
	stdin   io.Closer
}

// beMember is the server's process: it runs until it is killed or nobody holds its standard input any more.
func beMember(told string) error {
	var m member
	if err := json.Unmarshal([]byte(told), &m); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: m.Name, Host: "127.0.0.1", Port: m.Port, JetStream: true, StoreDir: m.Dir, NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "weft", Host: "127.0.0.1", Port: m.Peers},
	}
	for _, port := range m.All {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	if err := s.GlobalAccount().AddMapping(subject.InMapping, subject.PartitionMapping(m.Partitions)); err != nil {
		return err
	}
	s.Start()
	_, _ = os.Stdout.WriteString("started\n")
	_, err = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	return err
}

// crew is a cluster of three processes.
type crew struct {
	t       *testing.T
	members []*member
}

// startCrew starts the processes and waits for nothing: clients meet a cluster that is only just coming up.
func startCrew(t *testing.T, partitions int) *crew {
	t.Helper()
	c, dir, all := &crew{t: t}, t.TempDir(), ports(t, 6)
	for i := range 3 {
		name := string(rune('a' + i))
		m := &member{Name: name, Dir: filepath.Join(dir, name), Port: all[i], Peers: all[3+i], All: all[3:], Partitions: partitions}
		c.members = append(c.members, m)
		c.start(m)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.kill(m)
		}
	})
	return c
}

func ports(t *testing.T, n int) (free []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // only at the end, so that the ports differ
		free = append(free, l.Addr().(*net.TCPAddr).Port)
	}
	return free
}

func (c *crew) urls() string {
	var list []string
	for _, m := range c.members {
		list = append(list, fmt.Sprintf("nats://127.0.0.1:%d", m.Port))
	}
	return strings.Join(list, ",")
}

func (c *crew) start(m *member) {
	c.t.Helper()
	told, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	m.process = exec.Command(os.Args[0])
	m.process.Env = append(os.Environ(), memberVariable+"="+string(told))
	m.process.Stderr = os.Stderr
	out, err := m.process.StdoutPipe()
	if err == nil {
		m.stdin, err = m.process.StdinPipe()
	}
	if err = errors.Join(err, m.process.Start()); err != nil {
		c.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		c.t.Fatalf("server %s did not start: %s, %v", m.Name, line, err)
	}
}

func (c *crew) kill(m *member) {
	_ = m.process.Process.Kill() // an error is a process that has ended
	_ = m.process.Wait()
	_ = m.stdin.Close()
}

func (c *crew) signal(m *member, s syscall.Signal) {
	c.t.Helper()
	if err := m.process.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}
