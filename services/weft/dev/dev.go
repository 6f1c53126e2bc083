// Package dev runs all of Weft in one process, for a laptop: the services exactly as they run on many machines, with a
// NATS server, a Redis and a SQLite archive embedded. Everything listens on 127.0.0.1 and keeps its data in one folder.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/collect"
	"github.com/weftpush/weft/services/dispatch"
	"github.com/weftpush/weft/services/push"
	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/service"
)

// Partitions is P on a laptop.
const Partitions = 4

// Options says how to run. A port of 0 is any free one.
type Options struct {
	Data        string // folder of everything that is kept; made if it is not there
	NATSPort    int
	PushPort    int
	CollectPort int
	AdminPort   int
	Log         *slog.Logger
	Out         io.Writer // gets the lines that a person reads
	Started     time.Time // when the command began, for the line that says how long it took
	// Then runs beside the services once they are ready, if it is set; its error ends everything.
	Then func(ctx context.Context, m manifest.Manifest) error
}

// Run runs everything until ctx ends or something can't go on.
func Run(ctx context.Context, o Options) (err error) {
	o.Data, err = filepath.Abs(o.Data)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := local.Lock(o.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	server, err := embed.NATS(embed.NATSOptions{Dir: filepath.Join(o.Data, "nats"), Port: o.NATSPort, Partitions: Partitions, Log: o.Log})
	if err != nil {
		return fmt.Errorf("%w; is another `weft dev` or a nats-server running? Choose another port with --nats-port", err)
	}
	defer server.Stop()
	if err := local.ForgetOwners(ctx, server.URL()); err != nil {
		return err
	}
	redis, err := embed.Redis(embed.RedisOptions{})
	if err != nil {
		return err
	}
	defer redis.Stop()
	return o.serve(ctx, server.URL(), "redis://"+redis.Addr()+"/0")
}

// serve runs the services on the servers that were started.
func (o *Options) serve(ctx context.Context, natsURL, redisURL string) error {
	ports, err := local.Ports(o.PushPort, o.CollectPort, o.AdminPort)
	if err != nil {
		return err
	}
	pushAddress, collectAddress, admin := ports[0], ports[1], ports[2]
	keys := filepath.Join(o.Data, "keys")
	key, err := auth.LoadOrCreateKey(keys)
	if err != nil {
		return err
	}
	base := service.Base{NATS: natsURL}
	var conns []*nats.Conn
	defer func() {
		for _, nc := range conns {
			nc.Close()
		}
	}()
	connect := func(name string) (*nats.Conn, *slog.Logger, error) {
		log := o.Log.With("service", name)
		nc, err := base.Connect(name, log)
		if err == nil {
			conns = append(conns, nc)
		}
		return nc, log, err
	}
	services, err := o.services(connect, keys, redisURL, pushAddress, collectAddress)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		group.Go(func() error { return s.Run(ctx) })
	}
	group.Go(func() error { return service.ServeAdmin(ctx, admin, services...) })
	group.Go(func() error {
		for _, s := range services {
			select {
			case <-s.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		m := manifest.Manifest{
			Name: "dev", Data: o.Data, NATS: natsURL, Keys: keys,
			Push: []string{"http://" + pushAddress}, Collect: []string{"http://" + collectAddress},
			Processes: []manifest.Process{local.Self("dev", "all", o.Data, natsURL, redisURL, pushAddress, collectAddress, admin)},
		}
		if err := manifest.Write(o.Data, m); err != nil {
			return err
		}
		if err := local.Welcome(o.Out, m, key, o.Started); err != nil || o.Then == nil {
			return err
		}
		return o.Then(ctx, m)
	})
	err = group.Wait()
	_, _ = fmt.Fprintln(o.Out, "  stopped; the data is in", o.Data)
	return errors.Join(err, manifest.Remove(o.Data))
}

// services makes the four services with the laptop's configuration; the environment (WEFT_HEARTBEAT and so on) can
// change what is not about addresses, as it does for the services on their own.
func (o *Options) services(connect func(string) (*nats.Conn, *slog.Logger, error), keys, redisURL, pushAddress, collectAddress string) ([]service.Service, error) {
	var list []service.Service
	add := func(name string, start func(*nats.Conn, *slog.Logger) (service.Service, error)) error {
		nc, log, err := connect(name)
		if err != nil {
			return err
		}
		s, err := start(nc, log)
		list = append(list, s)
		return err
	}
	var collecting collect.Config
	var dispatching dispatch.Config
	var pushing push.Config
	for _, part := range []service.Registrar{&collecting, &dispatching, &pushing} {
		if err := service.Parse("weft dev", nil, part); err != nil {
			return nil, err
		}
	}
	collecting.Listen, collecting.Redis, collecting.Partitions = collectAddress, redisURL, Partitions
	collecting.Archive = "sqlite:" + filepath.Join(o.Data, "archive.db")
	dispatching.Redis = redisURL
	pushing.Listen, pushing.Redis, pushing.Demo = pushAddress, redisURL, true
	return list, errors.Join(
		add("auth", func(nc *nats.Conn, _ *slog.Logger) (service.Service, error) {
			// Its warning about -auth-issue is for those who did not mean it.
			errorsOnly := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
			return auth.New(auth.Config{Keys: keys, Issue: true}, nc, errorsOnly)
		}),
		add("collect", func(nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return collect.New(collecting, nc, log)
		}),
		add("dispatch", func(nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return dispatch.New(dispatching, nc, log)
		}),
		add("push", func(nc *nats.Conn, log *slog.Logger) (service.Service, error) {
			return push.New(pushing, nc, log)
		}),
	)
}
