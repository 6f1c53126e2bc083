package message_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

func entries() []message.Addressed {
	alice := subject.UserAddress("default", "alice@example.org")
	all := subject.Address{Tenant: "acme", Kind: subject.All}
	full := &message.Message{
		To: alice, Seq: 1 << 60, ID: "id", Type: "order.paid", ContentType: message.JSON, Trace: "00-1-2-01",
		At: 1, Expires: 2, Archived: 1 << 62, Payload: []byte(`{"a":1}`),
	}
	again := &message.Message{To: all, Seq: 1, ID: "ü", Again: true, Payload: []byte{0, 1, 255}}
	asked := &message.Message{To: alice, Seq: 2, ID: "asked", Receipt: true, Payload: []byte("1")}
	fresh := &message.Message{To: all, ID: "not archived yet", Payload: []byte("x")}
	return []message.Addressed{
		{To: alice, Entry: message.Entry{From: full.Seq, To: full.Seq, Message: full}},
		{To: all, Entry: message.Entry{From: 1, To: 1, Message: again}},
		{To: all, Entry: message.Entry{Message: fresh}},
		{To: alice, Entry: message.Entry{From: 2, To: 2, Message: asked}},
		{To: alice, Entry: message.Entry{From: 3, To: 1<<64 - 1, Why: message.WhyRetention}},
	}
}

func encode(all []message.Addressed) []byte {
	var b []byte
	for _, e := range all {
		b = message.AppendEntry(b, e.To, e.Entry)
	}
	return b
}

func TestEntries(t *testing.T) {
	want := entries()
	got, err := message.DecodeEntries(encode(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the entries came back as %+v, %v; want %+v", got, err, want)
	}
	if got, err := message.DecodeEntries(nil); err != nil || got != nil {
		t.Errorf("nothing came back as %+v, %v", got, err)
	}
	joined := message.AppendEncoded(encode(want[:1]), encode(want[1:3]))
	joined = message.AppendEncoded(message.AppendEncoded(nil, joined), message.AppendEncoded(nil, encode(want[3:])))
	if !bytes.Equal(joined, encode(want)) {
		t.Error("encoded parts do not join to the whole")
	}
}

// TestDecodeRefuses cuts and bends what AppendEntry makes.
func TestDecodeRefuses(t *testing.T) {
	gap := message.Addressed{To: subject.UserAddress("default", "alice"), Entry: message.Entry{From: 2, To: 3, Why: message.WhyExpired}}
	whole := encode([]message.Addressed{gap})
	bent := map[string][]byte{
		"another version":  append([]byte{2}, whole[1:]...),
		"another tag":      append([]byte{whole[0], 9}, whole[2:]...),
		"an empty gap":     encode([]message.Addressed{{To: gap.To, Entry: message.Entry{From: 3, To: 2}}}),
		"a gap from 0":     encode([]message.Addressed{{To: gap.To, Entry: message.Entry{From: 0, To: 2}}}),
		"no address":       encode([]message.Addressed{{Entry: gap.Entry}}),
		"a byte more":      append(bytes.Clone(whole), 0),
		"a padded number":  bytes.Replace(whole, []byte{2, 3}, []byte{0x82, 0, 3}, 1),
		"a time before 70": encode([]message.Addressed{{To: gap.To, Entry: message.Entry{Message: &message.Message{At: -1}}}}),
	}
	for what, b := range bent {
		if got, err := message.DecodeEntries(b); !errors.Is(err, message.ErrCorrupt) {
			t.Errorf("%s: %+v, %v; want ErrCorrupt", what, got, err)
		}
	}
	for _, e := range entries() {
		whole := encode([]message.Addressed{e})
		for n := 2; n < len(whole); n++ {
			if got, err := message.DecodeEntries(whole[:n]); !errors.Is(err, message.ErrCorrupt) {
				t.Errorf("%d of %d bytes: %+v, %v; want ErrCorrupt", n, len(whole), got, err)
			}
		}
	}
}

// TestClaims holds that a length that was only claimed is not allocated.
func TestClaims(t *testing.T) {
	for _, claim := range []uint64{1 << 20, 1 << 40, 1<<63 - 1, 1<<64 - 1} {
		b := binary.AppendUvarint([]byte{1, 1}, claim)
		if took := allocated(func() { _, _ = message.DecodeEntries(b) }); took > 64<<10 {
			t.Errorf("%d bytes that claim %d took %d bytes of memory", len(b), claim, took)
		}
	}
}

func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzDecodeEntries(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add(encode(entries()))
	for _, e := range entries() {
		f.Add(encode([]message.Addressed{e}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := message.DecodeEntries(b)
		if err != nil {
			if !errors.Is(err, message.ErrCorrupt) || got != nil {
				t.Errorf("refused with %+v, %v; want ErrCorrupt", got, err)
			}
			return
		}
		// The shortest entry has over 10 bytes: entries can't outnumber what was sent.
		if len(got) > len(b)/10 {
			t.Errorf("%d entries in %d bytes", len(got), len(b))
		}
		if again := encode(got); len(got) > 0 && !bytes.Equal(again, b) {
			t.Errorf("%x was taken, but is written %x", b, again)
		}
	})
}

func TestExpires(t *testing.T) {
	at := time.UnixMilli(1000)
	m := &message.Message{Seq: 4, Expires: 1000}
	if got, want := message.EntryOf(m, at), (message.Entry{From: 4, To: 4, Why: message.WhyExpired}); got != want {
		t.Errorf("at the moment it expires, a message is %+v, want %+v", got, want)
	}
	if got := message.EntryOf(m, at.Add(-time.Millisecond)); got.Message != m || got.From != 4 || got.To != 4 {
		t.Errorf("before it expires, a message is %+v", got)
	}
	if (&message.Message{}).Expired(at) {
		t.Error("a message without an expiry has expired")
	}
}

func TestHash(t *testing.T) {
	m := message.Message{ID: "1", Type: "ab", ContentType: "c", Payload: []byte("d")}
	same, hash := m, m.Hash()
	same.ID, same.At, same.Trace, same.Seq = "2", 7, "t", 9
	if same.Hash() != hash {
		t.Error("the hash is of type, content type and payload only")
	}
	for _, other := range []message.Message{
		{Type: "a", ContentType: "bc", Payload: []byte("d")},
		{Type: "ab", ContentType: "", Payload: []byte("cd")},
		{Type: "ab", ContentType: "c", Payload: []byte("e")},
	} {
		if other.Hash() == hash {
			t.Errorf("%+v has the hash of %+v", other, m)
		}
	}
}
