package auth

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// leeway is how far an issuer's clock may be ahead of ours, for nbf and iat. exp has none: a token ends when it
	// says, by our clock.
	leeway = 30 * time.Second
	// maxToken is the longest token, in bytes: what fits into an HTTP header with room to spare.
	maxToken = 16 << 10

	adminRole = "admin"
)

// claims are the members of a token that Weft reads (design section 7); others are passed over.
type claims struct {
	jwt.RegisteredClaims

	Tenant  string   `json:"tenant,omitempty"`
	Device  string   `json:"device,omitempty"`
	Topics  []string `json:"topics,omitempty"`
	Publish []string `json:"publish,omitempty"`
	Role    string   `json:"role,omitempty"`
}

// keyring is the keys that tokens are checked with, by id. It is never changed. An id comes from outside, but it
// only ever meets this map: no file name is built from it.
type keyring map[string]Key

var errUnknownKey = errors.New("unknown key")

// verify checks a token and says whose it is. The error is a *problem.Problem, Unauthorized or TokenExpired, that
// repeats nothing of the token.
func (k keyring) verify(token string, now time.Time) (*identity.Identity, error) {
	if token == "" {
		return nil, problem.New(problem.Unauthorized, "there is no token; send the one that your application was given").In("token")
	}
	if len(token) > maxToken {
		return nil, problem.New(problem.Unauthorized, "the token has %d bytes; the most is %d: ask for fewer topics in it", len(token), maxToken).In("token")
	}
	c := new(claims)
	// The parser checks the signature only; its checks of times would give exp the leeway of nbf.
	parser := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding(),
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg(), jwt.SigningMethodEdDSA.Alg()}))
	if _, err := parser.ParseWithClaims(token, c, k.choose); err != nil {
		return nil, unreadable(err)
	}
	if err := c.checkTimes(now); err != nil {
		return nil, err
	}
	return c.identity()
}

// choose finds the key that the token's header names, or the only key where it names none. The key's kind, not the
// header, says which algorithm is used: a token signed with HMAC over a public key finds no key.
func (k keyring) choose(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok {
		return nil, errUnknownKey // RFC 7515: an extension that isn't understood makes the token invalid
	}
	key, err := k.named(t.Header["kid"])
	if err != nil || t.Method != key.method {
		return nil, errUnknownKey
	}
	return key.verify, nil
}

func (k keyring) named(kid any) (Key, error) {
	if kid == nil && len(k) == 1 {
		for _, key := range k {
			return key, nil
		}
	}
	name, _ := kid.(string)
	key, ok := k[name]
	if !ok {
		return Key{}, errUnknownKey
	}
	return key, nil
}

// unreadable turns the parser's error into ours, which repeats nothing of the token.
func unreadable(err error) *problem.Problem {
	sentence := "the token's signature does not verify; get one from the issuer that this server trusts"
	switch {
	case errors.Is(err, errUnknownKey):
		sentence = "no key of this server fits the token's key id and algorithm; get one from the issuer that this server trusts"
	case errors.Is(err, jwt.ErrTokenMalformed):
		sentence = "the token is not a signed JWT with claims of the right kind; send the whole token as it was issued"
	}
	return problem.New(problem.Unauthorized, "%s", sentence).In("token")
}

func (c *claims) checkTimes(now time.Time) error {
	if c.ExpiresAt == nil {
		return problem.New(problem.Unauthorized, "the token has no exp; have one issued that ends").In("exp")
	}
	for name, from := range map[string]*jwt.NumericDate{"nbf": c.NotBefore, "iat": c.IssuedAt} {
		if from != nil && from.After(now.Add(leeway)) {
			return problem.New(problem.Unauthorized, "the token is not valid yet; check the clocks of the issuer and of this server").In(name)
		}
	}
	if c.ExpiresAt.UnixMilli() <= now.UnixMilli() {
		return problem.New(problem.TokenExpired, "the token ended at %s; get a fresh one and try again", c.ExpiresAt.UTC().Format(time.RFC3339)).In("exp")
	}
	return nil
}

// identity is what the claims say. A role that Weft does not know gives no rights and is dropped.
func (c *claims) identity() (*identity.Identity, error) {
	if c.Tenant == "" {
		c.Tenant = subject.DefaultTenant
	}
	if c.Role != adminRole {
		c.Role = ""
	}
	ids := []struct{ claim, id string }{{"sub", c.Subject}, {"tenant", c.Tenant}}
	if c.Device != "" {
		ids = append(ids, struct{ claim, id string }{"device", c.Device})
	}
	for _, each := range ids {
		if err := subject.CheckID(each.id); err != nil {
			return nil, problem.New(problem.Unauthorized, "the token's claim %s can't be used: %s", each.claim, problem.From(err).Message).In(each.claim)
		}
	}
	return &identity.Identity{
		Tenant: c.Tenant, User: c.Subject, Device: c.Device,
		Topics: c.Topics, Publish: c.Publish, Role: c.Role, Expires: c.ExpiresAt.UnixMilli(),
	}, nil
}

// newKeyring refuses to be empty: a server that trusts nobody has a slip in its configuration.
func newKeyring(keys []Key, path string) (keyring, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("-auth-keys %s: no key there; put in a <kid>%s file with what `openssl rand -base64 32` prints", path, extHS256)
	}
	ring := make(keyring, len(keys))
	for _, key := range keys {
		ring[key.ID] = key
	}
	return ring, nil
}
