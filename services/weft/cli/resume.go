package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/weftpush/weft/shared/admin"
)

// resumption is where a replay that was stopped goes on. As text it is
//
//	<run>:<started>:<position>:<counts>:<sum>
//
// in which position is base64url of what the fabric said, counts are those of ReplayCount and what was expected with dots
// between them, and sum is of the filter, so that no other replay is taken up by mistake.
type resumption struct {
	run      string
	started  int64
	position admin.ReplayPosition
	done     admin.ReplayCount
	expected int // messages that matched when it began; 0: not known
	sum      string
}

func (r *resumption) String() string {
	at, _ := json.Marshal(r.position) //nolint:errchkjson // strings, numbers and a bool
	d := r.done
	return fmt.Sprintf("%s:%d:%s:%d.%d.%d.%d.%d.%d:%s", r.run, r.started, base64.RawURLEncoding.EncodeToString(at), d.Read, d.Matched, d.Sent, d.Copied, d.Waiting, r.expected, r.sum)
}

// readResumption reads what String wrote.
func readResumption(text string) (resumption, error) {
	bad := usagef("--resume is what a replay that was stopped has printed; %q is not", text)
	parts := strings.Split(text, ":")
	if len(parts) != 5 || parts[0] == "" {
		return resumption{}, bad
	}
	r := resumption{run: parts[0], sum: parts[4]}
	var err error
	number := func(s string) int64 {
		n, wrong := strconv.ParseInt(s, 10, 64)
		if wrong != nil || n < 0 {
			err = bad
		}
		return n
	}
	r.started = number(parts[1])
	at, wrong := base64.RawURLEncoding.DecodeString(parts[2])
	counts := strings.Split(parts[3], ".")
	if wrong != nil || len(counts) != 6 || json.Unmarshal(at, &r.position) != nil {
		return resumption{}, bad
	}
	for i, into := range []*int{&r.done.Read, &r.done.Matched, &r.done.Sent, &r.done.Copied, &r.done.Waiting, &r.expected} {
		*into = int(number(counts[i]))
	}
	return r, err
}

// sumOf is a few letters that differ when the filter or the force does.
func sumOf(f admin.Filter, force bool) string {
	text, _ := json.Marshal(f) //nolint:errchkjson // strings and numbers
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s %t", text, force) // a hash takes everything
	return strconv.FormatUint(uint64(h.Sum32()), 36)
}
