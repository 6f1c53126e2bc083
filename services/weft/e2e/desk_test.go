package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/subject"
)

// runners run a block of a language; what they start ends with the test.
var runners = map[string]func(*desk, quickstart) *exec.Cmd{
	"sh": (*desk).shell, "go": (*desk).golang, "js": (*desk).page, "jsx": (*desk).page,
}

// slow bounds the wait for a program that `go run` may have to build, or for a browser.
const slow = 3 * patience

// desk is a folder with a running fabric in .weft, and what was started there.
type desk struct {
	t     *testing.T
	f     *fabric
	dir   string
	token string
}

func sitDown(t *testing.T) *desk {
	t.Helper()
	dir := t.TempDir()
	d := &desk{t: t, dir: dir, f: &fabric{t: t, kind: "dev", data: filepath.Join(dir, ".weft")}}
	d.f.env = []string{"WEFT_ORIGINS=*"} // a page of another server, as a developer's is
	d.f.start()
	t.Cleanup(d.f.stop)
	out, err := d.command(filepath.Join(bin, "weft"), "token", "alice").Output()
	if err != nil {
		t.Fatal(err)
	}
	d.token = strings.TrimSpace(string(out))
	return d
}

// command is a program at the desk, in a process group of its own so that what it starts ends with it.
func (d *desk) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), name, args...)
	cmd.Dir = d.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) } // the page's program closes its browser
	cmd.WaitDelay = patience
	cmd.Env = append(os.Environ(), "TOKEN="+d.token, "XDG_CONFIG_HOME="+d.dir)
	return cmd
}

// shell runs a block in a shell that ends at the first command that fails.
func (d *desk) shell(b quickstart) *exec.Cmd {
	cmd := d.command("bash", "-euo", "pipefail", "-c", d.local(b.text))
	path := []string{bin}
	for program, modfile := range map[string]string{"nats": "cli.mod", "grpcurl": "go.mod"} {
		if strings.Contains(b.text, program+" ") {
			path = append(path, filepath.Dir(tool(d.t, program, modfile)))
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+strings.Join(append(path, os.Getenv("PATH")), ":"))
	return cmd
}

// tool builds a program that .tools pins, or finds it in Go's cache of builds. A file of its own keeps the versions that
// the nats command line wants away from the linter's.
func tool(t *testing.T, name, modfile string) string {
	t.Helper()
	cmd := exec.Command("go", "tool", "-modfile="+modfile, "-n", name)
	cmd.Dir = "../../../.tools"
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	path, err := cmd.Output()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, complaint.Bytes())
	}
	return strings.TrimSpace(string(path))
}

// local puts this fabric's ports in the place of those that `weft dev` has.
func (d *desk) local(text string) string {
	text = strings.ReplaceAll(text, "127.0.0.1:4222", strings.TrimPrefix(d.f.manifest.NATS, "nats://"))
	text = strings.ReplaceAll(text, "127.0.0.1:8080", strings.TrimPrefix(d.f.manifest.Push[0], "http://"))
	text = strings.ReplaceAll(text, "127.0.0.1:8081", strings.TrimPrefix(d.f.manifest.Collect[0], "http://"))
	return strings.ReplaceAll(text, "eyJ…", d.token)
}

// imports are the paths of the packages that blocks of Go may name.
var imports = map[string]string{
	"context": "context", "fmt": "fmt", "log": "log", "os": "os", "nats": "github.com/nats-io/nats.go",
	"client": "github.com/weftpush/weft/shared/client", "subject": "github.com/weftpush/weft/shared/subject",
}

