package auth

import "flag"

// Config is auth's own part of the configuration.
type Config struct {
	// Keys is a key file or a folder of key files; see LoadKeys for their names.
	Keys string
	// Issue answers subject.AuthIssue: a token for whoever asks, as any user. For the demo on a laptop, where
	// everybody who reaches NATS may be anybody; never where strangers do.
	Issue bool
}

// Flags registers the fields.
func (c *Config) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Keys, "auth-keys", c.Keys, "key `file` or folder: <kid>.hs256 (base64 of 32 bytes or more), <kid>.ed25519.pub (PEM)")
	fs.BoolVar(&c.Issue, "auth-issue", c.Issue, "give a token for any user to whoever asks on NATS: for the demo on a laptop only")
}
