package verdict

import (
	"testing"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// Each of these looks like something broken, and is not.
func TestWhatIsLegalIsValid(t *testing.T) {
	const alice = "user:alice"
	for _, test := range []struct {
		name string
		tell func(s *story)
	}{
		{"nothing special", func(*story) {}},
		{"what was not acknowledged comes again in the next session on the wire", func(s *story) {
			o := s.send(alice)
			s.open("alice/wire")
			s.got("alice/wire", o, o.Seq)
		}},
		{"a session on the wire begins far back", func(s *story) {
			first, second := s.send(alice), s.send(alice)
			s.open("alice/wire")
			s.got("alice/wire", first, first.Seq)
			s.got("alice/wire", second, second.Seq)
		}},
		{"what was read of the session before comes after the next has opened", func(s *story) {
			first, second := s.write(alice), s.write(alice)
			s.deliver(first, first.Seq)
			s.got("alice/app", second, second.Seq)
			s.open("alice/wire")
			s.got("alice/wire", second, second.Seq).Session--
			s.got("alice/wire", second, second.Seq)
		}},
		{"sessions that are counted from another number", func(s *story) {
			s.heads[alice]++
			s.open("alice/wire")
			s.session["alice/wire"] = 12
			s.gap("alice/wire", alice, s.heads[alice], s.heads[alice], "expired")
			s.gap("alice/app", alice, s.heads[alice], s.heads[alice], "expired")
			s.send(alice)
		}},
		{"no answer, and everybody got it", func(s *story) {
			o := s.attempt(alice)
			s.heads[alice]++
			s.deliver(o, s.heads[alice])
			s.send(alice)
		}},
		{"no answer, and nobody got it", func(s *story) {
			s.attempt(alice)
			s.send(alice)
		}},
		{"no answer, and numbered after what was written later", func(s *story) {
			o := s.attempt(alice)
			s.send(alice)
			s.heads[alice]++
			s.deliver(o, s.heads[alice])
		}},
		{"no answer, and gone for who was away", func(s *story) {
			o := s.attempt(alice)
			o.TTL = sec
			s.heads[alice]++
			s.got("alice/app", o, s.heads[alice])
			s.now += 2 * sec
			s.gap("alice/wire", alice, s.heads[alice], s.heads[alice], "expired")
		}},
		{"refused for good, and nobody got it", func(s *story) { s.attempt(alice).Result = record.Failed }},
		{"two doors in another order", func(s *story) {
			first, second := s.write(alice), s.write(alice)
			first.Door = record.HTTP
			first.Seq, second.Seq = second.Seq, first.Seq
			s.deliver(second, second.Seq)
			s.deliver(first, first.Seq)
		}},
		{"two writers in another order", func(s *story) {
			first, second := s.write(alice), s.write(alice)
			first.Writer = "v"
			first.Seq, second.Seq = second.Seq, first.Seq
			s.deliver(second, second.Seq)
			s.deliver(first, first.Seq)
		}},
		{"at a device before its writer was answered", func(s *story) {
			o := s.send(alice)
			o.End = s.now + 3*sec
		}},
		{"expired for who was away", func(s *story) {
			o := s.send(alice, "alice/app")
			o.TTL = sec
			s.now += 2 * sec
			s.gap("alice/app", alice, o.Seq, o.Seq, "expired")
			s.send(alice)
		}},
		{"expired before anybody got it", func(s *story) {
			for range 2 {
				o := s.write(alice)
				o.TTL, o.Seq, o.Door = sec, 0, record.Stream
			}
			s.now += 2 * sec
			for _, d := range []string{"alice/app", "alice/wire"} {
				s.gap(d, alice, s.heads[alice]-1, s.heads[alice], "expired")
			}
		}},
		{"expired in a session, seen in the one before", func(s *story) {
			o := s.send(alice)
			o.TTL = sec
			s.now += 2 * sec
			s.open("alice/wire")
			s.gap("alice/wire", alice, o.Seq, o.Seq, "expired")
			s.send(alice)
		}},
		{"an application is told more of a gap than it lacks", func(s *story) {
			first, second := s.send(alice), s.send(alice, "alice/app")
			first.TTL, second.TTL = sec, sec
			s.now += 2 * sec
			s.gap("alice/app", alice, first.Seq, second.Seq, "expired")
			s.send(alice)
		}},
		{"a gap of what nobody is known to have", func(s *story) {
			s.attempt(alice)
			s.heads[alice]++
			for _, d := range []string{"alice/app", "alice/wire"} {
				s.gap(d, alice, s.heads[alice], s.heads[alice], "quarantined")
			}
			s.send(alice)
		}},
		{"late because a fault was under way", func(s *story) {
			var o *record.Op
			s.fault(func() {
				o = s.send(alice, "alice/app")
				s.now += 30 * sec
			})
			s.got("alice/app", o, o.Seq)
		}},
		{"late because one fault followed the other", func(s *story) {
			o := s.send(alice, "alice/app")
			for range 5 {
				s.fault(func() {})
				s.now += 4 * sec
			}
			s.got("alice/app", o, o.Seq)
		}},
		{"late because the device was away", func(s *story) {
			s.conn("alice/app", "away")
			o := s.send(alice, "alice/app")
			s.now += 30 * sec
			s.conn("alice/app", "back")
			s.got("alice/app", o, o.Seq)
		}},
		{"late because the device was not connected", func(s *story) {
			s.conn("alice/app", "away")
			s.conn("alice/app", "closed")
			o := s.send(alice, "alice/app")
			s.now += 30 * sec
			s.conn("alice/app", "back")
			s.now += 8 * sec
			s.open("alice/app")
			s.now += 8 * sec
			s.got("alice/app", o, o.Seq)
		}},
		{"a mailbox that no device has", func(s *story) { s.write("user:carol") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := plain()
			test.tell(s)
			if v := s.judge(t, Options{}); v.Outcome != Valid {
				t.Errorf("%s: %v %q", v.Outcome, v.Cases, v.Reasons)
			}
		})
	}
}
