// Package e2e tests Weft from outside, through its public doors only: it builds the weft program, starts it as a user
// would, and publishes and receives. Every test runs against `weft dev` and against `weft up`, unchanged.
package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/identity"
)

// patience bounds every wait; nothing takes that long unless it is broken.
const patience = 30 * time.Second

var (
	// bin is the folder of the programs that TestMain builds: weft and nats-server.
	bin string
	// buildFlags are those of weft.
	buildFlags []string
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "weft-e2e-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(bin)
		for program, pkg := range map[string]string{
			"weft":        "github.com/weftpush/weft/services/weft/cmd/weft",
			"nats-server": "github.com/nats-io/nats-server/v2",
		} {
			args := []string{"build", "-o", filepath.Join(bin, program)}
			if program == "weft" {
				args = append(args, buildFlags...)
			}
			if out, err := exec.Command("go", append(args, pkg)...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", program, err, out)
				return 1
			}
		}
		if _, err := exec.LookPath("redis-server"); err != nil {
			fmt.Fprintln(os.Stderr, "redis-server is not on PATH; install it (on Debian: apt-get install redis-server)")
			return 1
		}
		code := m.Run()
		if code == 0 {
			if err := goleak.Find(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return code
	}())
}

// everywhere runs a test against a fabric of each kind, started for it with the given environment.
func everywhere(t *testing.T, test func(t *testing.T, f *fabric), env ...string) {
	t.Helper()
	for _, kind := range []string{"dev", "up"} {
		t.Run(kind, func(t *testing.T) {
			f := &fabric{t: t, kind: kind, data: t.TempDir(), env: env}
			f.start()
			t.Cleanup(f.stop)
			test(t, f)
		})
	}
}

// fabric is a running `weft dev` or `weft up`.
type fabric struct {
	t        *testing.T
	kind     string
	data     string
	args     []string // more of the command line
	env      []string
	manifest manifest.Manifest
	cmd      *exec.Cmd
	out      *bytes.Buffer
	ended    chan struct{}
	next     int // of the push node that the next device connects to
}

// start starts the program on its data folder and waits until it says that it is ready.
func (f *fabric) start() {
	f.t.Helper()
	args := []string{f.kind, "--data", f.data, "--nats-port", "0", "--push-port", "0", "--collect-port", "0"}
	if f.kind == "dev" {
		args = append(args, "--admin-port", "0")
	}
	args = append(args, f.args...)
	_ = manifest.Remove(f.data) // a killed one leaves it
	f.out = new(bytes.Buffer)
	f.cmd = exec.Command(filepath.Join(bin, "weft"), args...)
	f.cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GORACE=halt_on_error=1"), f.env...)
	f.cmd.Stdout, f.cmd.Stderr = f.out, f.out
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(f.cmd, f.ended)
	f.manifest = f.awaitManifest()
}

func (f *fabric) awaitManifest() manifest.Manifest {
	f.t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	late := time.After(patience)
	for {
		m, err := manifest.Read(f.data)
		if err == nil {
			return m
		}
		if !errors.Is(err, fs.ErrNotExist) {
			f.t.Fatal(err)
		}
		select {
		case <-poll.C:
		case <-f.ended:
			f.t.Fatalf("weft %s ended before it was ready: %s\n%s", f.kind, f.cmd.ProcessState, f.out)
		case <-late:
			f.kill()
			f.t.Fatalf("weft %s is not ready after %s\n%s", f.kind, patience, f.out)
		}
	}
}

// stop stops it as Ctrl-C does; it must end cleanly.
func (f *fabric) stop() {
	f.t.Helper()
	if err := f.cmd.Process.Signal(os.Interrupt); err != nil {
		if !errors.Is(err, os.ErrProcessDone) {
			f.t.Error(err)
		}
		return
	}
	select {
	case <-f.ended:
		if !f.cmd.ProcessState.Success() {
			f.t.Errorf("weft %s stopped with %s\n%s", f.kind, f.cmd.ProcessState, f.out)
		}
	case <-time.After(patience):
		f.kill()
		f.t.Errorf("weft %s did not stop within %s\n%s", f.kind, patience, f.out)
	}
	if f.t.Failed() {
		f.dump()
	}
}

// kill ends every process of the fabric by kill -9.
func (f *fabric) kill() {
	f.t.Helper()
	_ = f.cmd.Process.Kill()
	<-f.ended
	for _, p := range f.manifest.Processes {
		if p.PID != f.cmd.Process.Pid {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
}

// dump shows what the processes logged, after a failure.
func (f *fabric) dump() {
	f.t.Log(f.out.String())
	logs, _ := filepath.Glob(filepath.Join(f.data, "log", "*.log"))
	for _, path := range logs {
		b, _ := os.ReadFile(path)
		f.t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-4000):])
	}
}

// within is a context that ends when the patience does.
func (f *fabric) within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	f.t.Cleanup(cancel)
	return ctx
}

// connect is a business system's connection to NATS.
func (f *fabric) connect() *nats.Conn {
	f.t.Helper()
	nc, err := nats.Connect(f.manifest.NATS)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

// token signs a token with the fabric's key.
func (f *fabric) token(who identity.Identity, ttl time.Duration) string {
	f.t.Helper()
	keys, err := auth.LoadKeys(f.manifest.Keys)
	if err != nil {
		f.t.Fatal(err)
	}
	if who.Tenant == "" {
		who.Tenant = "default"
	}
	token, err := auth.Sign(keys[0], who, ttl)
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

// expired is a token that the fabric's key signed and that ran out an hour ago. Sign makes no such token.
func (f *fabric) expired(user string) string {
	f.t.Helper()
	secret, err := os.ReadFile(filepath.Join(f.manifest.Keys, "dev.hs256"))
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(secret)))
	if err != nil {
		f.t.Fatal(err)
	}
	claims := fmt.Sprintf(`{"sub":%q,"exp":%d}`, user, time.Now().Add(-time.Hour).Unix())
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"dev"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	h := hmac.New(sha256.New, key)
	h.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
