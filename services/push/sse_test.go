package push

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// request makes one request of a node.
func (n *running) request(t *testing.T, method, target string, headers map[string]string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	r, err := http.NewRequestWithContext(ctx, method, "http://"+n.listener.Addr().String()+target, nil)
	must(t, err)
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	must(t, err)
	t.Cleanup(func() {
		cancel()
		_ = response.Body.Close()
	})
	return response
}

func as(user string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token(user)}
}

// text reads lines up to an empty one.
func text(t *testing.T, from *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := from.ReadString('\n')
		must(t, err)
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

// TestTheTextOfAStream is what curl shows.
func TestTheTextOfAStream(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Heartbeat = 300 * time.Millisecond })
	w.archive.skip(alice, 2, "retention")
	response := n.request(t, http.MethodGet, "/v1/sse?device=phone&topic=news&client=curl/8", as("alice"))
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
	}
	stream := bufio.NewReader(response.Body)
	w.push(news, `{"a": 1}`)
	next := func(want string) string {
		got := text(t, stream)
		for got == ": heartbeat\n" && want != got { // may come between any two
			got = text(t, stream)
		}
		return got
	}
	begins := func(want string) {
		t.Helper()
		got := next(want)
		if !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Fatalf("it says\n%s\nand not\n%s", got, want)
		}
	}
	begins("retry: [1-4][0-9]{3}\n")
	begins("event: welcome\ndata: {\"t\":\"welcome\",.*}\n")
	for range 2 { // one comes live, the other is read
		got := next("")
		if !strings.Contains(got, "event: gap\ndata: {\"t\":\"gap\",\"from\":1,\"to\":2,\"why\":\"retention\"}\n") && !strings.Contains(got, "data: {\"t\":\"msg\",\"seq\":1,") {
			t.Errorf("it says %s", got)
		}
	}
	w.push(alice, `3`)
	begins("id: e1:(user.alice=3,topic.news=1|topic.news=1,user.alice=3)\ndata: {\"t\":\"msg\",\"seq\":3,.*,\"data\":3}\n")
	begins(": heartbeat\n")
	n.stop()
	begins("event: error\ndata: {\"t\":\"error\",\"code\":\"draining\",.*}\n")
	begins("event: close\ndata: {\"code\":4503,\"reason\":\"draining\",\"retry\":true}\n")
	if rest, err := io.ReadAll(stream); err != nil || len(rest) > 0 {
		t.Errorf("%q comes behind the end, %v", rest, err)
	}
}

// TestStreamsThatAreRefused over HTTP, in words that help.
func TestStreamsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Origins = "https://good.example" })
	with := func(name, value string) map[string]string {
		h := as("alice")
		h[name] = value
		return h
	}
	for _, c := range []struct {
		name, method, target string
		headers              map[string]string
		status               int
		code                 problem.Code
		field                string
	}{
		{"no token", http.MethodGet, "/v1/sse", nil, http.StatusUnauthorized, problem.Unauthorized, ""},
		{"a token in the URL", http.MethodGet, "/v1/sse?token=" + url.QueryEscape(token("alice")), nil, http.StatusBadRequest, problem.BadRequest, "token"},
		{"the same, by another name", http.MethodGet, "/v1/sse?access_token=x", as("alice"), http.StatusBadRequest, problem.BadRequest, "access_token"},
		{"an unknown parameter", http.MethodGet, "/v1/sse?topics=news", as("alice"), http.StatusBadRequest, problem.BadRequest, "topics"},
		{"two devices", http.MethodGet, "/v1/sse?device=a&device=b", as("alice"), http.StatusBadRequest, problem.BadRequest, "device"},
		{"a query that is none", http.MethodGet, "/v1/sse?a=%zz", as("alice"), http.StatusBadRequest, problem.BadRequest, ""},
		{"no id of an event", http.MethodGet, "/v1/sse?device=a", with("Last-Event-ID", "7"), http.StatusBadRequest, problem.BadHeader, "Last-Event-ID"},
		{"a cursor above the head", http.MethodGet, "/v1/sse?device=a", with("Last-Event-ID", "e1:user.alice=1"), http.StatusConflict, problem.CursorAhead, "cursors"},
		{"a forbidden topic", http.MethodGet, "/v1/sse?topic=secret", as("alice"), http.StatusForbidden, problem.Forbidden, "topics"},
		{"a foreign page", http.MethodGet, "/v1/sse", with("Origin", "https://evil.example"), http.StatusForbidden, problem.Forbidden, "Origin"},
		{"another method", http.MethodPost, "/v1/sse", as("alice"), http.StatusMethodNotAllowed, "", ""},
		{"only the header", http.MethodHead, "/v1/sse", as("alice"), http.StatusMethodNotAllowed, "", ""},
		{"a question for acknowledgements", http.MethodGet, "/v1/ack", as("alice"), http.StatusMethodNotAllowed, "", ""},
		{"a page's question", http.MethodOptions, "/v1/sse", map[string]string{"Origin": "https://evil.example"}, http.StatusForbidden, problem.Forbidden, "Origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			response := n.request(t, c.method, c.target, c.headers)
			if response.StatusCode != c.status {
				t.Errorf("it is answered %s", response.Status)
			}
			if challenge := response.Header.Get("WWW-Authenticate"); (challenge == "Bearer") != (c.status == http.StatusUnauthorized) {
				t.Errorf("WWW-Authenticate is %q", challenge)
			}
			if c.code != "" {
				p := problemIn(t, response.Body)
				if p.Code != c.code || p.Field != c.field || (p.Retry != (response.Header.Get("Retry-After") != "")) {
					t.Errorf("it says %+v", p)
				}
			}
		})
	}
	if len(n.all()) != 0 || n.gate.arrivals.Load() != 0 {
		t.Error("something is left")
	}
}

