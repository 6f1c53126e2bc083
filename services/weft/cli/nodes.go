package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// gathering is how long nothing may come until everybody has answered who will.
	gathering = 400 * time.Millisecond
	// slowGathering is the same where no collect has answered: one whose Redis hangs asks it for 1.5 s.
	slowGathering = 2500 * time.Millisecond
)

// running is what runs: push nodes and collects, as they say themselves.
type running struct {
	Nodes    []admin.NodeAnswer  `json:"nodes"`
	Collects []admin.CheckAnswer `json:"collects"`
}

// NewNodes is `weft nodes`: what runs.
func NewNodes() *cobra.Command {
	c := &cobra.Command{
		Use:   "nodes",
		Short: "List the push nodes and the collects that answer, with their load",
		Example: `  weft nodes
  weft nodes --output json | jq '.nodes[] | select(.draining) | .node'`,
		Args: cobra.NoArgs,
	}
	k := newConsole(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := k.open(); err != nil {
			return err
		}
		defer k.close()
		var all running
		var err error
		if all.Nodes, err = gatherNodes(c.Context(), k.nc); err != nil {
			return err
		}
		for _, quiet := range []time.Duration{gathering, slowGathering} {
			if all.Collects, err = rpc.Gather[admin.CheckAnswer](c.Context(), k.nc, subject.Admin(admin.Check), struct{}{}, quiet); err != nil {
				return err
			}
			if len(all.Collects) > 0 {
				break
			}
		}
		slices.SortFunc(all.Collects, func(a, b admin.CheckAnswer) int { return cmp.Compare(a.Instance, b.Instance) })
		if k.json() {
			return jsonLine(k.out, all)
		}
		return k.showRunning(all)
	}
	return Usage(c)
}

// gatherNodes asks every push node for its figures, and sorts them by their ids.
func gatherNodes(ctx context.Context, nc *nats.Conn) ([]admin.NodeAnswer, error) {
	nodes, err := rpc.Gather[admin.NodeAnswer](ctx, nc, subject.Admin(admin.Nodes), struct{}{}, gathering)
	slices.SortFunc(nodes, func(a, b admin.NodeAnswer) int { return cmp.Compare(a.Node, b.Node) })
	return nodes, err
}

func (k *console) showRunning(all running) error {
	if len(all.Nodes) == 0 {
		k.say("No push node answers at %s: nobody can connect.", k.where.name)
	}
	nodes := table{columns: []column{
		{title: "NODE"},
		{title: "HOST", cut: true},
		{title: "PID", right: true},
		{title: "LISTEN"},
		{title: "UP", right: true},
		{title: "SESSIONS", right: true},
		{title: "USERS", right: true},
		{title: "MEMORY", right: true},
		{title: "", last: true, code: stateColour},
	}}
	for _, n := range all.Nodes {
		nodes.row(short(n.Node), n.Host, strconv.Itoa(n.PID), n.Listen, age(n.Started, k.now()), thousands(n.Sessions), thousands(n.Users), mebibytes(n.Memory), draining(n))
	}
	if err := nodes.write(k.out); err != nil {
		return err
	}
	if len(all.Collects) == 0 {
		k.say("No collect answers at %s: nothing is archived.", k.where.name)
		return nil
	}
	if err := line(k.out, ""); err != nil {
		return err
	}
	collects := table{columns: []column{
		{title: "COLLECT"}, {title: "HOST", cut: true}, {title: "PID", right: true}, {title: "PARTITIONS", right: true}, {title: "ARCHIVE", cut: true}, {title: "REDIS", last: true},
	}}
	for _, a := range all.Collects {
		collects.row(short(a.Instance), a.Host, strconv.Itoa(a.PID), fmt.Sprintf("%d of %d", len(a.Owns), a.Partitions), health(a.Archive), health(a.Redis))
	}
	return collects.write(k.out)
}

func draining(n admin.NodeAnswer) string {
	if n.Draining {
		return "draining"
	}
	return ""
}

// health is a part's state in a few words.
func health(h admin.Health) string {
	if h.Problem != "" {
		return h.Kind + ": " + h.Problem
	}
	return strings.TrimSpace(h.Kind + " " + h.Version)
}

// mebibytes writes a size.
func mebibytes(n uint64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
