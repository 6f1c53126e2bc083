package collect

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// door is the HTTP door of a collect, with an auth that knows one token.
type door struct {
	*world
	service *running
	url     string
	client  *http.Client
}

func newDoor(t *testing.T) *door {
	t.Helper()
	w := newWorld(t)
	w.auth()
	r := w.start()
	w.archived(subject.Publish(subject.UserAddress("default", "warm-up")), `1`)
	server := httptest.NewServer(r.httpDoor(t.Context()))
	t.Cleanup(server.Close)
	return &door{world: w, service: r, url: server.URL + "/v1/messages", client: server.Client()}
}

// auth stands in for auth, which knows the tokens good and brief; brief is good for half a second from the first time it
// is shown.
func (w *world) auth() {
	w.t.Helper()
	brief := sync.OnceValue(func() int64 { return time.Now().Add(500 * time.Millisecond).UnixMilli() })
	auth, err := w.nc.Subscribe(subject.AuthVerify, func(m *nats.Msg) {
		who := identity.Identity{Tenant: "default", User: "shop", Publish: []string{"user:*"}, Expires: time.Now().Add(time.Hour).UnixMilli()}
		switch decode[identity.VerifyRequest](w.t, m.Data).Token {
		case "good":
		case "brief":
			who.Expires = brief()
		default:
			_ = m.RespondMsg(rpc.Refusal(problem.New(problem.Unauthorized, "a bad token")))
			return
		}
		body, _ := json.Marshal(who)
		_ = m.Respond(body)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = auth.Unsubscribe() })
}

// post sends a body and returns the answer's status, headers and body.
func (d *door) post(token, body string) (int, http.Header, []byte) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, d.url, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if got := answer.Header.Get("Content-Type"); got != "application/json" {
		d.t.Errorf("content type %q", got)
	}
	return answer.StatusCode, answer.Header, data
}

func TestPost(t *testing.T) {
	d := newDoor(t)
	status, _, body := d.post("good", `{"to":"user:alice","id":"a","type":"t","ttl":"1h","traceparent":"00-1","data":{"b": 1, "a": 1.0}}`)
	r := decode[message.Receipt](t, body)
	if status != http.StatusOK || r.ID != "a" || r.Seq != 1 || r.To != "user:alice" || r.State != message.StateArchived {
		t.Errorf("%d %s", status, body)
	}
	if status, _, body = d.post("good", `{"to":"user:al.ice >*","data64":"AP8=","content_type":"application/octet-stream"}`); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if status, _, body = d.post("good", `{"to":"user:alice","data":null}`); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	log := d.logged(4)
	if m := log[1]; string(m.Payload) != `{"b": 1, "a": 1.0}` || m.Type != "t" || m.Trace != "00-1" || m.Expires == 0 || m.To != alice {
		t.Errorf("%+v", m)
	}
	if m := log[2]; string(m.Payload) != "\x00\xff" || m.To.ID != "al.ice >*" {
		t.Errorf("%+v", m)
	}
	if string(log[3].Payload) != "null" {
		t.Errorf("%s", log[3].Payload)
	}
}