// TestPagesOfOtherOrigins may be let in: their browsers ask first, since a token is no simple header.
func TestPagesOfOtherOrigins(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Origins = "https://good.example" })
	for target, method := range map[string]string{"/v1/sse": http.MethodGet, "/v1/ack": http.MethodPost} {
		asked := n.request(t, http.MethodOptions, target, map[string]string{
			"Origin": "https://good.example", "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,last-event-id",
		}).Header
		allowed := strings.Split(strings.ToLower(asked.Get("Access-Control-Allow-Headers")), ", ")
		if asked.Get("Access-Control-Allow-Origin") != "https://good.example" || asked.Get("Access-Control-Allow-Methods") != method ||
			!slices.Contains(allowed, "authorization") || !slices.Contains(allowed, "last-event-id") || !slices.Contains(allowed, "content-type") || asked.Get("Vary") != "Origin" {
			t.Errorf("%s is answered %v", target, asked)
		}
	}
	headers := as("alice")
	headers["Origin"] = "https://good.example"
	response := n.request(t, http.MethodGet, "/v1/sse?device=phone", headers)
	if response.StatusCode != http.StatusOK || response.Header.Get("Access-Control-Allow-Origin") != "https://good.example" {
		t.Errorf("%s with %v", response.Status, response.Header)
	}
}

// TestTheDoorsAreListed.
func TestTheDoorsAreListed(t *testing.T) {
	n := newWorld(t).node()
	body, err := io.ReadAll(n.request(t, http.MethodGet, "/", nil).Body)
	must(t, err)
	for _, door := range []string{protocol.Path, protocol.PathSSE, protocol.PathAck, protocol.Name, "curl -N"} {
		if !strings.Contains(string(body), door) {
			t.Errorf("%s does not name %s", body, door)
		}
	}
}

// TestTheIDSaysWhatNobodyElseKnows: a mailbox is in it from the first thing sent of it until that is acknowledged and handed
// over; what the client has said itself stays.
func TestTheIDSaysWhatNobodyElseKnows(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	sse := doors()[1]
	g := n.guest(t, sse, "phone", topics("news"))
	c := g.peer.(*eventsClient)
	id := func(want string) {
		t.Helper()
		g.want(protocol.TMsg)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.id != want {
			t.Errorf("the id is %s; want %s", c.id, want)
		}
	}
	w.push(alice, "1")
	id("e1:user.alice=1")
	w.push(news, "1")
	id("e1:user.alice=1,topic.news=1")
	g.ack("", 1)
	g.ack("topic:news", 1)
	eventually(t, "the user's cursor is there", func() bool { return len(n.acks.waiting(alice, "phone", []subject.Address{alice})) == 0 })
	w.push(all, "1")
	id("e1:topic.news=1,all=1") // a topic's cursor waits up to a minute
	w.push(alice, "2")
	id("e1:topic.news=1,all=1,user.alice=2")
	must(t, n.acks.record(t.Context(), nil))
	n.acks.flush(t.Context(), true)
	w.push(alice, "3")
	id("e1:all=1,user.alice=3")
	g.leave(n)
	g = n.guest(t, sse, "phone", topics("news"), g.again())
	c = g.peer.(*eventsClient)
	g.ack("", 3)
	g.ack("all", 1)
	n.acks.flush(t.Context(), true)
	w.push(news, "2")
	id("e1:all=1,user.alice=3,topic.news=2")
}

// TestAClientWithoutAName is another device each time, and stands where it says all the same.
func TestAClientWithoutAName(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	sse := doors()[1]
	w.push(alice, "1")
	w.push(news, "1")
	g := n.guest(t, sse, "", topics("news"))
	g.wants("", 1, 1)
	g.ack("", 1) // of no device: refused
	g.leave(n)
	w.push(news, "2")
	w.push(alice, "2")
	g = n.guest(t, sse, "", topics("news"), g.again())
	got := map[string]uint64{}
	for range 2 {
		o := g.want(protocol.TMsg)
		got[o.Ch] = o.Seq
	}
	if got[""] != 2 || got["topic:news"] != 2 {
		t.Errorf("%v came", got)
	}
	g.quiet(w)
}

// TestATokenThatNamesTheDevice is enough.
func TestATokenThatNamesTheDevice(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	bound := token("alice", func(who *identity.Identity) { who.Device = "phone" })
	g := n.enterBy(t, doors()[1], bound, "")
	g.want(protocol.TWelcome)
	w.push(alice, "1")
	g.wants("", 1, 1)
	if status, p := postAck(t, n.listener.Addr().String(), bound, "", `{"seq":1}`); status != http.StatusNoContent {
		t.Errorf("%d %+v", status, p)
	}
	eventually(t, "the cursor is there", func() bool { return w.acked()["alice/phone/default.user.alice"] == 1 })
}
