package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// refusals are what neither NATS door archives.
func refusals() map[string]struct {
	tail    string // of the subject, behind weft.in. or weft.publish.
	payload string
	header  nats.Header
	code    problem.Code
	says    string // part of the sentence
} {
	long := strings.Repeat("x", 129)
	type r = struct {
		tail    string
		payload string
		header  nats.Header
		code    problem.Code
		says    string
	}
	return map[string]r{
		"empty":            {"default.user.u", "", nil, problem.Empty, "null"},
		"too large":        {"default.user.u", `"` + strings.Repeat("x", 64<<10) + `"`, nil, problem.TooLarge, "65536"},
		"bad JSON":         {"default.user.u", "{", nil, problem.BadJSON, "Content-Type"},
		"JSON not UTF-8":   {"default.user.u", "\"\xff\"", nil, problem.BadJSON, "UTF-8"},
		"unknown kind":     {"default.group.u", "1", nil, problem.BadAddress, "user:<id>"},
		"no id":            {"default.user", "1", nil, problem.BadAddress, "empty"},
		"id of all":        {"default.all.x", "1", nil, problem.BadAddress, "no id"},
		"id too long":      {"default.user.=" + base64.RawURLEncoding.EncodeToString([]byte(long)), "1", nil, problem.IDTooLong, "128"},
		"needless code":    {"default.user.=" + base64.RawURLEncoding.EncodeToString([]byte("bob")), "1", nil, problem.BadEncoding, "write bob"},
		"wrong code":       {"default.user.=b*b", "1", nil, problem.BadEncoding, "base64url"},
		"dot in the id":    {"default.user.john.doe", "1", nil, problem.BadEncoding, subject.Encode("john.doe")},
		"star in the id":   {"default.user.*", "1", nil, problem.BadEncoding, subject.Encode("*")},
		"angle in the id":  {"default.user.>", "1", nil, problem.BadEncoding, subject.Encode(">")},
		"raw umlaut":       {"default.user.jörg", "1", nil, problem.BadEncoding, subject.Encode("jörg")},
		"bad TTL":          {"default.user.u", "1", nats.Header{"weft-ttl": {"soon"}}, problem.BadHeader, "30s"},
		"not before":       {"default.user.u", "1", nats.Header{message.HeaderNotBefore: {"1h"}}, problem.Unsupported, "Weft-Not-Before"},
		"many":             {"default.many", "1", nil, problem.Unsupported, "one by one"},
		"id of a message":  {"default.user.u", "1", nats.Header{message.HeaderID: {strings.Repeat("i", 257)}}, problem.BadHeader, "256"},
		"structured event": {"default.user.u", "{}", nats.Header{"Content-Type": {"application/cloudevents+json"}}, problem.Unsupported, "CloudEvents"},
	}
}

func TestTheRequestDoorRefusesWithCodeAndSentence(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		nc := f.connect()
		for name, r := range refusals() {
			reply, err := nc.RequestMsg(&nats.Msg{Subject: "weft.publish." + r.tail, Data: []byte(r.payload), Header: r.header}, patience)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var p problem.Problem
			if err := json.Unmarshal(reply.Data, &p); err != nil || p.Code != r.code || !strings.Contains(p.Message, r.says) || p.Retry {
				t.Errorf("%s: %s instead of %s with %q", name, reply.Data, r.code, r.says)
			}
		}
	})
}

