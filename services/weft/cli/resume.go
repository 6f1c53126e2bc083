package cli

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/weftpush/weft/shared/admin"
)

// The parts of a replay: what is read from the archive, and from the log. Before the first page it is neither.
const (
	inArchive = "a"
	inLog     = "l"
)

// resumption is where a replay that was stopped goes on. As text it is
//
//	<run>:<started>:<position>:<counts>:<sum>
//
// in which position is a/<address>/<seq> or l/<partition>/<sequence>, counts are those of ReplayCount with dots between them,
// and sum is of the filter, so that no other replay is taken up by mistake.
type resumption struct {
	run      string
	started  int64
	position admin.ReplayPosition
	done     admin.ReplayCount
	sum      string
}

func (r *resumption) String() string {
	at := fmt.Sprintf("%s/%s/%d", inArchive, r.position.Place.Address, r.position.Place.Seq)
	if r.position.Archived {
		at = fmt.Sprintf("%s/%d/%d", inLog, r.position.Partition, r.position.Sequence)
	}
	d := r.done
	return fmt.Sprintf("%s:%d:%s:%d.%d.%d.%d.%d:%s", r.run, r.started, at, d.Read, d.Matched, d.Sent, d.Copied, d.Waiting, r.sum)
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
	at, counts := strings.Split(parts[2], "/"), strings.Split(parts[3], ".")
	if len(at) != 3 || len(counts) != 5 {
		return resumption{}, bad
	}
	switch last := uint64(number(at[2])); at[0] { //nolint:gosec // not below zero
	case inArchive:
		r.position.Place = admin.Place{Address: at[1], Seq: last}
	case inLog:
		r.position = admin.ReplayPosition{Archived: true, Partition: int(number(at[1])), Sequence: last}
	default:
		return resumption{}, bad
	}
	for i, into := range []*int{&r.done.Read, &r.done.Matched, &r.done.Sent, &r.done.Copied, &r.done.Waiting} {
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
