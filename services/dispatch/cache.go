package dispatch

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/weftpush/weft/shared/subject"
)

const (
	// lookUpTimeout is how long Redis may take for a batch. One that does not is left alone by all batches until tend
	// has seen it answer, and take writes.
	lookUpTimeout = 500 * time.Millisecond
	// tendEvery is how often Redis is looked after, and tendTimeout how long each question of that may take.
	tendEvery   = time.Second
	tendTimeout = 500 * time.Millisecond
	// settling is how long after Redis has gone back its routes are not relied on: the nodes notice within a second and
	// write theirs again.
	settling = 5 * time.Second
	// healing bounds how long one try to make up for heads may take.
	healing = 10 * time.Second
	// owedMost is how many addresses are remembered whose heads could not be raised, some 10 MB.
	owedMost = 50_000
)

// cache is how things stand with Redis. The batches of all partitions and tend use it.
type cache struct {
	mu     sync.Mutex                 // protects the rest
	away   bool                       // it failed a batch, and has not been seen to be well since
	lostAt time.Time                  // when it was found to have gone back
	owed   map[subject.Address]uint64 // heads that it does not have
	low    bool                       // more heads than can be remembered are too low
}

// usable says whether the routes in Redis can be relied on.
func (c *cache) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.away && time.Since(c.lostAt) > settling
}

// fail notes that Redis did not do what a batch needed.
func (c *cache) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = true
}

// owe remembers heads that were not raised; low, that more are too low than are remembered.
func (c *cache) owe(heads map[subject.Address]uint64, low bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed == nil {
		c.owed = make(map[subject.Address]uint64, len(heads))
	}
	for a, head := range heads {
		c.owed[a] = max(c.owed[a], head)
	}
	if c.low = c.low || low; len(c.owed) > owedMost {
		c.owed, c.low = nil, true
	}
}

// debts takes what is owed out, to be paid.
func (c *cache) debts() (owed map[subject.Address]uint64, low bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	owed, low = c.owed, c.low
	c.owed, c.low = nil, false
	return owed, low
}

// well notes that Redis answers and takes writes; lost, that it has gone back.
func (c *cache) well(lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = false
	if lost {
		c.lostAt, c.low = time.Now(), true
	}
}

// tend looks after Redis until ctx ends: whether it is well, which nodes are alive, and whether heads are owed to it.
func (s *Service) tend(ctx context.Context) error {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		s.tendOnce(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *Service) tendOnce(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, tendTimeout)
	lost, err := s.table.Beat(asking)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.faults.Note("write to Redis", err)
		s.cache.fail()
	} else {
		s.cache.well(lost)
	}
	if lost {
		s.log.Warn("redis has gone back; asking all nodes while they write their routes again")
	}
	asking, cancel = context.WithTimeout(ctx, tendTimeout)
	nodes, failure := s.table.Nodes(asking)
	cancel()
	if failure == nil {
		s.peers.setLive(nodes, !s.cache.usable())
	} else if ctx.Err() == nil {
		s.faults.Note("read the leases of nodes", failure) // what was known stays
	}
	s.heal(ctx, err == nil)
}

// heal makes up for heads in Redis that are too low, because it went back or was not told: with one that is well they
// are raised again, or all forgotten where there are too many; from one that takes no writes they are removed if it
// lets itself be asked. What is not done is owed.
func (s *Service) heal(ctx context.Context, well bool) {
	owed, low := s.cache.debts()
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	if !well {
		_ = s.table.DropHeads(ctx, maps.Keys(owed)) // away altogether, or no more than a replica: nothing can be done
		s.cache.owe(owed, low)
		return
	}
	if low {
		if err := s.table.ForgetHeads(ctx); err != nil {
			s.faults.Note("forget heads that are too low", err)
			s.cache.owe(nil, true)
		}
	}
	if err := s.table.RaiseHeads(ctx, owed); err != nil {
		s.faults.Note("raise heads again", err)
		s.cache.owe(owed, false)
	}
}
