package dispatch

import (
	"flag"
	"fmt"
	"time"
)

// Config is what dispatch can be told. Zero values are not defaults: use DefaultConfig or Flags.
type Config struct {
	Redis string        // URL of Redis
	Hop   time.Duration // a node that has not answered a frame within this is suspect

	prompt time.Duration // as the constant; tests change it
}

// DefaultConfig is the configuration when nothing is said.
func DefaultConfig() Config {
	var c Config
	c.Flags(flag.NewFlagSet("", flag.ContinueOnError))
	return c
}

// Flags registers the fields and sets their defaults.
func (c *Config) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Redis, "redis", "redis://127.0.0.1:6379/0", "Redis `URL`")
	c.prompt = prompt
	fs.DurationVar(&c.Hop, "hop", 300*time.Millisecond, "a node that has not answered a frame within this is suspect")
}

// check says what is wrong with the configuration and how to mend it.
func (c *Config) check() error {
	if c.Hop < 10*time.Millisecond {
		return fmt.Errorf("-hop %s is too short; use 10ms or more", c.Hop)
	}
	return nil
}