func TestPostRefuses(t *testing.T) {
	d := newDoor(t)
	if status, _, _ := d.post("good", `{"to":"user:alice","id":"taken","data":1}`); status != http.StatusOK {
		t.Fatal(status)
	}
	for _, c := range []struct {
		token, body string
		status      int
		code        problem.Code
		field       string
	}{
		{"", `{}`, 401, problem.Unauthorized, ""},
		{"bad", `{}`, 401, problem.Unauthorized, ""},
		{"good", `{`, 400, problem.BadRequest, ""},
		{"good", ``, 400, problem.BadRequest, ""},
		{"good", `{"to":"user:alice","data":1}}`, 400, problem.BadRequest, ""},
		{"good", `{"to":"user:alice","data":1}]`, 400, problem.BadRequest, ""},
		{"good", `{"to":"user:alice","data":1} {}`, 400, problem.BadRequest, ""},
		{"good", `{"to":"user:alice","data":1,"tll":"1h"}`, 400, problem.BadRequest, "tll"},
		{"good", `[{"to":"user:alice","data":1,"tll":"1h"}]`, 400, problem.BadRequest, "[0].tll"},
		{"good", `null`, 422, problem.BadAddress, "to"},
		{"good", `{"to":"robot:1","data":1}`, 422, problem.BadAddress, "to"},
		{"good", `{"to":"user:` + strings.Repeat("a", 129) + `","data":1}`, 422, problem.IDTooLong, "to"},
		{"good", `{"to":"topic:news","data":1}`, 403, problem.Forbidden, "to"},
		{"good", `{"to":"user:alice"}`, 422, problem.Empty, "data"},
		{"good", `{"to":"user:alice","data":1,"data64":"AA=="}`, 400, problem.BadRequest, "data64"},
		{"good", `{"to":"user:alice","data64":"e30=x"}`, 400, problem.BadRequest, "data64"},
		{"good", `{"to":"user:alice","data64":"ew=="}`, 422, problem.BadJSON, "data"},
		{"good", `{"to":"user:alice","data":1,"ttl":"soon"}`, 422, problem.BadHeader, "ttl"},
		{"good", `{"to":"user:alice","data":1,"type":"` + strings.Repeat("t", 257) + `"}`, 422, problem.BadHeader, "type"},
		{"good", `{"to":"user:alice","data":1,"content_type":"application/cloudevents+json"}`, 422, problem.Unsupported, "content_type"},
		{"good", `{"to":"user:alice","data":1,"not_before":"x","receipt":"delivered"}`, 422, problem.Unsupported, "not_before"},
		{"good", `{"to":"user:alice","data":1,"receipt":"read"}`, 422, problem.BadHeader, "receipt"},
		{"good", `{"to":"user:alice","data":2,"id":"taken"}`, 409, problem.Conflict, "id"},
		{"good", `{"to":"user:alice","data":"` + strings.Repeat("x", 64<<10) + `"}`, 413, problem.TooLarge, "data"},
		{"good", `"` + strings.Repeat("x", bodyMost) + `"`, 413, problem.TooLarge, ""},
		{"good", `[` + strings.Repeat(`{},`, postMost) + `{}]`, 413, problem.TooLarge, ""},
		{"good", `[{"to":"user:alice","data":1},{"to":"user:alice","data":1,"ttl":"x"}]`, 422, problem.BadHeader, "[1].ttl"},
		{"good", `[{"to":"user:alice","data":1},{"to":"nobody"}]`, 422, problem.BadAddress, "[1].to"},
	} {
		status, h, body := d.post(c.token, c.body)
		p := decode[problem.Problem](t, body)
		if status != c.status || p.Code != c.code || p.Field != c.field || p.Message == "" || p.Retry || h.Get("Retry-After") != "" {
			t.Errorf("%.100s: %d %s", c.body, status, body)
		}
	}
	d.logged(2) // nothing of an array that can't be read is published
}

// A member with a value of another kind is named, with what it has to be, in words that are not a library's.
func TestPostSaysWhatAMemberHasToBe(t *testing.T) {
	d := newDoor(t)
	for body, want := range map[string]string{
		`{"to":"user:alice","data":1,"receipt":true}`:       `receipt: receipt must be the string "delivered", and is a JSON bool`,
		`{"to":5,"data":1}`:                                 `to: to must be a string such as "user:alice", and is a JSON number`,
		`{"to":"user:alice","data":1,"id":[]}`:              `id: id must be a string, and is a JSON array`,
		`{"to":"user:alice","data":1,"type":{}}`:            `type: type must be a string, and is a JSON object`,
		`{"to":"user:alice","data":1,"content_type":1}`:     `content_type: content_type must be a string, and is a JSON number`,
		`{"to":"user:alice","data":1,"ttl":90}`:             `ttl: ttl must be a string such as "90s" or "24h", and is a JSON number`,
		`{"to":"user:alice","data":1,"traceparent":1}`:      `traceparent: traceparent must be a string, and is a JSON number`,
		`{"to":"user:alice","data":1,"not_before":1}`:       `not_before: not_before must be a string, and is a JSON number`,
		`{"to":"user:alice","data":1,"collapse":1}`:         `collapse: collapse must be a string, and is a JSON number`,
		`{"to":"user:alice","data64":{}}`:                   `data64: data64 must be a string of standard base64, with padding, and is a JSON object`,
		`{"to":"user:alice","data64":"!"}`:                  `data64: data64 must be a string of standard base64, with padding: illegal base64 data at input byte 0`,
		`{"to":"user:alice","data":1,"recipt":"delivered"}`: `recipt: there is no member "recipt"; a message has to, id, type,`,
		`5`: `: a JSON number is no message; send an object`,
		`[{"to":"user:alice","data":1},{"receipt":true}]`: `[1].receipt: receipt must be the string "delivered", and is a JSON bool`,
		`[{"to":"user:alice","data":1},"x"]`:              `[1]: a JSON string is no message; send an object`,
	} {
		status, _, answer := d.post("good", body)
		p := decode[problem.Problem](t, answer)
		if got := p.Field + ": " + p.Message; status != 400 || p.Code != problem.BadRequest || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %d %q, want %q", body, status, got, want)
		}
	}
}

