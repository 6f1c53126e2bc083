// Package local is what `weft dev` and `weft up` share: one data folder with one owner, ports on 127.0.0.1, and the
// lines that a person reads when everything runs.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/subject"
)

// tokenTTL is how long the token is good that a start prints.
const tokenTTL = 24 * time.Hour

// Lock makes this process the only one that uses a data folder, until the file is closed or the process dies.
func Lock(data string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("the data folder %s is in use by another weft; stop it, or name another folder with --data", data)
	}
	return f, nil
}

// Ports turns ports into addresses on 127.0.0.1; each 0 becomes a port that is free now.
func Ports(ports ...int) ([]string, error) {
	addresses := make([]string, len(ports))
	for i, port := range ports {
		l, err := listen(port)
		if err != nil {
			return nil, fmt.Errorf("port %d is not free: %w; choose another one (weft help shows the flags)", port, err)
		}
		defer func() { _ = l.Close() }() // all of them are held until the last is found, so that none comes twice
		addresses[i] = l.Addr().String()
	}
	return addresses, nil
}

// Free ports are looked for below those that a system gives to outgoing connections (on Linux from 32768, elsewhere from
// 49152): a process that died and is started again would find its own port taken by one of them.
const firstFree, lastFree = 10000, 32767

// listen listens on a port of 127.0.0.1, on a free one if it is 0.
func listen(port int) (net.Listener, error) {
	const tries = 100
	for range tries {
		candidate := port
		if port == 0 {
			candidate = firstFree + rand.IntN(lastFree-firstFree+1) //nolint:gosec // any port will do, it is no secret
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(candidate))) //nolint:noctx // a bind on loopback does not wait
		if err == nil || port != 0 {
			return l, err
		}
	}
	return nil, fmt.Errorf("%d ports between %d and %d are all taken", tries, firstFree, lastFree)
}

// Port is the port of an address or URL, 0 if it has none.
func Port(address string) int {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(port)
	return n
}

// Self describes this process for the manifest.
func Self(name, role, data string, addresses ...string) manifest.Process {
	p := manifest.Process{Name: name, Role: role, PID: os.Getpid(), Argv: os.Args, Data: data}
	for _, a := range addresses {
		p.Ports = append(p.Ports, Port(a))
	}
	return p
}

// Welcome prints what a newcomer needs: the URLs, a token, and lines to copy.
func Welcome(w io.Writer, m manifest.Manifest, key auth.Key, started time.Time) error {
	token, err := auth.Sign(key, identity.Identity{
		Tenant: subject.DefaultTenant, User: "alice", Topics: []string{"*"}, Publish: []string{"*"},
	}, tokenTTL)
	if err != nil {
		return err
	}
	data := ""
	if cwd, err := os.Getwd(); err != nil || m.Data != filepath.Join(cwd, ".weft") {
		data = " --data " + m.Data
	}
	_, err = fmt.Fprintf(w, `
  weft %s is ready in %s

  push      %s   WebSockets: ws%s/v1/ws, events: /v1/sse, gRPC: weft.v1.PushService
  collect   %s   HTTP: POST /v1/messages, gRPC: weft.v1.PublishService
  NATS      %s
  data      %s

  The demo, in a browser:
    %[3]s/demo#user=alice&token=%[8]s

  In a second terminal, receive as alice:
    weft listen --user alice%[9]s
    curl -N -H 'Authorization: Bearer '"$(weft token alice%[9]s)" '%[3]s/v1/sse?device=curl'
  In a third, publish to her:
    weft pub user:alice '{"hello":1}'%[9]s
    nats --server %[6]s req weft.in.default.user.alice '{"hello":1}'
    curl -H 'Authorization: Bearer '"$(weft token alice --publish '*'%[9]s)" %[5]s/v1/messages -d '{"to":"user:alice","data":{"hello":1}}'

  (weft is: go run ./services/weft/cmd/weft)
  A token for alice, good for %[10]s:
    %[8]s

  Ctrl-C stops it; the data stays.
`, m.Name, time.Since(started).Round(time.Millisecond), m.Push[0], m.Push[0][len("http"):], m.Collect[0], m.NATS, m.Data, token, data, tokenTTL)
	return err
}

// ForgetOwners removes the leases that processes of an earlier run left: whoever holds the data folder knows that none
// of them lives. Without it a start after a crash would wait 2 s for them to lapse.
func ForgetOwners(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return fmt.Errorf("forget the owners of an earlier run: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("forget the owners of an earlier run: %w", err)
	}
	if err := js.DeleteKeyValue(ctx, fabric.OwnersBucket); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("forget the owners of an earlier run: %w", err)
	}
	return nil
}
