package collect

import (
	"flag"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/message"
)

// Config is what collect can be told. Zero values are not defaults: use DefaultConfig or Flags.
type Config struct {
	Listen     string // address of the HTTP door; empty for none
	Archive    string // mongodb://host/database or sqlite:path
	Redis      string // URL of Redis
	Partitions int    // fixed when the fabric is created
	Replicas   int    // of every stream
	Limits     message.Limits
	Policy     archive.Policy
	PurgeEvery time.Duration

	OfflineAfter     time.Duration // a user counts as offline who has been gone for this long
	UndeliveredAfter time.Duration // a message that nobody acknowledged for this long is told; 0: none is
}

// DefaultConfig is the configuration when nothing is said.
func DefaultConfig() Config {
	var c Config
	c.Flags(flag.NewFlagSet("", flag.ContinueOnError))
	return c
}

// Flags registers the fields and sets their defaults.
func (c *Config) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Listen, "listen", "127.0.0.1:8081", "listen `address` of POST /v1/messages and gRPC; empty for none")
	fs.StringVar(&c.Archive, "archive", "mongodb://127.0.0.1:27017/weft", "archive: mongodb://host/database or sqlite:path")
	fs.StringVar(&c.Redis, "redis", "redis://127.0.0.1:6379/0", "Redis `URL`")
	fs.IntVar(&c.Partitions, "partitions", 16, "partitions of the fabric; fixed when it is created")
	fs.IntVar(&c.Replicas, "replicas", 1, "replicas of every stream: 1, 3 or 5")
	fs.IntVar(&c.Limits.Payload, "max-payload", 64<<10, "most `bytes` of a payload")
	fs.DurationVar(&c.Policy.Retention, "retention", 30*24*time.Hour, "how long messages are kept")
	fs.DurationVar(&c.Policy.MinAge, "purge-min-age", 24*time.Hour, "nothing is purged sooner than this after it was archived")
	fs.DurationVar(&c.PurgeEvery, "purge-every", time.Hour, "how often expired and old messages are purged")
	fs.DurationVar(&c.OfflineAfter, "offline-after", 10*time.Second, "a user who is back within this was never offline, for the events")
	fs.DurationVar(&c.UndeliveredAfter, "undelivered-after", 10*time.Minute, "a message that no device acknowledged for this long is told as an event; 0: none is")
}

// check says what is wrong with the configuration and how to mend it.
func (c *Config) check() error {
	switch {
	case c.Partitions < 1 || c.Partitions > 1024:
		return fmt.Errorf("-partitions %d is not between 1 and 1024", c.Partitions)
	case c.Limits.Payload < 1 || c.Limits.Payload > maxPayload:
		return fmt.Errorf("-max-payload %d is not between 1 and %d", c.Limits.Payload, maxPayload)
	case c.Policy.Retention <= 0 || c.PurgeEvery <= 0 || c.Policy.MinAge < 0:
		return fmt.Errorf("-retention and -purge-every must be above 0, -purge-min-age not below")
	case c.OfflineAfter < 0 || c.UndeliveredAfter < 0:
		return fmt.Errorf("-offline-after %s and -undelivered-after %s must not be negative", c.OfflineAfter, c.UndeliveredAfter)
	}
	return nil
}
