package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
)

// terminal is somebody at a terminal of the fabric's machine.
type terminal struct {
	t *testing.T
	f *fabric
}

// weft runs a command line and returns what it printed and its exit code.
func (o terminal) weft(args ...string) (stdout, stderr string, code int) {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), filepath.Join(bin, "weft"), append(args, "--nats", o.f.manifest.NATS)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+o.t.TempDir())
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), said.String(), exit.ExitCode()
	}
	if err != nil {
		o.t.Fatalf("weft %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), said.String(), 0
}

// json runs a command line that must end with 0, and decodes what it printed.
func (o terminal) json(into any, args ...string) {
	o.t.Helper()
	out, said, code := o.weft(append(args, "--output", "json")...)
	if code != 0 {
		o.t.Fatalf("weft %s: exit %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		o.t.Fatalf("weft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// undelivered is what `weft undelivered` counts.
func (o terminal) undelivered(args ...string) int {
	o.t.Helper()
	var page admin.UndeliveredPage
	o.json(&page, append([]string{"undelivered"}, args...)...)
	if page.Total == nil {
		o.t.Fatal("weft undelivered tells no total")
	}
	return page.Total.Messages
}

// awaitUndelivered waits until so many are counted: acknowledgements are on their way to the archive for a moment.
func (o terminal) awaitUndelivered(want int, args ...string) {
	o.t.Helper()
	got := -1
	for late := time.Now().Add(patience); time.Now().Before(late); {
		if got = o.undelivered(args...); got == want {
			return
		}
	}
	o.t.Fatalf("%d are undelivered after %s; want %d", got, patience, want)
}

// replay is a `weft replay` that is not asked back, and its counts.
func (o terminal) replay(args ...string) admin.ReplayCount {
	o.t.Helper()
	var done admin.ReplayCount
	o.json(&done, append([]string{"replay", "--yes"}, args...)...)
	return done
}
