package identity

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/subject"
)

func TestRights(t *testing.T) {
	who := &Identity{Tenant: "acme", Topics: []string{"news", "octokit/*"}, Publish: []string{"user:*", "all"}, Expires: 1000}
	for topic, want := range map[string]bool{"news": true, "newsletter": false, "octokit/rest.js": true, "octokit": false, "": false} {
		if who.MayRead(topic) != want {
			t.Errorf("may read %q: %t, want %t", topic, !want, want)
		}
	}
	for to, want := range map[subject.Address]bool{
		subject.UserAddress("acme", "bob"):                      true,
		subject.UserAddress("other", "bob"):                     false,
		{Tenant: "acme", Kind: subject.All}:                     true,
		{Tenant: "acme", Kind: subject.Topic, ID: "news"}:       false,
		{Tenant: "acme", Kind: subject.Topic, ID: "x/user:bob"}: false,
	} {
		if who.MayPublish(to) != want {
			t.Errorf("may publish to %+v: %t, want %t", to, !want, want)
		}
	}
	if (&Identity{}).MayRead("") || (&Identity{Tenant: "acme"}).MayPublish(subject.UserAddress("acme", "bob")) {
		t.Error("without patterns nothing is allowed")
	}
	if who.Expired(time.UnixMilli(999)) || !who.Expired(time.UnixMilli(1000)) {
		t.Error("a token is good until its last millisecond, and not in it")
	}
}

func FuzzMatch(f *testing.F) {
	for _, c := range [][2]string{
		{"", ""},
		{"*", ""},
		{"*", "x"},
		{"a*a", "a"},
		{"a*a", "aa"},
		{"*a*", "bab"},
		{"a**b", "ab"},
		{"*ab*ab*", "abab"},
		{"*ab*abc", "ababc"},
		{"a*b*c", "abcbc"},
		{"***", "x"},
		{"ab", "*"},
		{"user:*", "user:*"},
		{".*", "x"},
		{"ü*", "üx"},
		{"*\xff", "\xc3\xff"},
	} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 100 || len(s) > 200 {
			return
		}
		if got, want := match(pattern, s), reference(pattern, s); got != want {
			t.Errorf("match(%q, %q) is %t, want %t", pattern, s, got, want)
		}
	})
}

// reference takes bytes as runes, so that a regular expression looks at the same units as match.
func reference(pattern, s string) bool {
	quoted := strings.ReplaceAll(regexp.QuoteMeta(latin(pattern)), `\*`, `.*`)
	return regexp.MustCompile(`(?s)\A` + quoted + `\z`).MatchString(latin(s))
}

func latin(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// TestMatchIsCheap holds for the worst pattern: a backtracking match would not come back.
func TestMatchIsCheap(t *testing.T) {
	pattern, s := strings.Repeat("*a", 500)+"b", strings.Repeat("a", 10_000)
	if match(pattern, s) {
		t.Error("there is no b")
	}
}
