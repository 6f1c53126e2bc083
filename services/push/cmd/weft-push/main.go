// Command weft-push is a push node: it holds the WebSockets of devices.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/push"
	"github.com/weftpush/weft/shared/service"
)

func main() {
	var cfg push.Config
	os.Exit(service.Main("push", os.Args[1:], &cfg, func(_ context.Context, nc *nats.Conn, log *slog.Logger) (service.Service, error) {
		return push.New(cfg, nc, log)
	}))
}
