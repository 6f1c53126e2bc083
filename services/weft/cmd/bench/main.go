// Command bench measures Weft from outside: it starts `weft up` on this machine (or uses one that runs), connects
// users to its push nodes, publishes to them through the stream door, and counts what arrives. It prints messages per
// second, the time from publish to receive, and the CPU time of each process; it fails if anything was lost, doubled
// or out of order.
//
//	go run ./services/weft/cmd/bench                       100,000 messages of 256 bytes to 1,000 users
//	go run ./services/weft/cmd/bench --rate 2000           the same at 2,000 messages a second, for latency
//	go run ./services/weft/cmd/bench --messages 1000000 --undelivered 10000
//	                                                       what operators wait for: undelivered, replay and its memory
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/weftpush/weft/services/weft/command"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/services/weft/up"
)

// options is what is measured.
type options struct {
	data     string
	users    int
	messages int
	size     int
	rate     int
	window   int
	json     bool

	undelivered int    // of the messages, that nobody acknowledges
	prefix      string // of the users' ids
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "run" { // `weft up` starts its services with this same program
		os.Exit(command.Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	o := options{prefix: "bench"}
	flag.StringVar(&o.data, "data", "", "data `folder` of a fabric that runs; without it one is started, and stopped at the end")
	flag.IntVar(&o.users, "users", 1000, "users, each with one device")
	flag.IntVar(&o.messages, "messages", 100_000, "messages, spread over the users")
	flag.IntVar(&o.size, "size", 256, "bytes of a payload")
	flag.IntVar(&o.rate, "rate", 0, "messages a second; 0 for as many as it takes")
	flag.IntVar(&o.window, "window", 2000, "publishes that may await their PubAck")
	flag.IntVar(&o.undelivered, "undelivered", 0, "so many of the messages are never acknowledged; then undelivered and replay are measured")
	flag.BoolVar(&o.json, "json", false, "print the result as JSON")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures on the fabric that is named, or on one that it starts.
func run(ctx context.Context, o options) error {
	if o.data != "" {
		m, err := manifest.Read(o.data)
		if err != nil {
			return err
		}
		return o.measure(ctx, m)
	}
	data, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(data) }()
	_, missing := exec.LookPath("nats-server")
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	ready := make(chan manifest.Manifest, 1)
	go func() {
		ended <- up.Run(serving, up.Options{
			Data: data, Nodes: 2, BuildNATS: missing != nil, Out: io.Discard, Log: slog.New(slog.DiscardHandler),
			Started: time.Now(), Ready: func(m manifest.Manifest) { ready <- m },
		})
	}()
	defer stop()
	select {
	case err := <-ended:
		return err
	case m := <-ready:
		err := o.measure(ctx, m)
		stop()
		return errors.Join(err, <-ended)
	}
}

// measure runs what the options ask for.
func (o options) measure(ctx context.Context, m manifest.Manifest) error {
	if o.undelivered > 0 {
		return operators(ctx, o, m)
	}
	return measure(ctx, o, m)
}
