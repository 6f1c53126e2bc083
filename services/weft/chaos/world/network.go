package world

import (
	"context"
	"fmt"
	"strings"

	"github.com/weftpush/weft/services/weft/chaos/world/proxy"
)

func cutLink(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	return shatter(w.link(s.Target), (*proxy.Proxy).Cut)
}

func holeLink(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	return shatter(w.link(s.Target), (*proxy.Proxy).Hole)
}

func cutDevices(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	return shatter(w.along(devices, s.Target), (*proxy.Proxy).Cut)
}

func holeDevices(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	return shatter(w.along(devices, s.Target), (*proxy.Proxy).Hole)
}

// link are the proxies of a link: from a process to all servers of a kind, or between two servers, whichever of them
// connects.
func (w *World) link(target string) []*proxy.Proxy {
	process, server, _ := strings.Cut(target, "/")
	return append(w.along(process, server), w.along(server, process)...)
}

// shatter breaks all connections through the proxies, and heals them later.
func shatter(proxies []*proxy.Proxy, how func(*proxy.Proxy) int) (undo, error) {
	n := 0
	for _, p := range proxies {
		n += how(p)
	}
	return func(context.Context) (string, error) {
		for _, p := range proxies {
			p.Heal()
		}
		return fmt.Sprintf("%d connections", n), nil
	}, nil
}