func TestTheStreamDoorQuarantinesWithReceipt(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		nc := f.connect()
		entries, err := nc.SubscribeSync(subject.QuarantineAll)
		if err != nil {
			t.Fatal(err)
		}
		receipts, err := nc.SubscribeSync(subject.ReceiptAll)
		if err != nil {
			t.Fatal(err)
		}
		for name, r := range refusals() {
			publish(t, nc, "weft.in."+r.tail, r.payload, r.header)
			entry, err := entries.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if entry.Header.Get("Weft-Reason") != string(r.code) || !strings.Contains(entry.Header.Get("Weft-Detail"), r.says) || string(entry.Data) != r.payload {
				t.Errorf("%s: quarantined as %v on %s", name, entry.Header, entry.Subject)
			}
			told, err := receipts.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var receipt message.Receipt
			if err := json.Unmarshal(told.Data, &receipt); err != nil || receipt.State != message.StateQuarantined || receipt.Reason != r.code || receipt.Message == "" {
				t.Errorf("%s: receipt %s", name, told.Data)
			}
		}
		if r, p := request(t, nc, user("u"), "1", nil); r.Seq != 1 {
			t.Errorf("a refused message took a number: %+v %+v", r, p)
		}
	})
}

func TestHTTPRefusesWithStatusCodeAndField(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		good := f.token(identity.Identity{User: "shop", Publish: []string{"user:*", "topic:news"}}, time.Hour)
		late := f.expired("shop")
		for name, r := range map[string]struct {
			token, body string
			status      int
			code        problem.Code
			field       string
		}{
			"no token":       {"", `{"to":"user:u","data":1}`, 401, problem.Unauthorized, ""},
			"foreign token":  {good + "x", `{"to":"user:u","data":1}`, 401, problem.Unauthorized, "token"},
			"expired token":  {late, `{"to":"user:u","data":1}`, 401, problem.TokenExpired, "exp"},
			"no right":       {good, `{"to":"topic:secret","data":1}`, 403, problem.Forbidden, "to"},
			"no JSON":        {good, `{`, 400, problem.BadRequest, ""},
			"unknown member": {good, `{"to":"user:u","data":1,"tll":"3s"}`, 400, problem.BadRequest, "tll"},
			"unknown kind":   {good, `{"to":"group:u","data":1}`, 422, problem.BadAddress, "to"},
			"id too long":    {good, `{"to":"user:` + strings.Repeat("x", 129) + `","data":1}`, 422, problem.IDTooLong, "to"},
			"empty":          {good, `{"to":"user:u"}`, 422, problem.Empty, "data"},
			"too large":      {good, `{"to":"user:u","data":"` + strings.Repeat("x", 64<<10) + `"}`, 413, problem.TooLarge, "data"},
			"bad TTL":        {good, `{"to":"user:u","data":1,"ttl":"soon"}`, 422, problem.BadHeader, "ttl"},
			"in an array":    {good, `[{"to":"user:u","data":1},{"to":"group:u","data":1}]`, 422, problem.BadAddress, "[1].to"},
		} {
			status, body := f.post(r.token, r.body)
			var p problem.Problem
			if err := json.Unmarshal(body, &p); err != nil || status != r.status || p.Code != r.code || p.Field != r.field || p.Message == "" {
				t.Errorf("%s: %d %s", name, status, body)
			}
		}
		// Ids that a subject can't hold raw are taken and encoded here.
		alice := f.device("john.doe *>", "phone", protocol.FromClient{})
		status, body := f.post(good, `{"to":"user:john.doe *>","id":"1","data":{"a": 1}}`)
		var receipt message.Receipt
		if err := json.Unmarshal(body, &receipt); err != nil || status != 200 || receipt.Seq != 1 || receipt.State != message.StateArchived {
			t.Errorf("%d %s", status, body)
		}
		if o := alice.message(1); o.data() != `{"a": 1}` {
			t.Errorf("%s", o.raw)
		}
		if status, body := f.post(good, `{"to":"user:john.doe *>","id":"1","data":2}`); status != 409 {
			t.Errorf("another body with the same id: %d %s", status, body)
		}
		status, body = f.post(good, `[{"to":"user:john.doe *>","id":"2","data":2},{"to":"user:john.doe *>","data64":"AAE=","content_type":"application/octet-stream"}]`)
		var receipts []message.Receipt
		if err := json.Unmarshal(body, &receipts); err != nil || status != 200 || len(receipts) != 2 || receipts[1].Seq != 3 {
			t.Errorf("%d %s", status, body)
		}
		alice.message(2)
		if o := alice.message(3); o.data() != "\x00\x01" || o.Mime != "application/octet-stream" {
			t.Errorf("%s", o.raw)
		}
	})
}

