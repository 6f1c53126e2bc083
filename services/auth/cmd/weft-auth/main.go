// Command weft-auth verifies tokens for the other services of a Weft fabric.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/shared/service"
)

func main() {
	var cfg auth.Config
	start := func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
		return auth.New(cfg, nc, log)
	}
	os.Exit(service.Main("auth", os.Args[1:], &cfg, start))
}
