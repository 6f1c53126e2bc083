package protocol_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

func TestAppendMessage(t *testing.T) {
	alice := subject.UserAddress("default", "alice")
	news := subject.Address{Tenant: "default", Kind: subject.Topic, ID: `a "b"`}
	for want, m := range map[string]message.Message{
		`{"t":"msg","seq":1,"id":"i","at":5,"data": {"a" : 1} }`: {
			To: alice, Seq: 1, ID: "i", At: 5, ContentType: message.JSON, Payload: []byte(` {"a" : 1} `),
		},
		`{"t":"msg","seq":2,"id":"i","type":"t","at":5,"ch":"topic:a \"b\"","content_type":"application/x+json","traceparent":"00-1","re":true,"data":1}`: {
			To: news, Seq: 2, ID: "i", Type: "t", At: 5, ContentType: "application/x+json", Trace: "00-1", Again: true, Payload: []byte("1"),
		},
		`{"t":"msg","seq":3,"id":"i","at":5,"ch":"all","data64":"ewp9"}`: {
			To: subject.Address{Tenant: "default", Kind: subject.All}, Seq: 3, ID: "i", At: 5, ContentType: message.JSON, Payload: []byte("{\n}"),
		},
		`{"t":"msg","seq":4,"id":"i","at":5,"content_type":"text/plain","data64":"MQ=="}`: {
			To: alice, Seq: 4, ID: "i", At: 5, ContentType: "text/plain", Payload: []byte("1"),
		},
	} {
		if got := protocol.AppendMessage([]byte("before "), &m); string(got) != "before "+want {
			t.Errorf("the object is\n%s, want\nbefore %s", got, want)
		}
	}
}

func TestData(t *testing.T) {
	for object, want := range map[string]string{
		`{"t":"msg","seq":1,"id":"x,\"data\":1","at":5,"data":{"a":1,"data":2}}`: `{"a":1,"data":2}`,
		`{"t":"msg","seq":1,"id":"data","type":",","at":5,"data": 1 }`:           ` 1 `,
		`{"t":"msg","seq":1,"id":"i","at":5,"data64":"MQ=="}`:                    "",
		`{"t":"msg","data":1`: "",
		``:                    "",
	} {
		if got := protocol.Data([]byte(object)); string(got) != want {
			t.Errorf("the data of %s is %q, want %q", object, got, want)
		}
	}
}

// FuzzAppendMessage holds for every message that Check takes: its object is one line of JSON, its members say what
// the message says, and the payload arrives byte for byte.
func FuzzAppendMessage(f *testing.F) {
	f.Add(uint64(1), "id", "type", message.JSON, "", "alice", int64(5), byte(0), []byte(`{"a":1}`))
	f.Add(uint64(1<<64-1), `,"data":`, `"`, "application/x+json", "00-1", "a\nb", int64(-1), byte(1), []byte("[1,\n2]"))
	f.Add(uint64(0), "\u2028<&>", "data", "text/plain", "\x00", "=", int64(1)<<62, byte(2), []byte("\xff"))
	f.Add(uint64(9), ",", "data", "application/json; x=\"}\"", "}", "x", int64(0), byte(3), []byte(" {\"data\":\",\\\"data\\\":\"}\t"))
	f.Fuzz(func(t *testing.T, seq uint64, id, kind, contentType, trace, name string, at int64, bits byte, payload []byte) {
		m := &message.Message{Seq: seq, ID: id, Type: kind, ContentType: contentType, Trace: trace, At: at, Again: bits&4 != 0, Payload: payload}
		m.To = subject.Address{Tenant: "default", Kind: []subject.Kind{subject.User, subject.Topic, subject.All, subject.User}[bits&3], ID: name}
		if m.To.Kind == subject.All {
			m.To.ID = ""
		}
		if m.To.Check() != nil || m.Check(message.Limits{Payload: 1 << 16}) != nil {
			return
		}
		object := protocol.AppendMessage(nil, m)
		if bytes.ContainsAny(object, "\r\n") {
			t.Fatalf("a line break in %q", object)
		}
		assertObject(t, object, m)
		assertDecoded(t, object)
	})
}

// assertDecoded holds that Decode, which passes most of an object by, finds what encoding/json finds.
func assertDecoded(t *testing.T, object []byte) {
	t.Helper()
	var want protocol.FromServer
	if err := json.Unmarshal(object, &want); err != nil {
		t.Fatalf("%q is no JSON: %v", object, err)
	}
	if got, err := protocol.Decode(object); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q is decoded as %+v, %v; want %+v", object, got, err, want)
	}
}

