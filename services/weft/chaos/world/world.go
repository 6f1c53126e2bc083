// Package world is the fabric that the judge of faults drives, and everything that goes wrong with it. It starts `weft up`
// with a proxy between any two processes, and kills, stops, cuts, fills and restarts, by a plan that its seed alone
// decides. What it did it records; what came of it is for others to see.
package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/services/weft/chaos/world/proxy"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/services/weft/up"
)

// Options says what world to start.
type Options struct {
	Data      string // its folder; what is in it stays after Close, but for what NATS had if Disk was mounted
	Form      Form
	Seed      uint64
	Log       *record.Log
	Out       io.Writer // gets a line for each fault, one call for each
	Archive   string    // mongodb://host/database of one server; empty for SQLite in the folder
	BuildNATS bool      // build nats-server instead of taking it from PATH
	Env       []string  // NAME=value, for all processes: WEFT_HEARTBEAT=4s
	// Disk is the size in bytes of the disk that each nats-server gets, a tmpfs, so that it can be full. A server uses at
	// most three quarters of it. 0 is 1 GiB, in the long form 6 GiB, which holds a million messages of 4 KiB; memory is
	// taken for what is written and not more. Where mounting is refused there is no fault disk-full.
	Disk int64
}

// World is a running fabric with its faults. Its methods may be called by any goroutine; faults are injected one at a
// time.
type World struct {
	o      Options
	shape  shape
	fabric *up.Fabric
	disk   disk
	lines  *os.File        // what up says
	life   context.Context //nolint:containedctx // ends when Close begins, which ends a Run
	end    context.CancelFunc
	runs   sync.WaitGroup // Runs and Injects under way
	kills  atomic.Int64

	one sync.Mutex // is held while a fault is injected, until it is healed

	saying sync.Mutex // is held while a line is written to o.Out

	dumping sync.Mutex // is held while Redis is told to save, and while its files are changed

	mu      sync.Mutex // protects what follows, and the beginning of runs against the end of life
	holds   map[string]*hold
	proxies map[path]*proxy.Proxy // complete after Start
}

// path is where a proxy stands: between a process and a server that it connects to. Devices connect to push nodes,
// writers to the servers.
type path struct{ process, server string }

const (
	writers = "writers"
	devices = "devices"
)

// Start starts a world and returns when all of it is ready. Close must be called; after an error nothing is left.
func Start(ctx context.Context, o Options) (*World, error) {
	if o.Disk == 0 {
		o.Disk = 1 << 30
		if o.Form == Long {
			o.Disk = 6 << 30
		}
	}
	shape, err := o.Form.shape(o.Archive != "")
	if err != nil {
		return nil, err
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return nil, err
	}
	w := &World{o: o, shape: shape, holds: map[string]*hold{}, proxies: map[path]*proxy.Proxy{}}
	w.life, w.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := w.start(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) start(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(w.o.Data, "log"), 0o700); err != nil {
		return fmt.Errorf("make the folder of the world: %w", err)
	}
	var err error
	if w.lines, err = os.Create(filepath.Join(w.o.Data, "log", "up.log")); err != nil {
		return fmt.Errorf("keep what up says: %w", err)
	}
	w.disk = mountDisks(w.o.Data, w.shape.servers, w.o.Disk)
	w.fabric, err = up.Start(ctx, up.Options{
		Data: w.o.Data, Archive: w.o.Archive, BuildNATS: w.o.BuildNATS, Env: w.o.Env, Out: w.lines,
		Servers: len(w.shape.servers), Collects: w.shape.collects, Pushes: w.shape.pushes, Dispatches: w.shape.dispatches,
		Log: slog.New(slog.DiscardHandler), Started: time.Now(),
		Between: w.between, Restart: w.restart,
	})
	if err != nil {
		return err
	}
	return w.doors()
}

// doors puts proxies before what devices and writers connect to.
func (w *World) doors() error {
	m := w.fabric.Manifest()
	for i, push := range m.Push {
		if _, err := w.between(devices, fmt.Sprintf("push-%d", i+1), host(push)); err != nil {
			return err
		}
	}
	for i, nats := range strings.Split(m.NATS, ",") {
		if _, err := w.between(writers, w.shape.servers[i], host(nats)); err != nil {
			return err
		}
	}
	return nil
}

// between puts a proxy between a process and a server, and returns its address.
func (w *World) between(process, server, address string) (string, error) {
	p, err := proxy.Listen(address)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proxies[path{process, server}] = p
	return p.Addr(), nil
}

// enter begins something that Close waits for. It ends with the returned context's end: that of ctx, or of the world.
func (w *World) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.life.Err(); err != nil {
		return nil, nil, fmt.Errorf("the world was closed: %w", err)
	}
	w.runs.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	detach := context.AfterFunc(w.life, cancel)
	return ctx, func() {
		detach()
		cancel()
		w.runs.Done()
	}, nil
}

// Close heals what is injected at the moment, ends all processes, and leaves no mount behind. The record must stay open
// until it returns.
func (w *World) Close() error {
	w.mu.Lock()
	w.end()
	w.mu.Unlock()
	w.runs.Wait()
	var err error
	if w.fabric != nil {
		err = w.fabric.Stop()
	}
	for _, p := range w.proxies {
		p.Close()
	}
	err = errors.Join(err, w.disk.unmount())
	if w.lines != nil {
		err = errors.Join(err, w.lines.Close())
	}
	return err
}

// Manifest is what runs at the moment. The addresses in it are the processes' own: Push and NATS go through proxies.
func (w *World) Manifest() manifest.Manifest { return w.fabric.Manifest() }

// NATS is where writers connect to: URLs of all servers, separated by commas.
func (w *World) NATS() string {
	var urls []string
	for _, s := range w.shape.servers {
		urls = append(urls, "nats://"+w.proxy(writers, s).Addr())
	}
	return strings.Join(urls, ",")
}

// Push is where devices connect to: one http:// URL for each push node, push-1 first.
func (w *World) Push() []string {
	var urls []string
	for i := range w.shape.pushes {
		urls = append(urls, "http://"+w.proxy(devices, fmt.Sprintf("push-%d", i+1)).Addr())
	}
	return urls
}

// Collect is the HTTP door: one URL for each collect, collect-1 first. There is no proxy before it.
func (w *World) Collect() []string { return w.fabric.Manifest().Collect }

// Keys is the folder with the keys of tokens.
func (w *World) Keys() string { return w.fabric.Manifest().Keys }

// Kills is how often a process was killed by kill -9 so far.
func (w *World) Kills() int { return int(w.kills.Load()) }

// Await waits until every process runs and is ready.
func (w *World) Await(ctx context.Context) error { return w.fabric.Await(ctx) }

func (w *World) proxy(process, server string) *proxy.Proxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proxies[path{process, server}]
}

// along are the proxies of a process before the servers whose names begin so.
func (w *World) along(process, server string) []*proxy.Proxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []*proxy.Proxy
	for at, p := range w.proxies {
		if at.process == process && strings.HasPrefix(at.server, server) {
			found = append(found, p)
		}
	}
	return found
}

// address is where a process listens itself.
func (w *World) address(process string) string {
	list := w.fabric.Manifest().Processes
	i := slices.IndexFunc(list, func(p manifest.Process) bool { return p.Name == process })
	return fmt.Sprintf("127.0.0.1:%d", list[i].Ports[0])
}

func (w *World) say(format string, args ...any) {
	w.saying.Lock()
	defer w.saying.Unlock()
	_, _ = fmt.Fprintf(w.o.Out, format+"\n", args...)
}

func host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw // it is ours and can be read
	}
	return u.Host
}
