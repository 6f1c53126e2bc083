// Command weft-collect takes messages in: it archives, numbers and hands on.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect"
	"github.com/weftpush/weft/shared/service"
)

func main() {
	var cfg collect.Config
	os.Exit(service.Main("collect", os.Args[1:], &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
		return collect.New(cfg, nc, log)
	}))
}
