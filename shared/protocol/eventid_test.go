package protocol_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

func eventID(epoch string, cursors ...any) string {
	b := protocol.AppendEventID(nil, epoch)
	for i := 0; i < len(cursors); i += 2 {
		a, _ := subject.ParseAddress("acme", cursors[i].(string))
		b = protocol.AppendCursor(b, protocol.CursorToken(a), uint64(cursors[i+1].(int)))
	}
	return string(b)
}

func TestEventIDsComeBackAsTheyWere(t *testing.T) {
	for want, got := range map[string]string{
		"e1:":                                 eventID("e1"),
		"e1:user.alice=7,topic.news=3,all=12": eventID("e1", "user:alice", 7, "topic:news", 3, "all", 12),
		"=MjAyNi0xMTplLGY9:topic.=YSxiPTE6LsO2=1": eventID("2026-11:e,f=", "topic:a,b=1:.ö", 1),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	epoch, cursors, err := protocol.ParseEventID(eventID("2026-11:e,f=", "user:alice", 7, "topic:a,b=1:.ö", 3, "all", 0))
	want := map[string]uint64{"user:alice": 7, "topic:a,b=1:.ö": 3, "all": 0}
	if err != nil || epoch != "2026-11:e,f=" || !maps.Equal(cursors, want) {
		t.Errorf("%q %v, %v", epoch, cursors, err)
	}
}

func TestEventIDsThatNoEventHad(t *testing.T) {
	for _, id := range []string{
		"", "e1", ":", ":user.alice=7", "e1:user.alice", "e1:user.alice=", "e1:=7", "e1:user.alice=-1", "e1:user.alice=x", "e1:alice=1",
		"e1:user.alice=1,", "e1:user.alice=1,user.alice=2", "e1:all.=1", "e1:user.a.b=1", "e 1:all=1", "e1:all=18446744073709551616",
	} {
		_, _, err := protocol.ParseEventID(id)
		p, ok := errors.AsType[*problem.Problem](err)
		if !ok || p.Code != problem.BadHeader || p.Field != "Last-Event-ID" {
			t.Errorf("%q is refused with %v", id, err)
		}
	}
}

// FuzzParseEventID holds that what is read means what was written, and that nothing else is read.
func FuzzParseEventID(f *testing.F) {
	for _, seed := range []string{"e1:user.alice=7,topic.news=3", "e1:all=1", "=YQ:topic.=YS5i=2", "e1:", "x", ":=", "e1:=,=", "e1:user.alice=007"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		epoch, cursors, err := protocol.ParseEventID(id)
		if err != nil {
			if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != problem.BadHeader {
				t.Errorf("%q is refused with %v", id, err)
			}
			return
		}
		again := protocol.AppendEventID(nil, epoch)
		for name, seq := range cursors {
			a, err := subject.ParseAddress("acme", name)
			if err != nil {
				t.Fatalf("%q names %q: %v", id, name, err)
			}
			again = protocol.AppendCursor(again, protocol.CursorToken(a), seq)
		}
		epochAgain, cursorsAgain, err := protocol.ParseEventID(string(again))
		if err != nil || epochAgain != epoch || !maps.Equal(cursorsAgain, cursors) || strings.ContainsAny(string(again), "\r\n\x00") {
			t.Errorf("%q became %q: %v", id, again, err)
		}
	})
}
