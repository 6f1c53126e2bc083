package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/subject"
)

// NewToken is `weft token`: a token signed with the local key.
func NewToken() *cobra.Command {
	var from fabric
	var who identity.Identity
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "token USER",
		Short: "Print a signed token for a user",
		Long: `Print a token for a user, signed with the first key in the data folder that can sign. A folder without any key gets
one. Whoever has the token is the user until it ends: treat it like a password.`,
		Example: `  weft token alice
  weft token alice --device phone --ttl 24h
  weft token shop --publish 'user:*' --publish 'topic:offers'   # for POST /v1/messages`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			who.User = args[0]
			key, err := from.key()
			if err != nil {
				return err
			}
			token, err := auth.Sign(key, who, ttl)
			if err != nil {
				return err
			}
			return line(c.OutOrStdout(), "%s", token)
		},
	}
	from.flags(c)
	f := c.Flags()
	f.StringVar(&who.Tenant, "tenant", subject.DefaultTenant, "tenant of the user")
	f.StringVar(&who.Device, "device", "", "the only device that may connect with it; any if it is not given")
	f.StringArrayVar(&who.Topics, "topic", []string{"*"}, "`pattern` of topics that it may read; may be given again")
	f.StringArrayVar(&who.Publish, "publish", nil, "`pattern` of addresses that it may publish to over HTTP; may be given again")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it is good")
	return Usage(c)
}
