package protocol

import (
	"strconv"
	"strings"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// LastEventID is the header by which a client of Server-Sent Events says where it stands.
const LastEventID = "Last-Event-ID"

// CursorToken is how the id of an event names an address: `user.alice`, `topic.=w7Y`, `all`. No two addresses of a tenant
// share a token, and none contains a comma or ends in `=`.
func CursorToken(a subject.Address) string {
	_, token, _ := strings.Cut(a.Tokens(), ".")
	return token
}

// AppendEventID begins the id of an event of Server-Sent Events: `<epoch>:<cursors>`. With AppendCursor for each address it
// says where a client stands that has handled the event and all before it, in the words of `hello`:
// `e1:user.alice=7,topic.news=3`.
func AppendEventID(b []byte, epoch string) []byte {
	return append(append(b, subject.Encode(epoch)...), ':')
}

// AppendCursor appends one cursor to an id that AppendEventID has begun.
func AppendCursor(b []byte, token string, seq uint64) []byte {
	if b[len(b)-1] != ':' {
		b = append(b, ',')
	}
	return strconv.AppendUint(append(append(b, token...), '='), seq, 10)
}

// ParseEventID reads the id of an event as the epoch and cursors of a `hello`. The error is a *problem.Problem.
func ParseEventID(id string) (epoch string, cursors map[string]uint64, err error) {
	token, list, ok := strings.Cut(id, ":")
	if !ok {
		return "", nil, badEventID("%q has no colon", id)
	}
	if epoch, err = subject.Decode(token); err != nil {
		return "", nil, badEventID("its epoch: %v", err)
	}
	cursors = make(map[string]uint64)
	if list == "" {
		return epoch, cursors, nil
	}
	for cursor := range strings.SplitSeq(list, ",") {
		at := max(strings.LastIndexByte(cursor, '='), 0)
		a, err := subject.ParseTokens(subject.DefaultTenant + "." + cursor[:at])
		if err != nil {
			return "", nil, badEventID("the address in %q: %v", cursor, err)
		}
		seq, err := strconv.ParseUint(strings.TrimPrefix(cursor[at:], "="), 10, 64)
		if err != nil {
			return "", nil, badEventID("the sequence in %q is no number", cursor)
		}
		if _, twice := cursors[a.String()]; twice {
			return "", nil, badEventID("%s is there twice", a)
		}
		cursors[a.String()] = seq
	}
	return epoch, cursors, nil
}

func badEventID(format string, args ...any) error {
	why := problem.New(problem.BadHeader, format, args...)
	why.Message = "this is no id that an event had: " + why.Message + "; send it as it came, or not at all"
	return why.In(LastEventID)
}
