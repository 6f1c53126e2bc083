package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// NewKick is `weft kick`: close the sessions of a user.
func NewKick() *cobra.Command {
	var request admin.KickRequest
	c := &cobra.Command{
		Use:   "kick USER",
		Short: "Close the sessions of a user, or of one device",
		Long: `Close the sessions of a user, or of one device. Clients connect again by themselves, perhaps to another node, and go on
where they were. With --final they are told not to (close code 4403); with a token that is still good a client that asks for a
new session gets one all the same.`,
		Example: `  weft kick alice
  weft kick alice --device phone --final --note 'it was stolen'`,
		Args: one("USER", "the id of a user"), ValidArgsFunction: cobra.NoFileCompletions,
	}
	k := newConsole(c)
	k.changes()
	f := c.Flags()
	f.StringVar(&request.Tenant, "tenant", subject.DefaultTenant, "`tenant` of the user")
	f.StringVar(&request.Device, "device", "", "only this `device`")
	f.BoolVar(&request.Final, "final", false, "tell the clients not to come back by themselves")
	c.RunE = func(_ *cobra.Command, args []string) error {
		request.User = args[0]
		var answer admin.KickAnswer
		return k.order(admin.Kick, func(by admin.By) any { request.By = by; return request }, &answer, func() error { return k.showKick(answer) })
	}
	return Usage(c)
}

// order is answer for a change: made says who asks for it.
func (k *console) order(endpoint string, made func(admin.By) any, answer any, show func() error) error {
	if err := k.open(); err != nil {
		return err
	}
	defer k.close()
	if err := k.ask(k.command.Context(), endpoint, made(k.by()), answer); err != nil {
		if _, ok := errors.AsType[silence](err); ok || errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w. It is not known whether it was done, and it may still be: `weft audit records` tells", err)
		}
		return err
	}
	if k.json() {
		return jsonLine(k.out, answer)
	}
	return show()
}

func (k *console) showKick(a admin.KickAnswer) error {
	if len(a.Sessions) == 0 {
		return line(k.out, "No session is open that could be closed; `weft user` shows the user's devices.")
	}
	for _, node := range slices.Sorted(maps.Keys(a.Sessions)) {
		if err := line(k.out, "%s closed at node %s.", many(a.Sessions[node], "session"), short(node)); err != nil {
			return err
		}
	}
	return nil
}

// NewDrain is `weft drain`: empty a push node.
func NewDrain() *cobra.Command {
	var request admin.DrainRequest
	c := &cobra.Command{
		Use:   "drain NODE",
		Short: "Ask all clients of a push node to connect elsewhere, before it is stopped",
		Long: `Ask all clients of a push node to connect elsewhere, each at a random moment within the node's -drain time. The node takes
no new connection from then on, and stays until its process is stopped. NODE is an id, or the beginning of one, from "weft
nodes". A drain can't be taken back: start the process anew.`,
		Example: `  weft drain 7KQ2XA
  weft drain 7KQ2XA --note 'new kernel' && watch weft nodes`,
		Args: one("NODE", "a node that `weft nodes` lists"),
	}
	k := newConsole(c)
	k.changes()
	c.ValidArgsFunction = k.completeNodes
	c.RunE = func(_ *cobra.Command, args []string) error {
		request.Node = args[0]
		var answer admin.DrainAnswer
		return k.order(admin.Drain, func(by admin.By) any { request.By = by; return request }, &answer, func() error {
			return line(k.out, "Node %s drains: %s asked to leave. `weft nodes` shows how far it is.", short(answer.Node), many(answer.Sessions, "session"))
		})
	}
	return Usage(c)
}

// completeNodes offers the ids of the push nodes that answer.
func (k *console) completeNodes(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 || k.open() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer k.close()
	nodes, err := gatherNodes(c.Context(), k.nc)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ids := make([]cobra.Completion, len(nodes))
	for i, n := range nodes {
		ids[i] = cobra.CompletionWithDesc(n.Node, n.Host+", "+many(n.Sessions, "session"))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