func TestDecode(t *testing.T) {
	for _, object := range []string{
		`{"t":"welcome","session":"s","user":"u","device":"d","node":"n","epoch":"e","heartbeat":20000,"mailboxes":{"user:u":{"head":3,"next":2}}}`,
		`{"t":"gap","ch":"topic:news","from":1,"to":3,"why":"expired"}`,
		`{"t":"error","code":"busy","message":"a,\"data\":1}","field":"f","retry":true}`,
		`{"t":"msg","seq":1,"id":"\u0022,\"data\":","type":"a\\","at":-5,"ch":"all","re":true,"data":{"id":2}}`,
		`{"t":"msg","seq":1,"id":"i","at":5,"live":true,"data":1}`, // a member of a later version
		`{"t":"msg","id":"i","at":5,"seq":7,"data":1}`,             // another order
		`{"t":"msg","seq":18446744073709551615,"id":"","at":5,"data64":"AA=="}`,
	} {
		assertDecoded(t, []byte(object))
	}
	for _, object := range []string{``, `{`, `{"t":"msg","seq":18446744073709551616,"id":"i","at":5,"data":1}`, `{"t":"msg","seq":1,"id":"i","at":5,"data64":"?"}`} {
		if o, err := protocol.Decode([]byte(object)); err == nil {
			t.Errorf("%q is decoded as %+v", object, o)
		}
	}
}

// BenchmarkDecode is what SSE and gRPC do with every message of every session.
func BenchmarkDecode(b *testing.B) {
	object := protocol.AppendMessage(nil, &message.Message{
		To: subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}, Seq: 1, ID: "01JD0000000000000000000000", Type: "order.paid",
		At: time.Now().UnixMilli(), ContentType: message.JSON, Payload: bytes.Repeat([]byte("1"), 256),
	})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := protocol.Decode(object); err != nil {
			b.Fatal(err)
		}
	}
}

func assertObject(t *testing.T, object []byte, m *message.Message) {
	t.Helper()
	var got protocol.Msg
	if err := json.Unmarshal(object, &got); err != nil {
		t.Fatalf("%q is no JSON: %v", object, err)
	}
	want := protocol.Msg{T: protocol.TMsg, Seq: m.Seq, ID: m.ID, Type: m.Type, At: m.At, Trace: m.Trace, Again: m.Again}
	if m.To.Kind != subject.User {
		want.Ch = m.To.String()
	}
	if m.ContentType != message.JSON {
		want.ContentType = m.ContentType
	}
	arrived := protocol.Data(object)
	if arrived == nil {
		arrived = got.Data64
	}
	got.Data64 = nil
	gotText, err := json.Marshal(got)
	wantText, errWant := json.Marshal(want)
	if err != nil || errWant != nil || !bytes.Equal(gotText, wantText) {
		t.Errorf("%s says %s, want %s (%v, %v)", object, gotText, wantText, err, errWant)
	}
	if !bytes.Equal(arrived, m.Payload) {
		t.Errorf("%s carries %q, want %q", object, arrived, m.Payload)
	}
}

func TestFatal(t *testing.T) {
	for code, want := range map[protocol.CloseCode]bool{
		protocol.CloseNormal: false, 1006: false, protocol.CloseProtocol: true, protocol.CloseToken: false, protocol.CloseForbidden: true,
		protocol.CloseSlow: false, protocol.CloseReplaced: true, protocol.CloseTooLarge: true, protocol.CloseBackOff: false, protocol.CloseDraining: false,
	} {
		if code.Fatal() != want {
			t.Errorf("%d is fatal: %t, want %t", code, code.Fatal(), want)
		}
	}
}

// BenchmarkAppendMessage is the 8 KB payload of design section 9.
func BenchmarkAppendMessage(b *testing.B) {
	payload := append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 8<<10)...), '"')
	m := &message.Message{
		To: subject.UserAddress("default", "alice"), Seq: 1, ID: "01JD0000000000000000000000", At: time.Now().UnixMilli(),
		ContentType: message.JSON, Payload: payload,
	}
	var object []byte
	for b.Loop() {
		object = protocol.AppendMessage(object[:0], m)
	}
	b.SetBytes(int64(len(object)))
}