// golang makes a block the main.go of a module that has nothing but what Weft's own module has.
func (d *desk) golang(b quickstart) *exec.Cmd {
	d.t.Helper()
	var source strings.Builder
	source.WriteString("package main\n\nimport (\n")
	for name, path := range imports {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(b.text) {
			source.WriteString("\t" + strconv.Quote(path) + "\n")
		}
	}
	source.WriteString(")\n\n" + d.local(b.text))
	shared, err := filepath.Abs("../../../shared")
	if err != nil {
		d.t.Fatal(err)
	}
	module, err := os.ReadFile("../go.mod")
	if err != nil {
		d.t.Fatal(err)
	}
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		d.t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(replace )?\S*weftpush/weft/\S+ => .*$|^\t\S*weftpush/weft/(services/\S+|shared/embed) .*$`).ReplaceAllString(string(module), "")
	text = regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(text, "module quickstart")
	dir := filepath.Join(d.dir, b.name)
	d.write(filepath.Join(dir, "go.mod"), text+"\nreplace github.com/weftpush/weft/shared => "+shared+"\n")
	d.write(filepath.Join(dir, "go.sum"), string(sums))
	d.write(filepath.Join(dir, "main.go"), source.String())
	cmd := d.command("go", "run", ".")
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "GOWORK=off", "GOFLAGS=-mod=mod -buildvcs=false")
	return cmd
}

// page bundles a block as somebody's page and opens it in Chromium.
func (d *desk) page(b quickstart) *exec.Cmd {
	d.t.Helper()
	for _, folder := range []string{"browser", "../../../shared/client/ts"} {
		if _, err := os.Stat(folder + "/node_modules"); err != nil {
			d.t.Fatalf("npm packages are missing; run `npm ci` in services/weft/e2e/%s, or bash .ci/test", folder)
		}
	}
	file := filepath.Join(d.dir, "page", "main."+b.language)
	d.write(file, d.local(b.text))
	cmd := d.command("node", "quickstart.mjs", file)
	cmd.Dir = "browser"
	return cmd
}

func (d *desk) write(path, text string) {
	d.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		d.t.Fatal(err)
	}
}

// finish runs a block that ends.
func (d *desk) finish(b quickstart) {
	d.t.Helper()
	cmd := runners[b.language](d, b)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", b.name, err, out)
	}
}

// acknowledge runs the block that acknowledges the first message, and waits until the node has handed that over.
func (d *desk) acknowledge(b quickstart) {
	d.t.Helper()
	nc := d.f.connect()
	sub, err := nc.SubscribeSync(subject.AckAll)
	if err = errors.Join(err, nc.Flush()); err != nil {
		d.t.Fatal(err)
	}
	d.finish(b)
	batch, err := sub.NextMsg(patience)
	if err != nil {
		d.t.Fatalf("nothing was acknowledged: %v", err)
	}
	var cursors []history.Cursor
	if err := json.Unmarshal(batch.Data, &cursors); err != nil || len(cursors) != 1 || cursors[0].Seq != 1 || cursors[0].Device != "curl" {
		d.t.Errorf("acknowledged is %s, %v", batch.Data, err)
	}
}

// start runs a block that goes on until the test ends.
func (d *desk) start(b quickstart) *printed {
	d.t.Helper()
	out := &printed{more: make(chan struct{}, 1), ended: make(chan struct{})}
	cmd := runners[b.language](d, b)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		defer close(out.ended)
		_ = cmd.Wait()
	}()
	d.t.Cleanup(func() {
		_ = cmd.Cancel()
		<-out.ended
	})
	return out
}

// printed is what a program has printed so far.
type printed struct {
	mu    sync.Mutex // protects text
	text  bytes.Buffer
	more  chan struct{} // has something when the text has grown
	ended chan struct{} // closed when the program has
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	return p.text.Write(b)
}

func (p *printed) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// until waits until the text is as wanted and returns it; what there is when the patience is over otherwise.
func (p *printed) until(t *testing.T, wanted func(string) bool) string {
	t.Helper()
	late := time.After(slow)
	for !wanted(p.all()) {
		select {
		case <-p.more:
		case <-p.ended:
			t.Errorf("it has ended")
			return p.all()
		case <-late:
			t.Errorf("it did not come within %s", slow)
			return p.all()
		}
	}
	return p.all()
}