func TestPostArray(t *testing.T) {
	d := newDoor(t)
	status, _, body := d.post("good", `[{"to":"user:alice","id":"a","data":1},{"to":"user:alice","id":"a","data":2},{"to":"user:alice","id":"c","data":3}]`)
	answers := *decode[[]struct {
		message.Receipt
		Error *problem.Problem `json:"error"`
	}](t, body)
	if status != http.StatusOK || len(answers) != 3 || answers[0].Seq != 1 || answers[2].Seq != 2 || answers[0].Error != nil {
		t.Fatalf("%d %s", status, body)
	}
	if p := answers[1].Error; p == nil || p.Code != problem.Conflict || p.Field != "id" || answers[1].ID != "" {
		t.Errorf("%s", body)
	}
	if status, _, body = d.post("good", `[]`); status != http.StatusOK || strings.TrimSpace(string(body)) != "[]" {
		t.Errorf("%d %s", status, body)
	}
}

// What stands behind a message that may not have been archived is not tried: sent again, both keep their places.
func TestPostArrayStopsWhereTheArchiveDoes(t *testing.T) {
	w := newWorld(t)
	s, err := New(DefaultConfig(), w.nc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.archive = w.archive
	var asked atomic.Int32
	owner, err := w.nc.Subscribe(subject.Collect(0), func(m *nats.Msg) {
		if asked.Add(1) == 2 {
			_ = m.RespondMsg(rpc.Refusal(problem.New(problem.Unavailable, "for a moment")))
			return
		}
		_ = m.Respond([]byte(`{"id":"x","to":"user:alice","seq":1,"state":"archived"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Unsubscribe() })
	who := &identity.Identity{Tenant: "default", Publish: []string{"*"}}
	one := `{"to":"user:alice","data":1}`
	answers, err := s.takePosts(t.Context(), who, []byte("["+strings.Join([]string{one, one, one, one}, ",")+"]"))
	if err != nil || len(answers) != 4 {
		t.Fatalf("%v, %v", answers, err)
	}
	if asked.Load() != 2 || answers[0].Receipt == nil || answers[0].Error != nil {
		t.Errorf("the owner was asked %d times; %+v", asked.Load(), answers[0])
	}
	for _, a := range answers[1:] {
		if a.Receipt != nil || a.Error == nil || !a.Error.Retry {
			t.Errorf("%+v", a)
		}
	}
}

func TestPostWithoutArchive(t *testing.T) {
	d := newDoor(t)
	up := d.archive.down()
	status, h, body := d.post("good", `{"to":"user:alice","id":"0","data":0}`)
	if p := decode[problem.Problem](t, body); status != http.StatusServiceUnavailable || h.Get("Retry-After") == "" || !p.Retry {
		t.Errorf("%d %v %s", status, h, body)
	}
	up()
	d.eventually("archived", func() bool {
		status, _, _ := d.post("good", `{"to":"user:alice","id":"0","data":0}`)
		return status == http.StatusOK
	})
}

// When every place is taken a POST waits for its turn, and is told to come back when none is given up.
func TestPostIsBounded(t *testing.T) {
	d := newDoor(t)
	for range postsAtOnce {
		d.service.posts <- struct{}{}
	}
	status, h, body := d.post("good", `{"to":"user:alice","data":1}`)
	if p := decode[problem.Problem](t, body); status != http.StatusTooManyRequests || h.Get("Retry-After") == "" || p.Code != problem.Busy {
		t.Errorf("%d %s", status, body)
	}
	<-d.service.posts
	for range 3 {
		if status, _, body := d.post("good", `{"to":"user:alice","data":1}`); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
	}
}

func TestOtherPaths(t *testing.T) {
	d := newDoor(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusNotFound {
		t.Error(answer.Status)
	}
}
