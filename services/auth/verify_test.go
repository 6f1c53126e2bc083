package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// now is when the tests' tokens are checked.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// ring has one key of each kind, `mac` and `ed`, and returns them too.
func ring(t *testing.T) (r keyring, mac, ed Key) {
	t.Helper()
	mac, err := readSecret(secretFile([]byte(strings.Repeat("s", 32))))
	if err != nil {
		t.Fatal(err)
	}
	private, _ := edFiles(t)
	if ed, err = readPrivate(private); err != nil {
		t.Fatal(err)
	}
	mac.ID, ed.ID = "mac", "ed"
	r, err = newKeyring([]Key{mac, ed}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return r, mac, ed
}

func good() jwt.MapClaims {
	return jwt.MapClaims{"sub": "alice", "exp": now.Add(time.Hour).Unix()}
}

func with(name string, value any) jwt.MapClaims {
	c := good()
	c[name] = value
	return c
}

func without(name string) jwt.MapClaims {
	c := good()
	delete(c, name)
	return c
}

// sign makes a token with any method, header and key.
func sign(t testing.TB, method jwt.SigningMethod, header map[string]any, c jwt.Claims, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	maps.Copy(token.Header, header)
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func kid(id any) map[string]any { return map[string]any{"kid": id} }

func TestVerifyReadsTheClaims(t *testing.T) {
	r, mac, ed := ring(t)
	expires := now.Add(time.Hour).UnixMilli()
	full := jwt.MapClaims{
		"sub": "dependabot[bot]", "exp": now.Add(time.Hour).Unix(), "tenant": "acme", "device": "phone", "iss": "someone",
		"topics": []string{"octokit/*"}, "publish": []string{"user:*"}, "role": "admin",
	}
	for name, c := range map[string]struct {
		token string
		want  identity.Identity
	}{
		"defaults": {sign(t, mac.method, kid("mac"), good(), mac.signing), identity.Identity{Tenant: "default", User: "alice", Expires: expires}},
		"all": {sign(t, ed.method, kid("ed"), full, ed.signing), identity.Identity{
			Tenant: "acme", User: "dependabot[bot]", Device: "phone", Topics: []string{"octokit/*"}, Publish: []string{"user:*"}, Role: "admin", Expires: expires,
		}},
		"another role": {sign(t, mac.method, kid("mac"), with("role", "editor"), mac.signing), identity.Identity{Tenant: "default", User: "alice", Expires: expires}},
		"clock ahead":  {sign(t, mac.method, kid("mac"), with("iat", now.Add(30*time.Second).Unix()), mac.signing), identity.Identity{Tenant: "default", User: "alice", Expires: expires}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := r.verify(c.token, now)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
		})
	}
}

func TestVerifyWithoutKeyID(t *testing.T) {
	r, mac, _ := ring(t)
	token := sign(t, mac.method, nil, good(), mac.signing)
	if _, err := r.verify(token, now); !errors.Is(err, problem.New(problem.Unauthorized, "")) {
		t.Errorf("two keys, no key id: %v, want unauthorized", err)
	}
	only, err := newKeyring([]Key{mac}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := only.verify(token, now); err != nil {
		t.Errorf("the only key was not tried: %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	r, mac, ed := ring(t)
	_, foreignPublic := edFiles(t)
	foreign, err := readPublic(foreignPublic)
	if err != nil {
		t.Fatal(err)
	}
	_, _, otherEd := ring(t)
	ok := sign(t, mac.method, kid("mac"), good(), mac.signing)
	parts := strings.Split(ok, ".")
	signed := func(c jwt.Claims) string { return sign(t, mac.method, kid("mac"), c, mac.signing) }
	swapped := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"root","exp":99999999999}`))
	public := []byte(ed.verify.(ed25519.PublicKey))

	for name, c := range map[string]struct {
		token string
		want  problem.Code
		field string
	}{
		"nothing":                 {"", problem.Unauthorized, "token"},
		"words":                   {"let me in", problem.Unauthorized, "token"},
		"two parts":               {parts[0] + "." + parts[1], problem.Unauthorized, "token"},
		"no signature":            {parts[0] + "." + parts[1] + ".", problem.Unauthorized, "token"},
		"signature cut":           {ok[:len(ok)-4], problem.Unauthorized, "token"},
		"other claims":            {parts[0] + "." + swapped + "." + parts[2], problem.Unauthorized, "token"},
		"too long":                {signed(with("x", strings.Repeat("x", maxToken))), problem.Unauthorized, "token"},
		"none":                    {sign(t, jwt.SigningMethodNone, kid("mac"), good(), jwt.UnsafeAllowNoneSignatureType), problem.Unauthorized, "token"},
		"none, no key id":         {sign(t, jwt.SigningMethodNone, nil, good(), jwt.UnsafeAllowNoneSignatureType), problem.Unauthorized, "token"},
		"same secret, HS512":      {sign(t, jwt.SigningMethodHS512, kid("mac"), good(), mac.signing), problem.Unauthorized, "token"},
		"HMAC by the public key":  {sign(t, jwt.SigningMethodHS256, kid("ed"), good(), public), problem.Unauthorized, "token"},
		"EdDSA under a MAC's id":  {sign(t, ed.method, kid("mac"), good(), ed.signing), problem.Unauthorized, "token"},
		"foreign key, known id":   {sign(t, otherEd.method, kid("ed"), good(), otherEd.signing), problem.Unauthorized, "token"},
		"foreign key, own id":     {sign(t, otherEd.method, kid("elsewhere"), good(), otherEd.signing), problem.Unauthorized, "token"},
		"key id is a path":        {sign(t, mac.method, kid("../../x"), good(), mac.signing), problem.Unauthorized, "token"},
		"key id is a file":        {sign(t, mac.method, kid("mac.hs256"), good(), mac.signing), problem.Unauthorized, "token"},
		"key id is a number":      {sign(t, mac.method, kid(7), good(), mac.signing), problem.Unauthorized, "token"},
		"key id is empty":         {sign(t, mac.method, kid(""), good(), mac.signing), problem.Unauthorized, "token"},
		"unknown crit":            {sign(t, mac.method, map[string]any{"kid": "mac", "crit": []string{"b64"}, "b64": true}, good(), mac.signing), problem.Unauthorized, "token"},
		"claims of another shape": {signed(with("topics", "news")), problem.Unauthorized, "token"},
		"no exp":                  {signed(without("exp")), problem.Unauthorized, "exp"},
		"exp is absurd":           {signed(with("exp", 1e300)), problem.TokenExpired, "exp"},
		"expired":                 {signed(with("exp", now.Add(-time.Hour).Unix())), problem.TokenExpired, "exp"},
		"expired this moment":     {signed(with("exp", now.Unix())), problem.TokenExpired, "exp"},
		"expired, foreign key":    {sign(t, otherEd.method, kid("ed"), with("exp", 1), otherEd.signing), problem.Unauthorized, "token"},
		"not yet":                 {signed(with("nbf", now.Add(31*time.Second).Unix())), problem.Unauthorized, "nbf"},
		"from the future":         {signed(with("iat", now.Add(31*time.Second).Unix())), problem.Unauthorized, "iat"},
		"no user":                 {signed(without("sub")), problem.Unauthorized, "sub"},
		"user too long":           {signed(with("sub", strings.Repeat("u", subject.MaxID+1))), problem.Unauthorized, "sub"},
		"tenant too long":         {signed(with("tenant", strings.Repeat("u", subject.MaxID+1))), problem.Unauthorized, "tenant"},
		"device too long":         {signed(with("device", strings.Repeat("u", subject.MaxID+1))), problem.Unauthorized, "device"},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := r.verify(c.token, now)
			p, isProblem := errors.AsType[*problem.Problem](err)
			if !isProblem || p.Code != c.want || p.Field != c.field {
				t.Fatalf("got %+v, %v; want %s in %s", who, err, c.want, c.field)
			}
			for part := range strings.SplitSeq(c.token, ".") {
				if len(part) > 8 && strings.Contains(p.Message, part) {
					t.Errorf("the sentence repeats the token: %s", p.Message)
				}
			}
		})
	}
	if _, err := (keyring{"a": foreign}).verify(ok, now); err == nil {
		t.Error("a ring of foreign keys took the token")
	}
}

// The library also refuses a key of another type; this is our own check, which does not depend on that.
func TestTheKeyFixesTheAlgorithm(t *testing.T) {
	r, mac, ed := ring(t)
	for name, token := range map[string]*jwt.Token{
		"HMAC under ed":     {Method: mac.method, Header: kid("ed")},
		"EdDSA under a MAC": {Method: ed.method, Header: kid("mac")},
		"HS512":             {Method: jwt.SigningMethodHS512, Header: kid("mac")},
		"none":              {Method: jwt.SigningMethodNone, Header: kid("mac")},
	} {
		if key, err := r.choose(token); !errors.Is(err, errUnknownKey) {
			t.Errorf("%s: key %v, err %v", name, key, err)
		}
	}
}

func TestSignRefusesWhatVerifyWould(t *testing.T) {
	_, mac, _ := ring(t)
	for name, c := range map[string]struct {
		who identity.Identity
		ttl time.Duration
	}{
		"no user":   {identity.Identity{}, time.Hour},
		"long user": {identity.Identity{User: strings.Repeat("u", subject.MaxID+1)}, time.Hour},
		"no time":   {identity.Identity{User: "alice"}, 0},
		"for ever":  {identity.Identity{User: "alice"}, 1<<63 - 1},
	} {
		if _, err := Sign(mac, c.who, c.ttl); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestSignedTokensVerify(t *testing.T) {
	r, mac, ed := ring(t)
	who := identity.Identity{Tenant: "acme", User: "jürgen", Device: "d", Topics: []string{"*"}, Publish: []string{"all"}, Role: "admin"}
	for _, key := range []Key{mac, ed} {
		token, err := Sign(key, who, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.verify(token, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(time.UnixMilli(got.Expires)); left > time.Hour || left < 59*time.Minute {
			t.Errorf("expires in %s", left)
		}
		want := who
		want.Expires = got.Expires
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("got  %+v\nwant %+v", *got, want)
		}
	}
}

// FuzzVerify looks for a token that passes and for one that breaks the verifier: nobody but a holder of the key may
// pass, so any that does and is not the seed is a find.
func FuzzVerify(f *testing.F) {
	mac, err := readSecret(secretFile([]byte(strings.Repeat("s", 32))))
	if err != nil {
		f.Fatal(err)
	}
	mac.ID = "mac"
	r := keyring{"mac": mac}
	ok := sign(f, mac.method, kid("mac"), good(), mac.signing)
	f.Add(ok)
	f.Add(sign(f, jwt.SigningMethodNone, nil, good(), jwt.UnsafeAllowNoneSignatureType))
	f.Add(sign(f, mac.method, kid("mac"), with("exp", "soon"), mac.signing))
	f.Add("..")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		who, err := r.verify(token, now)
		if err == nil && token != ok {
			t.Fatalf("passed as %+v", who)
		}
		if err != nil {
			if _, isProblem := errors.AsType[*problem.Problem](err); !isProblem {
				t.Fatalf("%T is no problem: %v", err, err)
			}
			if _, err := json.Marshal(problem.From(err)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
