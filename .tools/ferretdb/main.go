// Command ferretdb runs an embedded FerretDB v1 for the tests of the MongoDB archive: a second implementation of the
// wire protocol that builds from its module and needs nothing else. It is a test peer and no default for anyone.
//
// It listens on a free port of 127.0.0.1, prints its URI as one line and runs until its standard input is closed or a
// signal ends it, so that it never outlives the test that started it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	data := flag.String("data", "", "folder for the data; it must exist")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *data); err != nil {
		fmt.Fprintln(os.Stderr, "ferretdb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, data string) error {
	folder, err := filepath.Abs(data)
	if err != nil || data == "" {
		return fmt.Errorf("-data must name a folder: %w", err)
	}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Handler:   "sqlite",
		SQLiteURL: "file:" + folder + "/",
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // ends with the process at the latest: its read returns when whoever started us is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() { fmt.Println(server.MongoDBURI()) }() // answers once Run listens
	return server.Run(ctx)
}
