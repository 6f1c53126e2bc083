package subject_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// maxToken is what an id of subject.MaxID bytes becomes: 1 + ceil(128 * 4 / 3) bytes.
const maxToken = 172

// ids are plain ones and every kind that is not.
func ids() []string {
	return []string{
		"alice", "A-Z_09", "42", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 128),
		"a.b", "*", ">", "a b", " ", "\t", "\x00", "\r\n", "=", "=YQ", "dependabot[bot]", "octokit/rest.js", "a:b", "{a}",
		"ü", "日本語", "👩‍👩‍👧", strings.Repeat("é", 64), "all", "user", "$JS", "_INBOX", "\u2028",
	}
}

func TestEncode(t *testing.T) {
	taken := map[string]string{}
	for _, id := range ids() {
		token := subject.Encode(id)
		assertLegal(t, id, token)
		if other, ok := taken[token]; ok {
			t.Errorf("%q and %q share the token %q", id, other, token)
		}
		taken[token] = id
		if back, err := subject.Decode(token); err != nil || back != id {
			t.Errorf("%q came back from %q as %q, %v", id, token, back, err)
		}
	}
	if subject.Encode("alice") != "alice" || subject.Encode("a.b") != "=YS5i" {
		t.Error("a plain id stands for itself, any other for = and base64url")
	}
}

func assertLegal(t *testing.T, id, token string) {
	t.Helper()
	if token == "" || len(token) > maxToken {
		t.Errorf("the token of %q has %d bytes", id, len(token))
	}
	for _, c := range []byte(token) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(".*>", c) >= 0 {
			t.Errorf("the token %q of %q has %q in it", token, id, c)
		}
	}
}

// TestDecodeRefuses lists second encodings, which would be second mailboxes, and what is no encoding at all.
func TestDecodeRefuses(t *testing.T) {
	for token, want := range map[string]problem.Code{
		"":                                      problem.BadAddress,
		"=":                                     problem.BadAddress,
		"a b":                                   problem.BadEncoding,
		"a.b":                                   problem.BadEncoding,
		"ü":                                     problem.BadEncoding,
		strings.Repeat("x", 65):                 problem.BadEncoding, // must be encoded
		strings.Repeat("x", 129):                problem.IDTooLong,
		"=YWxpY2U":                              problem.BadEncoding, // alice, needlessly encoded
		"=YS5i=":                                problem.BadEncoding, // padding
		"=YS5i\n":                               problem.BadEncoding, // the decoder passes over line breaks
		"=YS\r5i":                               problem.BadEncoding,
		"=Kh":                                   problem.BadEncoding, // `*` with a bit set that no byte has
		"=+/8":                                  problem.BadEncoding, // the other alphabet
		"=_w":                                   problem.BadAddress,  // not UTF-8
		"\xff":                                  problem.BadAddress,
		subject.Encode(strings.Repeat("é", 65)): problem.IDTooLong,
	} {
		_, err := subject.Decode(token)
		if !errors.Is(err, problem.New(want, "")) {
			t.Errorf("Decode(%q) says %v, want %s", token, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, id := range ids() {
		f.Add(id)
		f.Add(subject.Encode(id))
	}
	f.Fuzz(func(t *testing.T, s string) {
		// As a token: what is accepted is the one encoding of its id.
		if id, err := subject.Decode(s); err == nil {
			if subject.CheckID(id) != nil || subject.Encode(id) != s {
				t.Errorf("the token %q was taken for %q, whose token is %q", s, id, subject.Encode(id))
			}
		} else if p := problem.From(err); p.Code == problem.InternalFault || !utf8.ValidString(p.Message) {
			t.Errorf("Decode(%q) is refused with %v", s, err)
		}
		// As an id: its token is legal and comes back.
		if subject.CheckID(s) == nil {
			token := subject.Encode(s)
			assertLegal(t, s, token)
			if id, err := subject.Decode(token); err != nil || id != s {
				t.Errorf("%q came back from %q as %q, %v", s, token, id, err)
			}
		}
	})
}
