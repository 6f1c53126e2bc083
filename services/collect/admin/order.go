package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// fleetQuiet is how long nobody may have answered until all nodes are taken to have said what they are.
	fleetQuiet = 300 * time.Millisecond
	// orderWithin is how long a node may take for an order.
	orderWithin = 2 * time.Second
	// ordersAtOnce is how many nodes are ordered at the same time.
	ordersAtOnce = 16
)

// fleet is what the push nodes that answer say of themselves.
func (d *Desk) fleet(ctx context.Context) ([]admin.NodeAnswer, error) {
	return rpc.Gather[admin.NodeAnswer](ctx, d.NATS, subject.Admin(admin.Nodes), struct{}{}, fleetQuiet)
}

// holders are the nodes that may have a session of a user: those that answer, since Redis may have forgotten a session, and
// those that Redis names, since a node may be too slow to answer.
func (d *Desk) holders(ctx context.Context, user subject.Address) ([]string, error) {
	nodes := make(map[string]bool)
	asking, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	devices, err := d.Table.Devices(asking, []subject.Address{user})
	if err != nil {
		d.Log.Warn("Redis does not say where a user is connected; all nodes are asked", "err", err)
	}
	for _, found := range devices {
		for _, holder := range found {
			id, _, _ := strings.Cut(holder, "/")
			nodes[id] = true
		}
	}
	fleet, err := d.fleet(ctx)
	for _, n := range fleet {
		nodes[n.Node] = true
	}
	return slices.Sorted(maps.Keys(nodes)), err
}

// kick closes a user's sessions, or one device's, at every node that may have one.
func (d *Desk) kick(ctx context.Context, q admin.KickRequest) (*admin.KickAnswer, error) {
	if q.Tenant == "" {
		q.Tenant = subject.DefaultTenant
	}
	user := subject.UserAddress(q.Tenant, q.User)
	if err := user.Check(); err != nil {
		return nil, err
	}
	record, err := d.begin(ctx, "kick", q.By, struct {
		Tenant string `json:"tenant"`
		User   string `json:"user"`
		Device string `json:"device,omitempty"`
		Final  bool   `json:"final,omitempty"`
	}{q.Tenant, q.User, q.Device, q.Final})
	if err != nil {
		return nil, err
	}
	nodes, err := d.holders(ctx, user)
	if err != nil {
		return nil, err
	}
	answer := &admin.KickAnswer{Sessions: make(map[string]int)}
	order := node.Order{Op: node.Kick, Tenant: q.Tenant, User: q.User, Device: q.Device, Final: q.Final}
	var silent []string
	closed := 0
	for i, told := range orderAll[node.Kicked](ctx, d, nodes, order) {
		if told.err != nil {
			silent = append(silent, fmt.Sprintf("%s (%v)", nodes[i], told.err))
		} else if told.answer.Sessions > 0 {
			answer.Sessions[nodes[i]] = told.answer.Sessions
			closed += told.answer.Sessions
		}
	}
	if len(silent) > 0 {
		detail := "no answer of " + strings.Join(silent, ", ")
		d.end(ctx, record, closed, detail)
		return nil, problem.New(problem.Unavailable, "%d sessions were closed; others may be open: %s; kick again in a moment", closed, detail)
	}
	d.end(ctx, record, closed, "")
	return answer, nil
}

// said is what one node answered to an order, or why it did not.
type said[A any] struct {
	answer A
	err    error
}

// orderAll gives an order to nodes, some at the same time, and returns their answers in the order of nodes.
func orderAll[A any](ctx context.Context, d *Desk, nodes []string, order node.Order) []said[A] {
	answers := make([]said[A], len(nodes))
	eachOf(len(nodes), ordersAtOnce, func(i int) {
		ctx, cancel := context.WithTimeout(ctx, orderWithin)
		defer cancel()
		answers[i].err = rpc.Ask(ctx, d.NATS, subject.NodeControl(nodes[i]), order, &answers[i].answer)
	})
	return answers
}

// drain empties a push node: its clients are told to connect elsewhere.
func (d *Desk) drain(ctx context.Context, q admin.DrainRequest) (*admin.DrainAnswer, error) {
	if err := checkBy(q.By); err != nil {
		return nil, err
	}
	fleet, err := d.fleet(ctx)
	if err != nil {
		return nil, err
	}
	n, err := one(fleet, q.Node)
	if err != nil {
		return nil, err
	}
	record, err := d.begin(ctx, "drain", q.By, struct {
		Node string `json:"node"`
	}{n.Node})
	if err != nil {
		return nil, err
	}
	ordering, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	if _, err := rpc.SendJSON(ordering, d.NATS, subject.NodeControl(n.Node), node.Order{Op: node.Drain}); err != nil {
		d.end(ctx, record, 0, "no answer of the node: "+err.Error())
		return nil, problem.New(problem.Unavailable, "node %s did not take the order (%v); try again", n.Node, err)
	}
	d.end(ctx, record, n.Sessions, "")
	return &admin.DrainAnswer{Node: n.Node, Sessions: n.Sessions}, nil
}

// one is the node whose id begins with a text.
func one(fleet []admin.NodeAnswer, prefix string) (admin.NodeAnswer, error) {
	var found []admin.NodeAnswer
	ids := make([]string, 0, len(fleet))
	for _, n := range fleet {
		if ids = append(ids, n.Node); n.Node == prefix {
			return n, nil
		}
		if prefix != "" && strings.HasPrefix(n.Node, prefix) {
			found = append(found, n)
		}
	}
	slices.Sort(ids)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(ids) == 0:
		return admin.NodeAnswer{}, problem.New(problem.NotFound, "no push node answers; look with `weft doctor` what is wrong")
	case len(found) > 1:
		return admin.NodeAnswer{}, problem.New(problem.BadRequest, "%d nodes begin with %q; write more of one of %s", len(found), prefix, strings.Join(ids, ", ")).In("node")
	default:
		return admin.NodeAnswer{}, problem.New(problem.NotFound, "no node that answers begins with %q; there are %s", prefix, strings.Join(ids, ", ")).In("node")
	}
}

// eachOf calls do for 0 to n-1, at most so many at the same time, and returns when all have returned.
func eachOf(n, most int, do func(i int)) {
	var group errgroup.Group
	group.SetLimit(most)
	for i := range n {
		group.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = group.Wait() // none returns an error
}
