package message_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

func alice() subject.Address { return subject.UserAddress("default", "alice") }

func read(header map[string][]string, payload string) (*message.Message, error) {
	return message.Read(alice(), header, []byte(payload), time.UnixMilli(1000), message.Limits{Payload: 64})
}

func TestRead(t *testing.T) {
	want := &message.Message{
		To: alice(), ID: "id-1", Type: "order.paid", ContentType: "text/plain", Trace: "00-1-2-01",
		At: 1000, Expires: 91000, Payload: []byte("hello"),
	}
	for name, header := range map[string]map[string][]string{
		"canonical": {"Weft-Id": {"id-1"}, "Weft-Type": {"order.paid"}, "Content-Type": {"text/plain"}, "traceparent": {"00-1-2-01"}, "Weft-TTL": {"90s"}},
		"lower":     {"weft-id": {"id-1"}, "weft-type": {"order.paid"}, "content-type": {"text/plain"}, "Traceparent": {"00-1-2-01"}, "weft-ttl": {"1m30s"}},
		"foreign":   {"Nats-Msg-Id": {"id-1"}, "ce-type": {"order.paid"}, "Content-Type": {"text/plain"}, "traceparent": {"00-1-2-01"}, "Weft-TTL": {"90"}},
		"ours wins": {"Nats-Msg-Id": {"x"}, "ce-id": {"y"}, "weft-id": {"id-1"}, "ce-type": {"z"}, "WEFT-TYPE": {"order.paid"}, "Content-Type": {"text/plain"}, "traceparent": {"00-1-2-01"}, "Weft-TTL": {"90s"}},
	} {
		got, err := read(header, "hello")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	got, err := read(nil, `{"a":1}`)
	if err != nil || got.ContentType != message.JSON || got.ID != "" || got.Expires != 0 {
		t.Errorf("without headers: %+v, %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, value, payload string
		code                 problem.Code
		field                string
	}{
		{"", "", "", problem.Empty, ""},
		{"", "", `"` + strings.Repeat("x", 63) + `"`, problem.TooLarge, ""},
		{"", "", "hello", problem.BadJSON, ""},
		{"", "", "\"\xff\"", problem.BadJSON, ""},
		{"Content-Type", "application/vnd.x+json; charset=utf-8", "hello", problem.BadJSON, ""},
		{"Content-Type", "Application/JSON", "hello", problem.BadJSON, ""},
		{"Content-Type", "application/cloudevents+json", "{}", problem.Unsupported, "Content-Type"},
		{"Content-Type", "Application/CloudEvents-Batch+JSON", "[]", problem.Unsupported, "Content-Type"},
		{"Content-Type", long, "{}", problem.BadHeader, "Content-Type"},
		{"Content-Type", "application/json; charset", "hello", problem.BadHeader, "Content-Type"},
		{"Content-Type", "my stuff+json", "hello", problem.BadHeader, "Content-Type"},
		{"Weft-Id", long, "{}", problem.BadHeader, "Weft-Id"},
		{"Nats-Msg-Id", "\xff", "{}", problem.BadHeader, "Weft-Id"},
		{"Weft-Type", long, "{}", problem.BadHeader, "Weft-Type"},
		{"traceparent", long, "{}", problem.BadHeader, "traceparent"},
		{"Weft-TTL", "soon", "{}", problem.BadHeader, "Weft-TTL"},
		{"Weft-TTL", "0", "{}", problem.BadHeader, "Weft-TTL"},
		{"Weft-TTL", "-5s", "{}", problem.BadHeader, "Weft-TTL"},
		{"Weft-TTL", "999µs", "{}", problem.BadHeader, "Weft-TTL"},
		{"Weft-TTL", "367d", "{}", problem.BadHeader, "Weft-TTL"},
		{"Weft-TTL", "9999h", "{}", problem.BadHeader, "Weft-TTL"},
		{"Weft-TTL", strings.Repeat("9", 40), "{}", problem.BadHeader, "Weft-TTL"},
		{"weft-not-before", "2030-01-01", "{}", problem.Unsupported, "Weft-Not-Before"},
		{"Weft-Collapse", "k", "{}", problem.Unsupported, "Weft-Collapse"},
		{"Weft-Receipt", "read", "{}", problem.BadHeader, "Weft-Receipt"},
		{"weft-receipt", "Delivered", "{}", problem.BadHeader, "Weft-Receipt"},
		{"Weft-To", "a,b", "{}", problem.Unsupported, "Weft-To"},
	} {
		_, err := read(map[string][]string{c.name: {c.value}}, c.payload)
		if !errors.Is(err, problem.New(c.code, "")) || problem.From(err).Field != c.field {
			t.Errorf("%s: %.20q, %.20q: %v in %q; want %s in %q", c.name, c.value, c.payload, err, problem.From(err).Field, c.code, c.field)
		}
	}
}

// TestReadAsksForReceipts holds that asking for receipts is no part of the body, and only possible for users.
func TestReadAsksForReceipts(t *testing.T) {
	plain, err := read(nil, "{}")
	if err != nil || plain.Receipt {
		t.Fatalf("%+v, %v", plain, err)
	}
	for _, name := range []string{"Weft-Receipt", "weft-receipt", "WEFT-RECEIPT"} {
		m, err := read(map[string][]string{name: {"delivered"}}, "{}")
		if err != nil || !m.Receipt || m.Hash() != plain.Hash() {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	for _, to := range []subject.Address{{Tenant: "default", Kind: subject.Topic, ID: "news"}, {Tenant: "default", Kind: subject.All}} {
		_, err := message.Read(to, map[string][]string{"Weft-Receipt": {"delivered"}}, []byte("{}"), time.UnixMilli(1000), message.Limits{Payload: 64})
		if p := problem.From(err); p.Code != problem.Unsupported || p.Field != message.HeaderReceipt || !strings.Contains(p.Message, to.String()) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestSpellings holds that a message whose publisher spelled one header in several ways has the same id every time
// it is read: a redelivery with another id would be another message.
func TestSpellings(t *testing.T) {
	header := map[string][]string{"weft-id": {"a"}, "WEFT-ID": {"b"}, "Weft-ID": {"c"}, "wEFT-id": {"d"}}
	for range 50 {
		if m, err := read(header, "{}"); err != nil || m.ID != "b" {
			t.Fatalf("the id is %q, %v; want b", m.ID, err)
		}
	}
	header["Weft-Id"] = []string{"canonical"}
	if m, err := read(header, "{}"); err != nil || m.ID != "canonical" {
		t.Errorf("the id is %q, %v; want the canonical spelling's", m.ID, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("Weft-Id", "a", "nats-msg-id", "b", []byte(`{"a":1}`))
	f.Add("Content-Type", "application/json; charset=utf-8", "Weft-TTL", "90s", []byte("[]"))
	f.Add("content-type", "text/plain", "WEFT-TTL", "10000000000", []byte("\xff"))
	f.Add("Weft-ttl", "2540400h10m10s", "weft-TTL", "1ns", []byte("1"))
	f.Add("ce-id", "\xff", "ce-type", "\u0000", []byte(" null "))
	f.Add("weft-receipt", "delivered", "Weft-Receipt", "", []byte("1"))
	f.Fuzz(func(t *testing.T, name, value, name2, value2 string, payload []byte) {
		header := map[string][]string{name: {value}, name2: {value2}, "none": {}}
		limits := message.Limits{Payload: 1 << 10}
		m, err := message.Read(alice(), header, payload, time.UnixMilli(1000), limits)
		again, errAgain := message.Read(alice(), header, payload, time.UnixMilli(1000), limits)
		if !reflect.DeepEqual(m, again) || !reflect.DeepEqual(err, errAgain) {
			t.Errorf("read twice: %+v, %v and %+v, %v", m, err, again, errAgain)
		}
		if err != nil {
			if p := problem.From(err); p.Code == problem.InternalFault || p.Message == "" {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if len(payload) == 0 || len(payload) > limits.Payload || m.ContentType == "" ||
			!utf8.ValidString(m.ID+m.Type+m.ContentType+m.Trace) || m.Expires != 0 && m.Expires <= m.At {
			t.Errorf("taken: %+v", m)
		}
		// What was read is what every later service reads.
		all, err := message.DecodeEntries(message.AppendEntry(nil, m.To, message.Entry{Message: m}))
		if err != nil || !reflect.DeepEqual(all[0].Message, m) {
			t.Errorf("%+v came back as %+v, %v", m, all, err)
		}
	})
}
