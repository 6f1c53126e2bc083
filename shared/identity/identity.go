// Package identity is who somebody is to Weft and what they may do: what auth answers when a push node or collect
// shows it a token, and the client for asking.
package identity

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// Identity is what a token says. Patterns match whole: `*` stands for any run of characters, everything else for
// itself, so `news` matches only news, and `octokit/*` every repository of octokit.
type Identity struct {
	Tenant  string   `json:"tenant"`
	User    string   `json:"user"`
	Device  string   `json:"device,omitempty"`  // when set, the only device the token may connect
	Topics  []string `json:"topics,omitempty"`  // patterns of topic ids it may read
	Publish []string `json:"publish,omitempty"` // patterns of addresses (`user:*`) it may publish to, HTTP and gRPC
	Role    string   `json:"role,omitempty"`    // `admin` or empty
	Expires int64    `json:"expires"`           // ms since 1970
}

// MayRead says whether the identity may subscribe to a topic.
func (i *Identity) MayRead(topic string) bool { return matchAny(i.Topics, topic) }

// MayPublish says whether the identity may publish to an address of its own tenant.
func (i *Identity) MayPublish(to subject.Address) bool {
	return to.Tenant == i.Tenant && matchAny(i.Publish, to.String())
}

// Expired says whether the token has run out at the given time.
func (i *Identity) Expired(now time.Time) bool { return i.Expires <= now.UnixMilli() }

func matchAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if match(p, s) {
			return true
		}
	}
	return false
}

// match compares s with a pattern in time linear in their product, whatever the pattern: tokens come from outside.
func match(pattern, s string) bool {
	first, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	pieces := strings.Split(rest, "*")
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[:len(pieces)-1] {
		_, after, found := strings.Cut(s, piece)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, last)
}

// VerifyRequest is what auth is asked on subject.AuthVerify; it answers with an Identity or a problem.
type VerifyRequest struct {
	Token string `json:"token"`
}

// Verify asks auth about a token. The error is a *problem.Problem: Unauthorized or TokenExpired when the token is
// bad, Unavailable when auth does not answer.
func Verify(ctx context.Context, nc *nats.Conn, token string) (*Identity, error) {
	who := new(Identity)
	if err := rpc.Ask(ctx, nc, subject.AuthVerify, VerifyRequest{Token: token}, who); err != nil {
		return nil, err
	}
	return who, nil
}
