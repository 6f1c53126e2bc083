package push

import (
	"flag"
	"fmt"
	"time"
)

// Config is what a push node can be told. Zero values are not defaults: use DefaultConfig or Flags.
type Config struct {
	Listen    string        // address of the HTTP server: WebSockets, Server-Sent Events, gRPC and the demo page
	Redis     string        // URL of Redis
	Window    int           // most bytes that a session may leave unacknowledged; one message is always admitted
	Heartbeat time.Duration // a session silent for one is pinged, for two is closed
	SlowAfter time.Duration // a session whose window was full for this long is closed
	Drain     time.Duration // how long clients have to leave after SIGTERM; 0: they are closed at once
	Topics    int           // most topics of one session
	Origins   string        // origins of pages that may connect besides the node's own, separated by commas; * for all
	Demo      bool          // serve the demo page and give out tokens for it, if auth does
}

// DefaultConfig is the configuration when nothing is said.
func DefaultConfig() Config {
	var c Config
	c.Flags(flag.NewFlagSet("", flag.ContinueOnError))
	return c
}

// Flags registers the fields and sets their defaults.
func (c *Config) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "listen `address` of the doors for clients")
	fs.StringVar(&c.Redis, "redis", "redis://127.0.0.1:6379/0", "Redis `URL`")
	fs.IntVar(&c.Window, "window", 256<<10, "most unacknowledged `bytes` of a session")
	fs.DurationVar(&c.Heartbeat, "heartbeat", 20*time.Second, "a session silent for one is pinged, for two is closed")
	fs.DurationVar(&c.SlowAfter, "slow-after", 30*time.Second, "a session whose window was full for this long is closed")
	fs.DurationVar(&c.Drain, "drain", 10*time.Second, "clients have this long to leave after SIGTERM; 0: they are closed at once")
	fs.IntVar(&c.Topics, "topics", 100, "most topics of one session")
	fs.StringVar(&c.Origins, "origins", "", "`origins` of other pages that may connect, separated by commas; * for all")
	fs.BoolVar(&c.Demo, "demo", false, "serve the demo page at /demo and its tokens")
}

// check says what is wrong with the configuration and how to mend it.
func (c *Config) check() error {
	switch {
	case c.Window < 1024:
		return fmt.Errorf("-window %d is too small; a session needs at least 1024 bytes", c.Window)
	case c.Heartbeat < 100*time.Millisecond:
		return fmt.Errorf("-heartbeat %s is too short; use 100ms or more", c.Heartbeat)
	case c.SlowAfter <= 0:
		return fmt.Errorf("-slow-after %s must be above 0", c.SlowAfter)
	case c.Drain < 0:
		return fmt.Errorf("-drain %s must not be negative", c.Drain)
	case c.Topics < 0:
		return fmt.Errorf("-topics %d must not be negative", c.Topics)
	}
	return nil
}
