package route

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/weftpush/weft/shared/subject"
)

// Registration says that a node holds an address. The generation tells one time of holding it from the next: a node
// counts up whenever it begins to hold an address, so that leaving late takes nothing away from having come again.
type Registration struct {
	Address    subject.Address
	Generation uint64
	Write      bool // for Connect: the route is to be written; false where the node has done so before
}

// Connection is a session that begins, or that gets more addresses.
type Connection struct {
	User         subject.Address
	Device, Node string
	Session      string         // takes the device over; empty for a session that has it, or has lost it since
	Addresses    []Registration // all that begin
}

// Holder is how the session stands in the devices of its user, what Release takes and State.Previous gives:
// `<node>/<session>`.
func (c Connection) Holder() string { return c.Node + "/" + c.Session }

// State is what Redis knows as a session begins. Absent is unknown.
type State struct {
	Heads   map[subject.Address]uint64 // read after the address's route was written
	Cursors map[subject.Address]uint64 // of this device
	Floor   map[subject.Address]uint64 // highest cursor of all devices of the user
	// Previous is the Holder of the connection that had the device before and has to go; empty if there was none.
	Previous string
}

// enter writes a route unless one of a later generation is there, and then reads the head, in one step: while a
// Cluster moves the slot, commands of one pipeline can be answered in another order. Generations are compared as
// decimals, since numbers of Lua are exact only to 2^53.
//
// KEYS: route, head. ARGV: node, generation, TTL of the route in ms, member of the head.
const enter = `
local have = redis.call('HGET', KEYS[1], ARGV[1])
if not have or #have < #ARGV[2] or (#have == #ARGV[2] and have < ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('ZSCORE', KEYS[2], ARGV[4])`

// swap gives a device to a new session and returns who had it. KEYS: devices. ARGV: device, holder, TTL in ms.
const swap = `
local previous = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return previous`

// remove deletes a field that still has a value. KEYS: the hash. ARGV: field, value.
const remove = `
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0`

// Connect begins a session, in one round trip per shard: it writes the routes that are to be written, reads the head
// of each address after its route is there, so that every message is either below that head or sent to the node,
// reads where the user's devices are, and takes the device from the session that had it. After an error some of it
// may be done.
func (t *Table) Connect(ctx context.Context, c Connection) (State, error) {
	heads := make([]*redis.Cmd, len(c.Addresses))
	var places *redis.FloatSliceCmd
	var previous *redis.Cmd
	err := t.pipeline(ctx, func(p redis.Pipeliner) {
		for i, r := range c.Addresses {
			if r.Write {
				heads[i] = t.enter(ctx, p, c.Node, r)
			} else {
				heads[i] = p.Do(ctx, "ZSCORE", t.key(r.Address, "head"), headMember)
			}
		}
		if len(c.Addresses) > 0 {
			places = p.ZMScore(ctx, t.key(c.User, "cursors"), cursorMembers(c)...)
		}
		if c.Session != "" {
			previous = p.Eval(ctx, swap, []string{t.key(c.User, "devices")}, c.Device, c.Holder(), deviceTTL.Milliseconds())
		}
	})
	if err != nil {
		return State{}, fmt.Errorf("route: connect: %w", err)
	}
	return state(c, heads, places, previous)
}

func state(c Connection, heads []*redis.Cmd, places *redis.FloatSliceCmd, previous *redis.Cmd) (State, error) {
	s := State{Heads: map[subject.Address]uint64{}, Cursors: map[subject.Address]uint64{}, Floor: map[subject.Address]uint64{}}
	for i, r := range c.Addresses {
		head, err := score(heads[i])
		if err != nil && !errors.Is(err, redis.Nil) {
			return State{}, fmt.Errorf("route: connect: head of %s: %w", r.Address.Tokens(), err)
		}
		know(s.Heads, r.Address, head)
		know(s.Cursors, r.Address, places.Val()[2*i])
		know(s.Floor, r.Address, places.Val()[2*i+1])
	}
	if previous == nil {
		return s, nil
	}
	s.Previous, _ = previous.Text() // absent: nobody had it
	if s.Previous == c.Holder() {   // the command was retried after its answer had been lost
		s.Previous = ""
	}
	return s, nil
}

// score is the number that a command answered with: a script says it as text, ZSCORE as a number in RESP3 and as text
// in RESP2. Cmd.Float64 refuses the one that is a float64 already.
func score(c *redis.Cmd) (float64, error) {
	if f, ok := c.Val().(float64); ok {
		return f, c.Err()
	}
	return c.Float64()
}

// know enters what is known: a key or member that is absent came as 0.
func know(known map[subject.Address]uint64, a subject.Address, score float64) {
	if score > 0 {
		known[a] = uint64(score)
	}
}

// cursorMembers are, for each address, the device's own cursor and the floor.
func cursorMembers(c Connection) []string {
	members := make([]string, 0, 2*len(c.Addresses))
	for _, r := range c.Addresses {
		members = append(members, cursorMember(c.Device, r.Address), floorMember(r.Address))
	}
	return members
}

func (t *Table) enter(ctx context.Context, p redis.Pipeliner, node string, r Registration) *redis.Cmd {
	keys := []string{t.key(r.Address, "route"), t.key(r.Address, "head")}
	return p.Eval(ctx, enter, keys, node, r.Generation, TTL.Milliseconds(), headMember)
}

// Register writes the routes of a node, all of them whatever Write says: after Redis lost them, and again before
// their TTL has passed. After an error any part of them may be written.
func (t *Table) Register(ctx context.Context, node string, regs []Registration) error {
	return t.inChunks(ctx, "register", regs, func(p redis.Pipeliner, r Registration) { t.enter(ctx, p, node, r) })
}

// Unregister deletes routes of a node, each only if it has the given generation: one that was written again in the
// meantime stays.
func (t *Table) Unregister(ctx context.Context, node string, regs []Registration) error {
	return t.inChunks(ctx, "unregister", regs, func(p redis.Pipeliner, r Registration) {
		p.Eval(ctx, remove, []string{t.key(r.Address, "route")}, node, r.Generation)
	})
}

func (t *Table) inChunks(ctx context.Context, what string, regs []Registration, queue func(redis.Pipeliner, Registration)) error {
	for part := range slices.Chunk(regs, chunk) {
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for _, r := range part {
				queue(p, r)
			}
		})
		if err != nil {
			return fmt.Errorf("route: %s %d addresses: %w", what, len(regs), err)
		}
	}
	return nil
}

// Release gives a device back when its session ends: it deletes the entry only if it is still the holder's.
func (t *Table) Release(ctx context.Context, user subject.Address, device, holder string) error {
	if err := t.client.Eval(ctx, remove, []string{t.key(user, "devices")}, device, holder).Err(); err != nil {
		return fmt.Errorf("route: release a device of %s: %w", user.Tokens(), err)
	}
	return nil
}
