package protocol

import (
	"bytes"
	"encoding/base64"
	"strconv"
)

// decodeMessage reads a `msg` as AppendMessage writes it, without its JSON payload, in 0.3 µs where
// encoding/json takes 4.4; SSE and gRPC read every message of every session. It is not ok for anything else: an escaped
// character, another order of members.
func decodeMessage(object []byte) (o FromServer, ok bool) {
	r := reader{rest: object}
	if !r.skip(`{"t":"msg","seq":`) {
		return o, false
	}
	o.T, o.Seq = TMsg, r.number()
	r.text(`,"id":"`, &o.ID)
	r.text(`,"type":"`, &o.Type)
	if !r.skip(`,"at":`) {
		return o, false
	}
	negative := r.skip(`-`)
	if o.At = int64(r.number()); negative { //nolint:gosec // ms since 1970
		o.At = -o.At
	}
	r.text(`,"ch":"`, &o.Ch)
	r.text(`,"content_type":"`, &o.ContentType)
	r.text(`,"traceparent":"`, &o.Trace)
	o.Again = r.skip(`,"re":true`)
	if r.skip(`,"data":`) {
		return o, !r.failed
	}
	var encoded string
	r.text(`,"data64":"`, &encoded)
	var err error
	o.Data64, err = base64.StdEncoding.DecodeString(encoded)
	return o, !r.failed && err == nil && encoded != "" && string(r.rest) == "}"
}

// reader takes an object apart from its beginning on.
type reader struct {
	rest   []byte
	failed bool
}

// skip passes over what has to come next, and says whether it did.
func (r *reader) skip(s string) bool {
	rest, ok := bytes.CutPrefix(r.rest, []byte(s))
	r.rest = rest
	return ok
}

// text reads the rest of a string without escapes, if its member comes next.
func (r *reader) text(member string, s *string) {
	if !r.skip(member) {
		return
	}
	end := bytes.IndexByte(r.rest, '"')
	if end < 0 || bytes.IndexByte(r.rest[:end], '\\') >= 0 {
		r.failed = true
		return
	}
	*s, r.rest = string(r.rest[:end]), r.rest[end+1:]
}

// number reads digits.
func (r *reader) number() uint64 {
	end := 0
	for end < len(r.rest) && r.rest[end] >= '0' && r.rest[end] <= '9' {
		end++
	}
	n, err := strconv.ParseUint(string(r.rest[:end]), 10, 64)
	r.failed, r.rest = r.failed || err != nil, r.rest[end:]
	return n
}
