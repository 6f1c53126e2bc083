package admin

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	lastUsual = 10
	lastMost  = 100
	// whereWithin is how long Redis may take to say where a user is connected.
	whereWithin = time.Second
)

// user answers what is known about a user.
func (d *Desk) user(ctx context.Context, q admin.UserRequest) (*admin.UserAnswer, error) {
	to := subject.UserAddress(cmp.Or(q.Tenant, subject.DefaultTenant), q.User)
	if err := to.Check(); err != nil {
		return nil, err
	}
	devices, err := d.Archive.Devices(ctx, to.Tenant, to.ID)
	if err != nil {
		return nil, err
	}
	standing, err := d.Archive.Standing(ctx, []subject.Address{to}, "")
	if err != nil {
		return nil, err
	}
	where := d.where(ctx, to)
	where.sessions(ctx)
	a := &admin.UserAnswer{Tenant: to.Tenant, User: to.ID, Head: standing[to].Head, Devices: []admin.Device{}}
	if a.Head == 0 && len(devices) == 0 && len(where.open) == 0 {
		return nil, problem.New(problem.NotFound, "nothing is known of the user %q of the tenant %s: no message, no device, no connection; mind the tenant and the spelling", to.ID, to.Tenant).In("user")
	}
	if a.Pending, err = d.pendingOf(ctx, to, "", a.Head-min(a.Head, standing[to].Handled)); err != nil {
		return nil, err
	}
	if a.Devices, err = d.devicesOf(ctx, to, devices, a.Head, where); err != nil {
		return nil, err
	}
	a.Last, err = d.lastOf(ctx, to, a.Head, q.Last)
	return a, err
}

// pendingOf counts what waits for a device, or for all of them. There are at most so many, of which some have expired; where
// that is very many, they are not counted.
func (d *Desk) pendingOf(ctx context.Context, to subject.Address, device string, most uint64) (int, error) {
	if most == 0 || most > pendingMost {
		return int(most), nil //nolint:gosec // a number of messages
	}
	filter := admin.Filter{Tenant: to.Tenant, User: to.ID, Device: device}
	rows, err := d.Archive.Pending(ctx, filter, admin.Place{}, time.Now().UnixMilli(), pendingMost)
	return len(rows), err
}

// devicesOf are the devices of a user, those that are connected and have no place in the archive yet among them.
func (d *Desk) devicesOf(ctx context.Context, to subject.Address, places []archive.Device, head uint64, w *where) ([]admin.Device, error) {
	all := make(map[string]*admin.Device)
	device := func(name string) *admin.Device {
		if all[name] == nil {
			all[name] = &admin.Device{Device: name}
		}
		return all[name]
	}
	for _, p := range places {
		a := device(p.Device)
		if p.To != to {
			if a.Cursors == nil {
				a.Cursors = make(map[string]uint64)
			}
			a.Cursors[p.To.String()] = p.Cursor
			continue
		}
		a.Known, a.Cursor = p.Known, p.Cursor
		if p.Cursor > p.Start {
			a.Acked = p.At
		}
		var err error
		if a.Pending, err = d.pendingOf(ctx, to, p.Device, head-min(head, p.Cursor)); err != nil {
			return nil, err
		}
	}
	for name, holder := range w.holders {
		device(name).Node, _, _ = strings.Cut(holder, "/")
	}
	for _, s := range w.open {
		device(s.Device).Node, device(s.Device).Session = s.node, &s.Session
	}
	list := make([]admin.Device, 0, len(all))
	for _, a := range all {
		list = append(list, *a)
	}
	slices.SortFunc(list, func(a, b admin.Device) int { return cmp.Compare(a.Device, b.Device) })
	return list, nil
}

// lastOf are the last messages of a mailbox, the newest first.
func (d *Desk) lastOf(ctx context.Context, to subject.Address, head uint64, n int) ([]admin.Message, error) {
	if n <= 0 {
		n = lastUsual
	}
	n = min(n, lastMost)
	last := []admin.Message{}
	rows, err := d.Archive.Rows(ctx, to, head-min(head, uint64(n))+1, n)
	for _, r := range slices.Backward(rows) {
		last = append(last, told(r))
	}
	return last, err
}

// where is where a user's devices are connected.
type where struct {
	*Desk
	user    subject.Address
	holders map[string]string // device → node/session, as Redis says
	unknown bool              // Redis does not say
	open    []opened
}

// opened is a session at a node.
type opened struct {
	node.Session

	node string
}

// where asks Redis.
func (d *Desk) where(ctx context.Context, user subject.Address) *where {
	w := &where{Desk: d, user: user}
	ctx, cancel := context.WithTimeout(ctx, whereWithin)
	defer cancel()
	found, err := d.Table.Devices(ctx, []subject.Address{user})
	if w.unknown = err != nil || len(found) != 1 || found[0] == nil; !w.unknown {
		w.holders = found[0]
	}
	return w
}

// of says where a device is, as a step of a trace.
func (w *where) of(device string) (node, detail string) {
	if w.unknown {
		return "", "Redis does not say where it is connected"
	}
	holder, connected := w.holders[device]
	if !connected {
		return "", "away"
	}
	node, _, _ = strings.Cut(holder, "/")
	return node, "connected, and has not acknowledged it"
}

// sessions asks the nodes for the user's sessions: those that Redis names, or all that answer where it does not say.
// A node that does not answer leaves its part unknown.
func (w *where) sessions(ctx context.Context) {
	nodes := make(map[string]bool)
	for _, holder := range w.holders {
		id, _, _ := strings.Cut(holder, "/")
		nodes[id] = true
	}
	if w.unknown {
		fleet, err := w.fleet(ctx)
		if err != nil {
			w.Log.Warn("the nodes were not asked who is connected", "err", err)
		}
		for _, n := range fleet {
			nodes[n.Node] = true
		}
	}
	ids := make([]string, 0, len(nodes))
	for id := range nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for i, told := range orderAll[[]node.Session](ctx, w.Desk, ids, node.Order{Op: node.Sessions, Tenant: w.user.Tenant, User: w.user.ID}) {
		if told.err != nil {
			w.Log.Warn("a node does not say who is connected", "node", ids[i], "err", told.err)
		}
		for _, s := range told.answer {
			w.open = append(w.open, opened{s, ids[i]})
		}
	}
}
