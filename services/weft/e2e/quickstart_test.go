package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// The section "Quick starts" of README.md, as it stands there: every way to receive is started on a fabric of its own,
// every way to publish is used, and what was received must be what a WebSocket that is none of ours' clients received.
//
// Three things are changed in a block before it runs: the ports of `weft dev`, which are free ones here; and a token
// where the text shows how one begins. A block of Go gets a package clause and the imports of what it names, as an
// editor would add them. `weft` is the program that the tests have built; it finds the fabric as it does for anybody, in
// the folder .weft.

// quickstart is one block.
type quickstart struct {
	name, language, text string
}

// most is how many lines a block may have.
const most = 10

// runners run a block of a language; what they start ends with the test.
var runners = map[string]func(*desk, quickstart) *exec.Cmd{
	"sh": (*desk).shell, "go": (*desk).golang, "js": (*desk).page, "jsx": (*desk).page,
}

// orders find the numbers of orders in what a receiver has printed.
var orders = map[string]func(string) []int{
	"receive-weft": inJSON, "receive-go": inJSON, "receive-sse": inJSON,
	"receive-browser": inWords, "receive-react": onPage,
}

var (
	jsonOrder = regexp.MustCompile(`"order": ?(\d+)`)
	wordOrder = regexp.MustCompile(`Order (\d+)`)
)

func inJSON(text string) []int  { return numbers(jsonOrder, text) }
func inWords(text string) []int { return numbers(wordOrder, text) }

// onPage looks at the page as it was last.
func onPage(text string) []int { return inWords(text[strings.LastIndex(text, "page:")+1:]) }

func numbers(pattern *regexp.Regexp, text string) []int {
	var list []int
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(match[1])
		list = append(list, n)
	}
	return list
}

func TestQuickStarts(t *testing.T) {
	publishers, receivers, acknowledge := sorted(t, quickstarts(t))
	for _, receiver := range receivers {
		t.Run(receiver.name, func(t *testing.T) {
			d := sitDown(t)
			observer := d.f.device("alice", "observer", protocol.FromClient{})
			heard := d.start(receiver)
			var published []int
			for _, publisher := range publishers {
				d.finish(publisher)
				for range strings.Count(publisher.text, `"order":`) {
					published = append(published, inJSON(observer.message(uint64(len(published)+1)).data())...)
				}
			}
			observer.silent()
			text := heard.until(t, func(text string) bool { return len(orders[receiver.name](text)) >= len(published) })
			if got := orders[receiver.name](text); !slices.Equal(got, published) {
				t.Errorf("%v were published, and %s received %v:\n%s", published, receiver.name, got, text)
			}
			if receiver.name == "receive-sse" {
				d.acknowledge(acknowledge)
			}
		})
	}
}

// quickstarts are the blocks of the section. Each fence has a comment before it that names the block.
func quickstarts(t *testing.T) []quickstart {
	t.Helper()
	page, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## Quick starts\n")
	if !ok {
		t.Fatal("README.md has no section Quick starts")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	fences := regexp.MustCompile("(?m)^```\\w").FindAllString(section, -1)
	named := regexp.MustCompile("(?ms)^<!-- quickstart: ([\\w-]+) -->\n```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if len(fences) != len(named) {
		t.Errorf("the section has %d blocks, of which %d have a comment `<!-- quickstart: name -->` right before", len(fences), len(named))
	}
	var blocks []quickstart
	for _, match := range named {
		blocks = append(blocks, quickstart{match[1], match[2], match[3]})
	}
	return blocks
}

// sorted divides the blocks into ways to publish and ways to receive, and reports those that the test can't run.
func sorted(t *testing.T, blocks []quickstart) (publishers, receivers []quickstart, acknowledge quickstart) {
	t.Helper()
	seen := map[string]bool{}
	for _, b := range blocks {
		if lines := strings.Count(b.text, "\n"); lines > most {
			t.Errorf("%s has %d lines; the most is %d", b.name, lines, most)
		}
		if seen[b.name] || runners[b.language] == nil && b.name != wire {
			t.Errorf("no test runs %s, in %s", b.name, b.language)
			continue
		}
		seen[b.name] = true
		switch {
		case strings.HasPrefix(b.name, "publish-") && strings.Contains(b.text, `"order":`):
			publishers = append(publishers, b)
		case orders[b.name] != nil:
			receivers = append(receivers, b)
		case b.name == "acknowledge":
			acknowledge = b
		case b.name == wire:
		default:
			t.Errorf("no test runs %s", b.name)
		}
	}
	for name := range orders {
		if !seen[name] {
			t.Errorf("README.md has no block %s", name)
		}
	}
	if len(publishers) == 0 || len(receivers) == 0 || acknowledge.text == "" {
		t.Fatalf("%d ways to publish, %d to receive, to acknowledge %q", len(publishers), len(receivers), acknowledge.text)
	}
	return publishers, receivers, acknowledge
}

// wire is the block that shows the protocol itself: what a client says behind →, what it hears behind ←.
const wire = "wire"

// TestQuickStartWire says and hears it, word by word; … stands for what differs.
func TestQuickStartWire(t *testing.T) {
	blocks := quickstarts(t)
	at := slices.IndexFunc(blocks, func(b quickstart) bool { return b.name == wire })
	if at < 0 {
		t.Fatal("README.md does not show the wire")
	}
	desk := sitDown(t)
	publish(t, desk.f.connect(), "weft.in.default.user.alice", `{"order":1}`, nats.Header{message.HeaderID: {"order-1"}, message.HeaderType: {"order.paid"}})
	client := desk.f.dial(desk.token)
	for line := range strings.Lines(blocks[at].text) {
		line = strings.TrimSpace(line)
		if said, ok := strings.CutPrefix(line, "→ "); ok {
			client.say(json.RawMessage(said))
			continue
		}
		wanted, ok := strings.CutPrefix(line, "← ")
		if !ok {
			t.Fatalf("%s: who says that?", line)
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(wanted), "…", ".*")
		if o := client.next(); !regexp.MustCompile("^" + pattern + "$").Match(o.raw) {
			t.Errorf("%s came instead of %s", o.raw, wanted)
		}
	}
	client.silent()
}

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
	if err := json.Unmarshal(batch.Data, &cursors); err != nil || len(cursors) != 1 || cursors[0].Seq != 1 || cursors[0].Device != "terminal" {
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

// until waits until the text is as wanted and returns it; what it has when the patience is over otherwise.
func (p *printed) until(t *testing.T, wanted func(string) bool) string {
	t.Helper()
	late := time.After(patience)
	for !wanted(p.all()) {
		select {
		case <-p.more:
		case <-p.ended:
			t.Errorf("it has ended")
			return p.all()
		case <-late:
			t.Errorf("nothing more came for %s", patience)
			return p.all()
		}
	}
	return p.all()
}
