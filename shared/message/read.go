package message

import (
	"encoding/json"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// Headers that a publisher can set, in their canonical spelling. They are compared without regard to case.
const (
	HeaderID          = "Weft-Id"
	HeaderType        = "Weft-Type"
	HeaderTTL         = "Weft-TTL"
	HeaderContentType = "Content-Type"
	HeaderTrace       = "traceparent"
	HeaderNotBefore   = "Weft-Not-Before"
	HeaderCollapse    = "Weft-Collapse"
	HeaderReceipt     = "Weft-Receipt"
	HeaderTo          = "Weft-To"

	headerNATSID     = "Nats-Msg-Id"
	headerCloudID    = "ce-id"
	headerCloudType  = "ce-type"
	cloudEvents      = "application/cloudevents"
	maxMessageID     = 256 // bytes of a message's id: it is part of an index key in the archive
	maxType          = 256 // bytes of a message's type
	maxContentType   = 256 // bytes of a content type
	maxTrace         = 128 // bytes of a traceparent; version 00 has 55
	maxTTL           = 366 * 24 * time.Hour
	unsupportedShape = "%s is part of the contract, but this version does not do it yet; publish without it"
)

// Limits bounds what a publisher may send.
type Limits struct {
	Payload int // most bytes of a payload
}

// Read makes a message of what a NATS publisher sent: at is the moment of acceptance. The id is left empty when the
// publisher gave none; the door that took the message chooses one. The error is always a *problem.Problem; the message
// is there all the same, because its id names what was refused.
func Read(to subject.Address, header map[string][]string, payload []byte, at time.Time, limits Limits) (*Message, error) {
	h := headers(header)
	m := &Message{
		To: to, At: at.UnixMilli(), Payload: payload,
		ID:          h.first(HeaderID, headerNATSID, headerCloudID),
		Type:        h.first(HeaderType, headerCloudType),
		ContentType: h.first(HeaderContentType),
		Trace:       h.first(HeaderTrace),
	}
	for _, name := range []string{HeaderNotBefore, HeaderCollapse, HeaderTo} {
		if h.first(name) != "" {
			return m, problem.New(problem.Unsupported, unsupportedShape, name).In(name)
		}
	}
	if ttl := h.first(HeaderTTL); ttl != "" {
		if err := m.ExpireAfter(ttl); err != nil {
			return m, err
		}
	}
	if receipt := h.first(HeaderReceipt); receipt != "" {
		if err := m.AskReceipt(receipt); err != nil {
			return m, err
		}
	}
	return m, m.Check(limits)
}

// AskReceipt notes that the publisher wants receipts; what says which. Only messages to users have them: how far the
// devices of a topic are is counted, not told one by one.
func (m *Message) AskReceipt(what string) error {
	switch {
	case what != string(StateDelivered):
		return problem.New(problem.BadHeader, "the receipt %.64q is unknown; ask for `delivered`, or leave it out", what).In(HeaderReceipt)
	case m.To.Kind != subject.User:
		return problem.New(problem.Unsupported, "there are no receipts for messages to %s, only to users; publish without it, or to each user", m.To).In(HeaderReceipt)
	}
	m.Receipt = true
	return nil
}

// ExpireAfter sets Expires from a TTL as publishers write it: a Go duration such as 90s or 24h, or whole seconds.
func (m *Message) ExpireAfter(ttl string) error {
	if strings.Trim(ttl, "0123456789") == "" {
		ttl += "s"
	}
	d, err := time.ParseDuration(ttl)
	if err != nil || d < time.Millisecond || d > maxTTL {
		return problem.New(problem.BadHeader, "the TTL %.64q is not a time between 1ms and %s, such as 30s, 90m or 24h", ttl, maxTTL).In(HeaderTTL)
	}
	m.Expires = m.At + d.Milliseconds()
	return nil
}

// Check is the one validation of a message, whichever door it came through. It sets the content type of a message
// that names none. The error is always a *problem.Problem.
func (m *Message) Check(limits Limits) error {
	if m.ContentType == "" {
		m.ContentType = JSON
	}
	for _, f := range []struct {
		name, value string
		most        int
	}{{HeaderID, m.ID, maxMessageID}, {HeaderType, m.Type, maxType}, {HeaderContentType, m.ContentType, maxContentType}, {HeaderTrace, m.Trace, maxTrace}} {
		if len(f.value) > f.most || !utf8.ValidString(f.value) {
			return problem.New(problem.BadHeader, "%s must be UTF-8 of at most %d bytes", f.name, f.most).In(f.name)
		}
	}
	// Clients decide by it how to read the payload, each with a parser of its own: it must mean the same to all.
	if _, _, err := mime.ParseMediaType(m.ContentType); err != nil {
		return problem.New(problem.BadHeader, "the content type %q can't be read (%v); write it like application/json or text/plain; charset=utf-8", m.ContentType, err).In(HeaderContentType)
	}
	switch {
	case len(m.Payload) == 0:
		return problem.New(problem.Empty, "the message has no payload; send at least `null`")
	case len(m.Payload) > limits.Payload:
		return problem.New(problem.TooLarge, "the payload has %d bytes; the most is %d: publish a link to what is larger", len(m.Payload), limits.Payload)
	case strings.HasPrefix(strings.ToLower(m.ContentType), cloudEvents):
		return problem.New(problem.Unsupported, unsupportedShape, "the structured mode of CloudEvents").In(HeaderContentType)
	case m.IsJSON() && (!json.Valid(m.Payload) || !utf8.Valid(m.Payload)):
		return problem.New(problem.BadJSON, "the content type is %s, but the payload is not JSON in UTF-8; set Content-Type to what it is", m.ContentType)
	}
	return nil
}

// IsJSON says whether the content type is JSON: application/json or any type that ends in +json.
func (m *Message) IsJSON() bool {
	if m.ContentType == JSON {
		return true
	}
	media, _, err := mime.ParseMediaType(m.ContentType)
	return err == nil && (media == JSON || strings.HasSuffix(media, "+json"))
}

// headers looks names up without regard to case: NATS keeps the publisher's spelling, and programs differ.
type headers map[string][]string

// first is the value of the first name that is there and not empty. Where a publisher used several spellings of one
// name, the canonical one counts, else the first in the order of bytes: a redelivery must read the same id.
func (h headers) first(names ...string) string {
	for _, name := range names {
		if v := h[name]; len(v) > 0 && v[0] != "" {
			return v[0]
		}
		var spelling, value string
		for key, v := range h {
			if strings.EqualFold(key, name) && len(v) > 0 && v[0] != "" && (spelling == "" || key < spelling) {
				spelling, value = key, v[0]
			}
		}
		if value != "" {
			return value
		}
	}
	return ""
}
