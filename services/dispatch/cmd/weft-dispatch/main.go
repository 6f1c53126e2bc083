// Command weft-dispatch routes archived messages to the push nodes that hold their addresses.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/dispatch"
	"github.com/weftpush/weft/shared/service"
)

func main() {
	var cfg dispatch.Config
	os.Exit(service.Main("dispatch", os.Args[1:], &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
		return dispatch.New(cfg, nc, log)
	}))
}
