package collect

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// partitioned is an archive that knows only its facts.
type partitioned struct{ archive.Archive }

func (partitioned) Facts() archive.Facts { return archive.Facts{Epoch: "e", Partitions: 4} }

// FuzzFromDoor: what the owner takes has one address of its partition, an id, and the same form again.
func FuzzFromDoor(f *testing.F) {
	f.Add(message.AppendEntry(nil, alice, message.Entry{Message: &message.Message{ID: "a", Payload: []byte("1")}}), 0)
	f.Add(message.AppendEntry(nil, alice, message.Entry{From: 1, To: 2, Why: message.WhyExpired}), 3)
	f.Add([]byte{}, 1)
	f.Fuzz(func(t *testing.T, data []byte, p int) {
		owner := &term{Service: &Service{archive: partitioned{}}, partition: p}
		in := owner.fromDoor(&nats.Msg{Data: data})
		if (in.refusal == nil) == (in.message == nil) {
			t.Fatalf("%+v", in)
		}
		if m := in.message; m != nil && (m.ID == "" || m.To.Check() != nil || subject.Partition(m.To, 4) != p) {
			t.Fatalf("%+v", m)
		}
	})
}

// FuzzAddressed: a subject of a door names one address, in its one encoding, or none.
func FuzzAddressed(f *testing.F) {
	for _, s := range []string{
		subject.Publish(alice), subject.InPartition(3, alice), "weft.inp.0.default.many", "weft.publish.default.user.a.b",
		"weft.in.default.all", "weft.inp.", "weft.publish.default.topic.=YQ",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := addressed(s)
		if err != nil {
			return
		}
		tokens, _ := subject.Cut(s)
		if to.Check() != nil || to.Tokens() != tokens {
			t.Fatalf("%q is %+v", s, to)
		}
	})
}

// FuzzPost: what an HTTP body becomes is a message that every other door would take, or a problem with a sentence.
func FuzzPost(f *testing.F) {
	for _, s := range []string{
		`{"to":"user:alice","data":{"a":1}}`, `{"to":"all","data64":"AA==","content_type":"x/y","ttl":"1h","id":"i"}`,
		`null`, `{"to":"user:a","data":1}}`, `{"to":"topic:\ud800","data":"\u0000"}`, `{"TO":"user:a","Data":1,"data":2}`,
	} {
		f.Add([]byte(s))
	}
	s := &Service{cfg: DefaultConfig()}
	who := &identity.Identity{Tenant: "default", Publish: []string{"*"}}
	f.Fuzz(func(t *testing.T, body []byte) {
		var p post
		if err := strictly(body, &p); err != nil {
			return
		}
		if !json.Valid(body) {
			t.Fatalf("%q is taken", body)
		}
		m, err := s.fromPost(who, p)
		if (m == nil) == (err == nil) {
			t.Fatalf("%+v and %v", m, err)
		}
		if err != nil {
			return
		}
		if err := m.Check(s.cfg.Limits); err != nil || m.To.Check() != nil {
			t.Fatalf("%q: %+v, %v", body, m, err)
		}
	})
}
