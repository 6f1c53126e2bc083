// Command weft is Weft for people: the whole fabric on a laptop, and the command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/weftpush/weft/services/weft/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(command.Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
