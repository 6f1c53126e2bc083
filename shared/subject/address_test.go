package subject_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

func addresses() []subject.Address {
	var all []subject.Address
	for _, id := range ids() {
		all = append(all,
			subject.UserAddress(subject.DefaultTenant, id),
			subject.UserAddress(id, "alice"),
			subject.Address{Tenant: "default", Kind: subject.Topic, ID: id},
			subject.Address{Tenant: id, Kind: subject.All})
	}
	return all
}

func TestTokens(t *testing.T) {
	taken := map[string]subject.Address{}
	for _, a := range addresses() {
		tokens := a.Tokens()
		if other, ok := taken[tokens]; ok && other != a {
			t.Errorf("%+v and %+v share %q", a, other, tokens)
		}
		taken[tokens] = a
		if back, err := subject.ParseTokens(tokens); err != nil || back != a {
			t.Errorf("%+v came back from %q as %+v, %v", a, tokens, back, err)
		}
		if back, err := subject.ParseAddress(a.Tenant, a.String()); err != nil || back != a {
			t.Errorf("%+v came back from %q as %+v, %v", a, a.String(), back, err)
		}
	}
}

func TestParseTokensRefuses(t *testing.T) {
	for tokens, want := range map[string]problem.Code{
		"":                       problem.BadAddress,
		"default":                problem.BadAddress,
		"default.":               problem.BadAddress,
		"default.user":           problem.BadAddress,
		"default.user.":          problem.BadAddress,
		"default.users.alice":    problem.BadAddress,
		"default.all.":           problem.BadAddress, // `all` has no id, not even an empty one
		"default.all.x":          problem.BadAddress,
		"default.all.x.y":        problem.BadAddress,
		".user.alice":            problem.BadAddress,
		"default.user.a.b":       problem.BadEncoding,
		"default.user.=YWxpY2U":  problem.BadEncoding,
		"=ZGVmYXVsdA.user.alice": problem.BadEncoding,
		"default.user.*":         problem.BadEncoding,
		"default.user.alice.":    problem.BadEncoding,
		"default.USER.alice":     problem.BadAddress,
	} {
		if a, err := subject.ParseTokens(tokens); !errors.Is(err, problem.New(want, "")) {
			t.Errorf("ParseTokens(%q) is %+v, %v; want %s", tokens, a, err, want)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, s := range []string{"", "user", "user:", "topic:", "all:", "all:x", "alice", "User:alice", "user:" + strings.Repeat("x", 129), "user:\xff"} {
		if a, err := subject.ParseAddress("default", s); err == nil {
			t.Errorf("ParseAddress(%q) is %+v, want a problem", s, a)
		}
	}
}

// TestHint holds that somebody who put a dot into a subject is told what to write instead.
func TestHint(t *testing.T) {
	_, err := subject.ParseTokens("default.user.first.last")
	if err == nil || !strings.Contains(err.Error(), subject.Encode("first.last")) {
		t.Errorf("the refusal is %v, want the encoded form in it", err)
	}
}

func FuzzParseTokens(f *testing.F) {
	for _, a := range addresses() {
		f.Add(a.Tokens())
		f.Add(a.Tokens() + ".")
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := subject.ParseTokens(s)
		switch {
		case err == nil && (a.Check() != nil || a.Tokens() != s):
			t.Errorf("%q was taken for %+v, whose tokens are %q", s, a, a.Tokens())
		case err != nil && problem.From(err).Code == problem.InternalFault:
			t.Errorf("%q is refused with %v", s, err)
		case err == nil:
			if back, err := subject.ParseAddress(a.Tenant, a.String()); err != nil || back != a {
				t.Errorf("%+v came back from %q as %+v, %v", a, a.String(), back, err)
			}
		}
	})
}

func TestSubjects(t *testing.T) {
	a := subject.UserAddress("default", "a.b")
	for got, want := range map[string]string{
		subject.In(a):                                 "weft.in.default.user.=YS5i",
		subject.Publish(a):                            "weft.publish.default.user.=YS5i",
		subject.InPartition(3, a):                     "weft.inp.3.default.user.=YS5i",
		subject.InFilter(3):                           "weft.inp.3.>",
		subject.Msg(3, a):                             "weft.msg.3.default.user.=YS5i",
		subject.MsgFilter(3):                          "weft.msg.3.>",
		subject.Collect(3):                            "weft.collect.3",
		subject.Node("n1"):                            "weft.node.n1",
		subject.NodeControl("n1"):                     "weft.node.n1.ctl",
		subject.Ack("n1"):                             "weft.ack.n1",
		subject.Receipt(a.Tokens()):                   "weft.receipt.default.user.=YS5i",
		subject.Quarantine(problem.Empty, a.Tokens()): "weft.quarantine.empty.default.user.=YS5i",
		subject.Unaddressed("acme.user.*"):            "acme.unaddressed",
		subject.Unaddressed("a b.user.x"):             "default.unaddressed",
		subject.PartitionMapping(16):                  "weft.inp.{{partition(16)}}.>",
	} {
		if got != want {
			t.Errorf("the subject is %q, want %q", got, want)
		}
	}
	for _, s := range []string{subject.In(a), subject.Publish(a), subject.InPartition(12, a), subject.Msg(12, a)} {
		if tokens, ok := subject.Cut(s); !ok || tokens != a.Tokens() {
			t.Errorf("Cut(%q) is %q, %t", s, tokens, ok)
		}
	}
	for _, s := range []string{"", "weft.node.n1", "weft.inp.3", "weft.into.x"} {
		if tokens, ok := subject.Cut(s); ok {
			t.Errorf("Cut(%q) is %q, want none", s, tokens)
		}
	}
}

// TestPartition compares with the formula of the design; that the server computes the same is shared/embed's test.
func TestPartition(t *testing.T) {
	for i := range 1000 {
		a := subject.UserAddress("default", fmt.Sprint("user", i))
		h := fnv.New32a()
		h.Write([]byte("weft.in." + a.Tokens()))
		if got, want := subject.Partition(a, 16), int(h.Sum32()%16); got != want {
			t.Fatalf("%s is in partition %d, want %d", a, got, want)
		}
	}
}
