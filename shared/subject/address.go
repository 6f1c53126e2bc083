package subject

import (
	"strings"

	"github.com/weftpush/weft/shared/problem"
)

// Kind is what an address names.
type Kind string

// The kinds of address.
const (
	User  Kind = "user"  // the devices of one user
	Topic Kind = "topic" // the sessions that subscribed to it
	All   Kind = "all"   // every session of the tenant; it has no id
)

// DefaultTenant is the tenant of tokens and lines that name none.
const DefaultTenant = "default"

// Address is whose mailbox a message goes to. It always carries its tenant, so that no map and no key can mix two
// tenants up. It is comparable; the zero Address is not valid.
type Address struct {
	Tenant string // raw id
	Kind   Kind
	ID     string // raw id; empty for All only
}

// UserAddress is the mailbox of one user.
func UserAddress(tenant, user string) Address { return Address{Tenant: tenant, Kind: User, ID: user} }

// ParseAddress reads `user:<raw id>`, `topic:<raw id>` or `all`, the form addresses have everywhere but in subjects.
func ParseAddress(tenant, s string) (Address, error) {
	kind, id, _ := strings.Cut(s, ":")
	a := Address{Tenant: tenant, Kind: Kind(kind), ID: id}
	if a.Kind == All && s != string(All) {
		return Address{}, problem.New(problem.BadAddress, "%q: `all` has no id", s)
	}
	return a, a.Check()
}

// Check says whether the address is one that a message can go to.
func (a Address) Check() error {
	if err := CheckID(a.Tenant); err != nil {
		return err
	}
	switch a.Kind {
	case User, Topic:
		return CheckID(a.ID)
	case All:
		if a.ID != "" {
			return problem.New(problem.BadAddress, "`all` has no id, but %q was given", a.ID)
		}
		return nil
	default:
		return problem.New(problem.BadAddress, "the address kind %q is unknown; use user:<id>, topic:<id> or all", a.Kind)
	}
}

// String is the address as people and the wire write it, without its tenant: `user:42`, `all`.
func (a Address) String() string {
	if a.Kind == All {
		return string(All)
	}
	return string(a.Kind) + ":" + a.ID
}

// Tokens is the address as subjects and keys write it, with its tenant: `default.user.42`, `default.all`. It is
// injective: two addresses never share tokens.
func (a Address) Tokens() string {
	if a.Kind == All {
		return Encode(a.Tenant) + "." + string(All)
	}
	return Encode(a.Tenant) + "." + string(a.Kind) + "." + Encode(a.ID)
}

// ParseTokens is the reverse of Tokens and accepts nothing that Tokens does not make.
func ParseTokens(s string) (Address, error) {
	tenant, rest, _ := strings.Cut(s, ".")
	name, err := Decode(tenant)
	if err != nil {
		return Address{}, err
	}
	kind, token, hasID := strings.Cut(rest, ".")
	a := Address{Tenant: name, Kind: Kind(kind)}
	switch {
	case a.Kind == User || a.Kind == Topic:
		if strings.Contains(token, ".") && CheckID(token) == nil {
			return Address{}, problem.New(problem.BadEncoding, "an id with a dot in it can't stand in a subject as itself; write %s", Encode(token))
		}
		if a.ID, err = Decode(token); err != nil {
			return Address{}, err
		}
	case a.Kind == All && hasID: // not even an empty one: `default.all.` is no second name of `default.all`
		return Address{}, problem.New(problem.BadAddress, "`all` has no id, but %q was given", token)
	}
	return a, a.Check()
}
