package subject

import (
	"encoding/base64"
	"unicode/utf8"

	"github.com/weftpush/weft/shared/problem"
)

const (
	// MaxID is the longest id of a tenant, user, topic or device, in bytes. Longer ones are refused everywhere: a
	// 5,000-byte token closes the shared connection of the service that subscribes to it (nats-server 2.15.2).
	MaxID = 128
	// maxPlain is the longest id that goes into a subject as itself, in bytes.
	maxPlain = 64
	// escape begins the token of an id that can't stand for itself. It is outside the plain alphabet.
	escape = '='
)

// CheckID says whether id may name a tenant, a user, a topic or a device: 1 to MaxID bytes of UTF-8.
func CheckID(id string) error {
	switch {
	case id == "":
		return problem.New(problem.BadAddress, "the id is empty; name the user, topic, device or tenant")
	case len(id) > MaxID:
		return problem.New(problem.IDTooLong, "the id has %d bytes; the most is %d", len(id), MaxID)
	case !utf8.ValidString(id):
		return problem.New(problem.BadAddress, "the id is not UTF-8")
	}
	return nil
}

// Encode is the one legal subject token of an id: the id itself if it matches [A-Za-z0-9_-]{1,64}, else `=` and its
// base64url without padding. The id must have passed CheckID; the token is at most 172 bytes then.
func Encode(id string) string {
	if plain(id) {
		return id
	}
	return string(escape) + base64.RawURLEncoding.EncodeToString([]byte(id))
}

// Decode is the id whose token this is. A token that is not exactly what Encode makes of some id is refused, with
// the right one in the sentence where it can be told.
func Decode(token string) (string, error) {
	if token == "" || token[0] != escape {
		if err := CheckID(token); err != nil {
			return "", err
		}
		if want := Encode(token); want != token {
			return "", problem.New(problem.BadEncoding, "the id %q can't stand in a subject as itself; write %s", token, want)
		}
		return token, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token[1:])
	if err != nil {
		return "", problem.New(problem.BadEncoding, "%q is not `=` followed by base64url without padding", token)
	}
	id := string(raw)
	if err := CheckID(id); err != nil {
		return "", err
	}
	// The decoder passes over line breaks, and a plain id may have been encoded needlessly: both are second
	// encodings of one id, which would be a second mailbox.
	if want := Encode(id); want != token {
		return "", problem.New(problem.BadEncoding, "%q is not the encoding of its id; write %s", token, want)
	}
	return id, nil
}

func plain(id string) bool {
	if id == "" || len(id) > maxPlain {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