// post publishes over HTTP.
func (f *fabric) post(token, body string) (int, []byte) {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.within(), http.MethodPost, f.manifest.Collect[0]+"/v1/messages", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer.StatusCode, bytes.TrimSpace(b)
}

func TestTheWireRefusesWithCodeAndClose(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		nc := f.connect()
		publish(t, nc, subject.In(user("alice")), "1", nil)
		good := f.token(identity.Identity{User: "alice", Topics: []string{"news"}}, time.Hour)
		hello := `{"t":"hello","device":"d"}`
		for name, r := range map[string]struct {
			token string
			says  []string
			code  problem.Code
			close protocol.CloseCode
		}{
			"no token":         {"", []string{hello}, problem.Unauthorized, protocol.CloseToken},
			"bad token":        {"x.y.z", []string{hello}, problem.Unauthorized, protocol.CloseToken},
			"foreign token":    {good[:len(good)-4] + "AAAA", []string{hello}, problem.Unauthorized, protocol.CloseToken},
			"expired token":    {f.expired("alice"), []string{hello}, problem.TokenExpired, protocol.CloseToken},
			"no hello":         {good, []string{`{"t":"ack","seq":1}`}, problem.HelloExpected, protocol.CloseProtocol},
			"two hellos":       {good, []string{hello, hello}, problem.BadFrame, protocol.CloseProtocol},
			"forbidden topic":  {good, []string{`{"t":"hello","topics":["secret"]}`}, problem.Forbidden, protocol.CloseForbidden},
			"long device":      {good, []string{`{"t":"hello","device":"` + strings.Repeat("x", 129) + `"}`}, problem.IDTooLong, protocol.CloseProtocol},
			"cursor too high":  {good, []string{`{"t":"hello","device":"e","cursors":{"user:alice":7}}`}, problem.CursorAhead, protocol.CloseProtocol},
			"no JSON":          {good, []string{hello, `{`}, problem.BadFrame, protocol.CloseProtocol},
			"not UTF-8":        {good, []string{hello, "{\"t\":\"\xff\"}"}, problem.NotUTF8, protocol.CloseProtocol},
			"unknown object":   {good, []string{hello, `{"t":"dance"}`}, problem.UnknownFrame, protocol.CloseProtocol},
			"ack of too much":  {good, []string{hello, `{"t":"ack","seq":9}`}, problem.AckAhead, protocol.CloseProtocol},
			"ack of a foreign": {good, []string{hello, `{"t":"ack","seq":1,"ch":"user:bob"}`}, problem.NotSubscribed, protocol.CloseProtocol},
			"too large":        {good, []string{hello, `{"t":"` + strings.Repeat("x", 65<<10) + `"}`}, problem.TooLarge, protocol.CloseTooLarge},
		} {
			t.Run(name, func(t *testing.T) {
				d := f.dial(r.token)
				d.t = t
				for i, say := range r.says {
					if err := d.conn.WriteMessage(websocket.TextMessage, []byte(say)); err != nil {
						t.Fatal(err)
					}
					if i == 0 && len(r.says) > 1 {
						if o := d.next(); o.T != protocol.TWelcome {
							t.Fatalf("%s instead of welcome", o.raw)
						}
					}
				}
				if o, code := d.ending(); o.Code != string(r.code) || o.Text == "" || code != int(r.close) {
					t.Errorf("%s and close %d, instead of %s and %d", o.raw, code, r.code, r.close)
				}
			})
		}
		// Nothing of this moved a cursor: the message is still there for the device.
		d := f.device("alice", "d", protocol.FromClient{})
		d.message(1)
	})
}
