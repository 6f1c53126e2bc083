package mongodb_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/dns"
	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/archivetest"
	"github.com/weftpush/weft/services/collect/archive/mongodb"
)

// tools is the module that builds the test peer.
const tools = "../../../../.tools"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestArchiveOnFerretDB(t *testing.T) {
	asked := newLibrarian()
	_, uri := tap(t, startFerretDB(t), asked.listen)
	archivetest.Run(t, func(t *testing.T) archivetest.Store {
		t.Helper()
		store := newStore(t, uri)
		store.LosesUpdates, store.Warns = true, true
		return store
	})
	asked.expect(t)
}

// TestArchiveOnMongoDB runs when a server is named; what it leaves out otherwise is in its output.
func TestArchiveOnMongoDB(t *testing.T) {
	uri := os.Getenv("WEFT_TEST_MONGODB_URI")
	if uri == "" {
		t.Log("WEFT_TEST_MONGODB_URI names no server: the suite has run on FerretDB only")
		return
	}
	archivetest.Run(t, func(t *testing.T) archivetest.Store {
		t.Helper()
		return newStore(t, uri)
	})
}

// newStore is a database of its own, dropped at the end of the test.
func newStore(t *testing.T, uri string) archivetest.Store {
	t.Helper()
	database := "weft_test_" + strings.ToLower(rand.Text())
	t.Cleanup(func() { drop(t, uri, database) })
	return archivetest.Store{Open: func(ctx context.Context, partitions int) (archive.Archive, error) {
		a, err := mongodb.Open(ctx, uri, database, archive.Facts{Partitions: partitions})
		if err != nil {
			return nil, err // not a, which would be an Archive that is not nil
		}
		return a, nil
	}}
}

func drop(t *testing.T, uri, database string) {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Database(database).Drop(context.Background()); err != nil {
		t.Errorf("drop %s: %v", database, err)
	}
	if err := client.Disconnect(context.Background()); err != nil {
		t.Error(err)
	}
}

// startFerretDB builds and starts the test peer and returns its URI. It ends when its standard input is closed, which
// happens at the latest when this process is gone.
func startFerretDB(tb testing.TB) string {
	tb.Helper()
	binary := filepath.Join(tb.TempDir(), "ferretdb")
	build := exec.CommandContext(tb.Context(), "go", "-C", tools, "build", "-buildvcs=false", "-o", binary, "./ferretdb")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build the test peer: %v\n%s", err, out)
	}
	server := exec.CommandContext(context.Background(), binary, "-data", tb.TempDir())
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := server.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(tb, server, stdin) })
	uri, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		tb.Fatalf("the test peer says no URI: %v", err)
	}
	return strings.TrimSpace(uri)
}

func stop(tb testing.TB, server *exec.Cmd, stdin io.Closer) {
	tb.Helper()
	if err := stdin.Close(); err != nil {
		tb.Error(err)
	}
	if err := server.Wait(); err != nil {
		tb.Error(fmt.Errorf("the test peer ended: %w", err))
	}
}

// A name that can't be looked up now may be looked up in a moment: only an address that is none is final.
func TestANameThatIsNotKnownYet(t *testing.T) {
	resolver := *dns.DefaultResolver
	t.Cleanup(func() { *dns.DefaultResolver = resolver })
	dns.DefaultResolver.LookupTXT = func(string) ([]string, error) { return nil, nil }
	dns.DefaultResolver.LookupSRV = func(string, string, string) (string, []*net.SRV, error) {
		return "", nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	}
	for uri, final := range map[string]bool{"mongodb+srv://archive.example.org/weft": false, "mongodb+srv://archive.example.org:1/": true, "mongodb://": true} {
		_, err := mongodb.Open(t.Context(), uri, "", archive.Facts{Partitions: 1})
		if err == nil || errors.Is(err, archive.ErrAddress) != final {
			t.Errorf("%s: %v; want final: %v", uri, err, final)
		}
	}
}
