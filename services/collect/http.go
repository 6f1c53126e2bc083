package collect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// bodyMost is the largest body of POST /v1/messages, in bytes.
	bodyMost = 8 << 20
	// postMost is the most messages of one POST.
	postMost = 1000
	// postsAtOnce is how many POSTs with a good token are worked on at once, each with a body of up to bodyMost. The
	// next one waits postWait for its turn, then is told to come back.
	postsAtOnce = 64
	postWait    = time.Second
	// bodyTimeout is how long a body may take to arrive.
	bodyTimeout = 30 * time.Second
)

// post is one message of POST /v1/messages. Data is kept as the bytes it came in.
type post struct {
	To          string          `json:"to"`
	ID          string          `json:"id"`
	Type        string          `json:"type"`
	Data        json.RawMessage `json:"data"`
	Data64      []byte          `json:"data64"`
	ContentType string          `json:"content_type"`
	TTL         string          `json:"ttl"`
	Trace       string          `json:"traceparent"`
	NotBefore   string          `json:"not_before"`
	Collapse    string          `json:"collapse"`
	Receipt     string          `json:"receipt"`
}

// posted is the answer for one message of several: its receipt, or its problem.
type posted struct {
	*message.Receipt
	Error *problem.Problem `json:"error,omitempty"`
}

// httpDoor serves POST /v1/messages and gRPC, with the answers of the request door. When serving ends, so do the requests under
// way: their messages are archived, or the answer is to send them again.
func (s *Service) httpDoor(serving context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(serving, cancel)()
		answer, err := s.takePost(ctx, w, r) //nolint:contextcheck // it is the request's, ended early
		if err != nil {
			refuseHTTP(w, err)
			return
		}
		answerHTTP(w, http.StatusOK, answer)
	})
	s.serveGRPC(serving, mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuseHTTP(w, problem.New(problem.NotFound, "there is no %s %s here; publish with POST /v1/messages or weft.v1.PublishService", r.Method, r.URL.Path))
	})
	return mux
}

// takePost publishes one message, or an array of them in order. One message's problem is the answer's; of an array
// each has its own, and nothing is published unless all can be read.
func (s *Service) takePost(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	who, err := s.bearer(ctx, r)
	if err != nil {
		return nil, err
	}
	leave, err := occupy(s.posts)
	if err != nil {
		return nil, err
	}
	defer leave()
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		return s.takePosts(ctx, who, body)
	}
	var p post
	if err := strictly(body, &p); err != nil {
		return nil, err
	}
	m, err := s.fromPost(who, p)
	if err != nil {
		return nil, err
	}
	receipt, err := s.pass(ctx, m)
	if err != nil {
		return nil, byMember(err)
	}
	return receipt, nil
}

// bearer is who sends a request.
func (s *Service) bearer(ctx context.Context, r *http.Request) (*identity.Identity, error) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return nil, problem.New(problem.Unauthorized, "no token: send Authorization: Bearer <token>")
	}
	return identity.Verify(ctx, s.nc, token)
}

// occupy takes one of some places, which leave gives back.
func occupy(places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-time.After(postWait):
		return nil, problem.New(problem.Busy, "too many publish at once; try again in a moment")
	}
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // a writer that has none is a test's
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMost))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, problem.New(problem.TooLarge, "the body is over %d bytes; send fewer messages at once", bodyMost)
	} else if err != nil {
		return nil, problem.New(problem.BadRequest, "the body can't be read: %v", err)
	}
	_ = control.SetReadDeadline(time.Time{}) // else the request would count as given up when it passes
	return body, nil
}

// takePosts publishes in order. After a message that may or may not have been archived no other is tried: the
// publisher sends it again, and what stands behind it must not have gone ahead.
func (s *Service) takePosts(ctx context.Context, who *identity.Identity, body []byte) ([]posted, error) {
	var posts []json.RawMessage
	if err := strictly(body, &posts); err != nil {
		return nil, err
	}
	if len(posts) > postMost {
		return nil, problem.New(problem.TooLarge, "%d messages are too many for one request; the most is %d", len(posts), postMost)
	}
	messages := make([]*message.Message, len(posts))
	for i, raw := range posts {
		var p post
		err := strictly(raw, &p)
		var m *message.Message
		if err == nil {
			m, err = s.fromPost(who, p)
		}
		if err != nil {
			return nil, indexed(err, i)
		}
		messages[i] = m
	}
	answers := make([]posted, len(messages))
	for i, m := range messages {
		receipt, err := s.pass(ctx, m)
		if err == nil {
			answers[i].Receipt = receipt
			continue
		}
		answers[i].Error = byMember(err)
		if answers[i].Error.Retry {
			for later := i + 1; later < len(answers); later++ {
				answers[later].Error = problem.New(problem.Unavailable, "not tried, because message %d of this request failed; send both again, in order", i)
			}
			break
		}
	}
	return answers, nil
}

