package e2e

import (
	"bufio"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The same on MongoDB's wire protocol: the server that WEFT_TEST_MONGODB_URI names, or FerretDB, a peer for tests only,
// which is slow and must be kept below 2,000 documents.
func TestOnMongoDB(t *testing.T) {
	server := os.Getenv("WEFT_TEST_MONGODB_URI")
	if server == "" {
		server = startFerretDB(t)
	}
	for name, test := range map[string]func(*testing.T, *fabric){
		"one-message": oneMessageReachesEveryDevice,
		"an-id":       anIDIsOneMessage,
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(server)
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "weft-" + name + "-" + filepath.Base(t.TempDir()) + "-" + strings.ToLower(filepath.Base(bin))
			f := &fabric{t: t, kind: "up", data: t.TempDir(), args: []string{"--archive", u.String()}}
			f.start()
			t.Cleanup(f.stop)
			test(t, f)
		})
	}
}

// startFerretDB builds and starts FerretDB on a free port, and returns its URI. It ends when its input is closed.
func startFerretDB(t *testing.T) string {
	t.Helper()
	program := filepath.Join(bin, "ferretdb")
	build := exec.CommandContext(t.Context(), "go", "-C", "../../../.tools", "build", "-buildvcs=false", "-o", program, "./ferretdb")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build FerretDB: %v\n%s", err, out)
	}
	peer := exec.Command(program, "-data", t.TempDir())
	peer.Stderr = os.Stderr
	in, err := peer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = peer.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("FerretDB did not say where it listens")
	}
	return strings.TrimSpace(lines.Text())
}
