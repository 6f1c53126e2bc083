package auth

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	issueTTL = time.Hour
	// maxTTL keeps a slip of the pen from making a token that outlives its keys.
	maxTTL = 10 * 366 * 24 * time.Hour
)

// Sign makes a token that says who (Expires is set from ttl, 1 s to ten years; an empty tenant is the default one). It refuses
// an identity that verifying would refuse.
func Sign(key Key, who identity.Identity, ttl time.Duration) (string, error) {
	if !key.CanSign() {
		return "", fmt.Errorf("sign a token: key %q can only verify", key.ID)
	}
	if ttl < time.Second || ttl > maxTTL {
		return "", fmt.Errorf("sign a token: a ttl of %s is not between 1s and %s", ttl, maxTTL)
	}
	now := time.Now()
	c := &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: who.User, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Tenant: who.Tenant, Device: who.Device, Topics: who.Topics, Publish: who.Publish, Role: who.Role,
	}
	if _, err := c.identity(); err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	token := jwt.NewWithClaims(key.method, c)
	token.Header["kid"] = key.ID
	signed, err := token.SignedString(key.signing)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed, nil
}

// IssueRequest is what subject.AuthIssue is asked.
type IssueRequest struct {
	Tenant string   `json:"tenant,omitempty"` // the default tenant when empty
	User   string   `json:"user"`
	Topics []string `json:"topics,omitempty"` // all topics when empty
}

// IssueAnswer is a token of one hour.
type IssueAnswer struct {
	Token   string `json:"token"`
	Expires int64  `json:"expires"` // ms since 1970
}

// issue makes a token for anybody. The error is a *problem.Problem where the asker can mend it.
func issue(key Key, ask IssueRequest) (*IssueAnswer, error) {
	if ask.Tenant == "" {
		ask.Tenant = subject.DefaultTenant
	}
	if len(ask.Topics) == 0 {
		ask.Topics = []string{"*"}
	}
	if err := subject.UserAddress(ask.Tenant, ask.User).Check(); err != nil {
		return nil, problem.From(err).In("user")
	}
	expires := time.Now().Add(issueTTL).Truncate(time.Second)
	token, err := Sign(key, identity.Identity{Tenant: ask.Tenant, User: ask.User, Topics: ask.Topics}, issueTTL)
	if err != nil {
		return nil, err
	}
	return &IssueAnswer{Token: token, Expires: expires.UnixMilli()}, nil
}
