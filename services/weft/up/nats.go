package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/weftpush/weft/shared/subject"
)

// natsModule is the server that --build-nats builds: the version that everything was measured with.
const natsModule = "github.com/nats-io/nats-server/v2@v2.15.2"

// natsServer finds the server's program, or builds it into the data folder, where the next start finds it.
func (o *Options) natsServer(ctx context.Context) (string, error) {
	if !o.BuildNATS {
		path, err := exec.LookPath("nats-server")
		if err != nil {
			return "", errors.New("nats-server is not on PATH; install it, or let --build-nats build it")
		}
		return path, nil
	}
	bin := filepath.Join(o.Data, "bin")
	path := filepath.Join(bin, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	_, _ = fmt.Fprintf(o.Out, "  building %s …\n", natsModule)
	build := exec.CommandContext(ctx, "go", "install", natsModule)
	build.Env = append(os.Environ(), "GOBIN="+bin, "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return path, nil
}

// natsConfig is the configuration of one server; nats/server.conf explains the same settings.
const natsConfig = `server_name: weft
listen: %q
http: %q
jetstream: { store_dir: %q }
mappings: { %q: %q }
`

func writeNATSConfig(data, listen, admin string) (string, error) {
	path := filepath.Join(data, "nats.conf")
	config := fmt.Sprintf(natsConfig, listen, admin, filepath.Join(data, "nats"), subject.InMapping, subject.PartitionMapping(partitions))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration of nats-server: %w", err)
	}
	return path, nil
}
