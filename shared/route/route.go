// Package route is what Weft keeps in Redis: which nodes hold an address, which nodes are alive, how far each
// mailbox and each device has come, and which session has a device.
//
// Redis is a cache. Losing any of it, or all of it, delays messages and loses none: what is absent is unknown and
// never 0, and a number read here may be too low after Redis was restored, never too high. Every method may be
// called concurrently and run again, and fails within a few seconds, or when ctx ends, when Redis hangs or is gone.
//
// The keys, for Redis 7.0 and later, Valkey, and both as a Cluster; all of one address share a hash tag:
//
//	weft:<epoch>:{<tokens>}:route    hash   node → connection generation
//	weft:<epoch>:{<tokens>}:head     zset   one member, whose score is the mailbox's highest sequence
//	weft:<epoch>:{<tokens>}:cursors  zset   of a user: <device>/<tokens> → sequence acknowledged, and /<tokens> → the
//	                                        highest of all the user's devices
//	weft:<epoch>:{<tokens>}:devices  hash   of a user: device → <node>/<session>
//	weft:<epoch>:node:<node>         string the node's lease
//	weft:<epoch>:nodes               set    nodes that have, or had, a lease
//	weft:<epoch>:beat                string how often Beat was called; lower than before, and Redis has gone back
//	weft:<epoch>:probe               string written by Health
//
// <epoch> is the archive's, so nothing outlives a restore of the archive; <tokens> is Address.Tokens. Sequences are
// scores because ZADD GT raises without a script: 2.4 µs against 3.9 µs on Redis, 7 µs against 140 µs on miniredis.
// Scores are exact up to 2^53, which no mailbox reaches. The scripts that are left go out whole, by EVAL: Redis knows
// them again by their hash (EVALSHA saved 3 %), and one that was restarted or lost its scripts needs no second try.
package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weftpush/weft/shared/subject"
)

// How long keys live that nobody writes.
const (
	// TTL is the life of an address's routes after the last write to any of them. A node writes the routes of
	// sessions that live longer again (Register) well before it has passed.
	TTL = 24 * time.Hour

	headTTL   = 7 * 24 * time.Hour
	deviceTTL = 30 * 24 * time.Hour // cursors too: a device unseen for 30 days is forgotten
)

const (
	timeout = time.Second // of a dial, a read or a write, where the URL says nothing else
	// chunk is how many addresses one pipeline of a bulk holds, so that 100,000 neither build up in memory nor hold
	// Redis for longer than about a millisecond at a time (miniredis 40 ms, for its scripts).
	chunk = 250
	// scan is how many keys Redis looks at in one step of a walk over all of them.
	scan = 1000
)

// Table is a connection pool to Redis, and the keys of one epoch in it.
type Table struct {
	client redis.UniversalClient
	prefix string

	mu     sync.Mutex       // protects the rest
	leases map[string]lease // by node; written by Renew and Leave
	beats  int64            // the highest count that Beat has seen
}

// Open makes a Table without any I/O, so a Redis that is down is no error. address is
// redis[s]://[user:password@]host:port[/db], and for a Cluster more host:port after it, separated by commas. The
// options of redis.ParseURL can follow the first host, such as ?read_timeout=500ms; an error never shows the URL.
func Open(address, epoch string) (*Table, error) {
	if err := subject.CheckID(epoch); err != nil {
		return nil, fmt.Errorf("route: the archive's epoch %q: %w", epoch, err)
	}
	options, err := parse(address)
	if err != nil {
		return nil, err
	}
	redis.SetLogger(quiet{})
	return &Table{
		client: redis.NewUniversalClient(options),
		prefix: "weft:" + subject.Encode(epoch) + ":",
		leases: map[string]lease{},
	}, nil
}

// quiet drops what go-redis would print by itself: each failure reaches a caller as an error.
type quiet struct{}

// Printf implements go-redis's logger.
func (quiet) Printf(context.Context, string, ...any) {}

// Close closes the connections; calls under way fail.
func (t *Table) Close() error {
	if err := t.client.Close(); err != nil {
		return fmt.Errorf("route: close: %w", err)
	}
	return nil
}

// Routes returns the nodes that hold each address, in the order of addresses. A route counts only while its node
// has a lease: intersect with Nodes. On an error the answers that came are there all the same: nil is unknown, and
// an empty list means that no node has the address.
func (t *Table) Routes(ctx context.Context, addresses []subject.Address) ([][]string, error) {
	nodes := make([][]string, len(addresses))
	answers := make([]*redis.StringSliceCmd, len(addresses))
	err := t.pipeline(ctx, func(p redis.Pipeliner) {
		for i, a := range addresses {
			answers[i] = p.HKeys(ctx, t.key(a, "route"))
		}
	})
	for i, answer := range answers {
		if answer.Err() == nil {
			nodes[i] = append([]string{}, answer.Val()...)
		}
	}
	if err != nil {
		return nodes, fmt.Errorf("route: look up %d addresses: %w", len(addresses), err)
	}
	return nodes, nil
}

// pipeline runs what queue queues in one round trip per shard. Its error is the first that is not an absent key:
// Exec alone would tell of the absent key and hide the failure behind it.
func (t *Table) pipeline(ctx context.Context, queue func(redis.Pipeliner)) error {
	p := t.client.Pipeline()
	queue(p)
	commands, err := p.Exec(ctx)
	for _, c := range commands {
		if c.Err() != nil && !errors.Is(c.Err(), redis.Nil) {
			return c.Err()
		}
	}
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

func (t *Table) key(a subject.Address, what string) string {
	return t.prefix + "{" + a.Tokens() + "}:" + what
}

func parse(address string) (*redis.UniversalOptions, error) {
	first, more, cluster := strings.Cut(address, ",")
	o, err := redis.ParseURL(first)
	if _, unreadable := errors.AsType[*url.Error](err); unreadable { // it quotes the URL, password and all
		return nil, errors.New("route: the Redis URL can't be read; write redis://user:password@host:6379/0, with %XX for special characters")
	}
	if err != nil {
		return nil, fmt.Errorf("route: the Redis URL: %w", err)
	}
	u := universal(o)
	if cluster {
		u.Addrs = append(u.Addrs, strings.Split(more, ",")...)
		u.IsClusterMode = true
		if u.TLSConfig != nil {
			u.TLSConfig.ServerName = "" // each server proves its own name
		}
	}
	return u, nil
}

// universal carries over what a URL can say, and bounds how long a Redis that hangs or is gone can hold a caller:
// the defaults of go-redis are five dials, then three retries of 5 s each.
func universal(o *redis.Options) *redis.UniversalOptions {
	return &redis.UniversalOptions{
		Addrs: []string{o.Addr}, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
		ClientName: o.ClientName, Protocol: o.Protocol,
		DialTimeout: cmp.Or(o.DialTimeout, timeout), ReadTimeout: cmp.Or(o.ReadTimeout, timeout), WriteTimeout: cmp.Or(o.WriteTimeout, timeout),
		PoolTimeout: cmp.Or(o.PoolTimeout, timeout), PoolSize: o.PoolSize, MinIdleConns: o.MinIdleConns, MaxIdleConns: o.MaxIdleConns,
		MaxActiveConns: o.MaxActiveConns, ConnMaxIdleTime: o.ConnMaxIdleTime, ConnMaxLifetime: o.ConnMaxLifetime,
		// One retry, for the pooled connection that Redis closed meanwhile.
		MaxRetries: cmp.Or(o.MaxRetries, 1), DialerRetries: 1,
		ContextTimeoutEnabled: true,
		// Handshakes of Redis Enterprise that Valkey and miniredis refuse at every connection.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}
