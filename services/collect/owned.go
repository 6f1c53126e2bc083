package collect

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/weftpush/weft/services/collect/admin"
)

// owned are the partitions that this process owns right now.
type owned struct {
	mu    sync.Mutex // protects terms
	terms map[int]int
}

// count adds to the terms of a partition; a new one may begin before the last has ended.
func (o *owned) count(p, terms int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.terms == nil {
		o.terms = make(map[int]int)
	}
	if o.terms[p] += terms; o.terms[p] == 0 {
		delete(o.terms, p)
	}
}

// list is the partitions in order.
func (o *owned) list() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.terms))
}

// owning is own, and says so while it lasts.
func (s *Service) owning(ctx context.Context, p int) error {
	s.owned.count(p, 1)
	defer s.owned.count(p, -1)
	return s.own(ctx, p)
}

// desk is where this process answers operators.
func (s *Service) desk() *admin.Desk {
	return admin.New(admin.Deps{
		Instance: s.id, NATS: s.nc, JS: s.js, Archive: s.archive, Table: s.table, Log: s.log,
		Policy: s.cfg.Policy, Replicas: s.cfg.Replicas,
		Owns: s.owned.list, Concurrently: s.concurrently,
	})
}
