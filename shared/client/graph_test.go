package client

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Who imports the client must not get the fabric with it.
func TestWhatTheClientBringsAlong(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const ours = "github.com/weftpush/weft/"
	mayHave := []string{"client", "event", "message", "problem", "protocol", "rpc", "subject"} // below shared
	var modules []string
	for line := range strings.Lines(string(out)) {
		path, module, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name, isOurs := strings.CutPrefix(path, ours); isOurs && !slices.Contains(mayHave, strings.TrimPrefix(name, "shared/")) {
			t.Errorf("it imports %s", path)
		}
		for _, word := range []string{"nats-server", "go-redis", "miniredis", "mongo", "sqlite", "connectrpc", "protobuf", "grpc", "cobra", "peterbourgon"} {
			if strings.Contains(path, word) {
				t.Errorf("it imports %s", path)
			}
		}
		if module != "" && !strings.HasPrefix(module, ours) && !slices.Contains(modules, module) {
			modules = append(modules, module)
		}
	}
	slices.Sort(modules)
	t.Logf("`go get` of the client builds %d other modules: %s", len(modules), strings.Join(modules, " "))
	if len(modules) > 8 || !slices.Contains(modules, "github.com/nats-io/nats.go") {
		t.Errorf("it brings %d modules", len(modules))
	}
}