// fromPost makes a message of a post and checks it, and the publisher's right to send it.
func (s *Service) fromPost(who *identity.Identity, p post) (*message.Message, error) {
	to, err := subject.ParseAddress(who.Tenant, p.To)
	if err != nil {
		return nil, problem.From(err).In("to")
	}
	if !who.MayPublish(to) {
		return nil, problem.New(problem.Forbidden, "the token does not allow to publish to %s", to).In("to")
	}
	for _, f := range []struct{ name, value string }{{"not_before", p.NotBefore}, {"collapse", p.Collapse}} {
		if f.value != "" {
			return nil, problem.New(problem.Unsupported, "%s is part of the contract, but this version does not do it yet; publish without it", f.name).In(f.name)
		}
	}
	m := &message.Message{To: to, ID: p.ID, Type: p.Type, ContentType: p.ContentType, Trace: p.Trace, At: time.Now().UnixMilli(), Payload: p.Data}
	if len(p.Data64) > 0 {
		if len(p.Data) > 0 {
			return nil, problem.New(problem.BadRequest, "data and data64 exclude each other").In("data64")
		}
		m.Payload = p.Data64
	}
	if p.TTL != "" {
		if err := m.ExpireAfter(p.TTL); err != nil {
			return nil, byMember(err)
		}
	}
	if p.Receipt != "" {
		if err := m.AskReceipt(p.Receipt); err != nil {
			return nil, byMember(err)
		}
	}
	if err := m.Check(s.cfg.Limits); err != nil {
		return nil, byMember(err)
	}
	return m, nil
}

// byMember names the member where a problem names the header of the other doors. A problem of the payload has no
// header.
func byMember(err error) *problem.Problem {
	p := *problem.From(err)
	switch p.Field {
	case message.HeaderID:
		p.Field = "id"
	case message.HeaderType:
		p.Field = "type"
	case message.HeaderTTL:
		p.Field = "ttl"
	case message.HeaderReceipt:
		p.Field = "receipt"
	case message.HeaderContentType:
		p.Field = "content_type"
	}
	if p.Field == "" && (p.Code == problem.Empty || p.Code == problem.TooLarge || p.Code == problem.BadJSON) {
		p.Field = "data"
	}
	return &p
}

// strictly decodes JSON and refuses members that nobody knows: a misspelt `tll` must not be a message for ever.
func strictly(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("there is more behind the first value")
		}
	}
	if err != nil {
		return unread(err)
	}
	return nil
}

// unread is the problem of a body that is not as it should be. Where a member has a value of another kind, or is unknown,
// it says which and what is meant.
func unread(err error) *problem.Problem {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field == "" {
		return problem.New(problem.BadRequest, "a JSON %s is no message; send an object such as {\"to\":\"user:alice\",\"data\":1}, or an array of them", wrong.Value)
	} else if ok {
		return problem.New(problem.BadRequest, "%s must be %s, and is a JSON %s", wrong.Field, memberKind(wrong.Field), wrong.Value).In(wrong.Field)
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return problem.New(problem.BadRequest, "data64 must be %s: %v", memberKind("data64"), err).In("data64")
	}
	if _, name, ok := strings.Cut(err.Error(), "json: unknown field "); ok { // the library has no type for it
		name = strings.Trim(name, `"`)
		return problem.New(problem.BadRequest, "there is no member %q; a message has to, id, type, data or data64, content_type, ttl, traceparent and receipt", name).In(name)
	}
	return problem.New(problem.BadRequest, "the body is not a message or an array of messages as JSON: %v", err)
}

// memberKind is what the value of a member has to be.
func memberKind(name string) string {
	switch name {
	case "to":
		return `a string such as "user:alice"`
	case "ttl":
		return `a string such as "90s" or "24h"`
	case "receipt":
		return `the string "delivered"`
	case "data64":
		return "a string of standard base64, with padding"
	default:
		return "a string"
	}
}

// indexed says which message of an array a problem belongs to.
func indexed(err error, i int) error {
	p := *problem.From(err)
	p.Field = strings.TrimSuffix(fmt.Sprintf("[%d].%s", i, p.Field), ".")
	return &p
}

// refuseHTTP answers with a problem.
func refuseHTTP(w http.ResponseWriter, err error) {
	p := problem.From(err)
	if p.Retry {
		w.Header().Set("Retry-After", "1")
	}
	answerHTTP(w, p.Status(), p)
}

func answerHTTP(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // people read it in a terminal: user:<id>
	_ = e.Encode(answer)   // fails when the publisher is gone
}
