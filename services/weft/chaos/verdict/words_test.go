package verdict

import (
	"slices"
	"testing"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// Each of these breaks the promise in one way, and must be found in exactly that.
func TestWhatIsBrokenIsFound(t *testing.T) {
	const alice = "user:alice"
	for _, test := range []struct {
		name string
		want []Word
		tell func(s *story)
	}{
		{"the last message never came to one device", []Word{Lost}, func(s *story) { s.send(alice, "alice/wire") }},
		{"a message of the stream door came to nobody", []Word{Lost}, func(s *story) { o := s.write(alice); o.Door, o.Seq = record.Stream, 0 }},
		{"a process ended by itself", []Word{Died}, func(s *story) {
			s.add(record.Record{Kind: record.KindFault, Fault: &record.Fault{Name: record.Died, Target: "push-1", From: s.now, Healed: s.now, Note: "panic"}})
		}},
		{"a device that nobody lets in any more", []Word{Lost}, func(s *story) {
			s.conn("alice/app", "closed")
			s.send(alice, "alice/app")
		}},
		{"declared gone, though nothing removes it", []Word{Lost}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.gap("alice/app", alice, o.Seq, o.Seq, "retention")
			s.send(alice)
		}},
		{"declared expired, though it had no expiry", []Word{Lost}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.gap("alice/app", alice, o.Seq, o.Seq, "expired")
		}},
		{"declared expired before its time", []Word{Lost}, func(s *story) {
			o := s.send(alice, "alice/app")
			o.TTL = 30 * sec
			s.gap("alice/app", alice, o.Seq, o.Seq, "expired")
		}},
		{"with expiry, and nobody said that it expired", []Word{Lost}, func(s *story) { s.send(alice, "alice/app").TTL = sec }},
		{"with expiry, to nobody, and nobody said so", []Word{Lost}, func(s *story) {
			o := s.write(alice)
			o.TTL, o.Seq = sec, 0
		}},
		{"one gap for two messages that nobody got", []Word{Lost}, func(s *story) {
			for range 2 {
				o := s.write(alice)
				o.TTL, o.Seq = sec, 0
			}
			s.now += sec
			for _, d := range []string{"alice/app", "alice/wire"} {
				s.gap(d, alice, s.heads[alice]-1, s.heads[alice]-1, "expired")
			}
		}},
		{"twice at the application", []Word{Doubled}, func(s *story) {
			o := s.send(alice)
			s.got("alice/app", o, o.Seq)
		}},
		{"twice at the application, in two sessions", []Word{Doubled}, func(s *story) {
			o := s.send(alice)
			s.open("alice/app")
			s.got("alice/app", o, o.Seq)
		}},
		{"twice on the wire in one session", []Word{Doubled}, func(s *story) {
			o := s.send(alice)
			s.send(alice)
			s.got("alice/wire", o, o.Seq)
		}},
		{"archived twice", []Word{Doubled, Diverged}, func(s *story) {
			o := s.send(alice)
			s.heads[alice]++
			s.deliver(o, s.heads[alice])
		}},
		{"a lower sequence came later", []Word{Reordered, Jumped}, func(s *story) {
			first, second := s.write(alice), s.write(alice)
			s.deliver(second, second.Seq)
			s.deliver(first, first.Seq)
		}},
		{"on the wire what lies before the session's beginning", []Word{Reordered}, func(s *story) {
			first, second := s.send(alice), s.send(alice)
			s.open("alice/wire")
			s.got("alice/wire", second, second.Seq)
			s.got("alice/wire", first, first.Seq)
		}},
		{"what lies before a gap, in a session that is counted from another number", []Word{Reordered}, func(s *story) {
			o := s.send(alice)
			s.heads[alice]++
			s.open("alice/wire")
			s.session["alice/wire"] = 12
			s.gap("alice/wire", alice, s.heads[alice], s.heads[alice], "expired")
			s.gap("alice/app", alice, s.heads[alice], s.heads[alice], "expired")
			s.got("alice/wire", o, o.Seq)
		}},
		{"after it had been declared gone", []Word{Reordered}, func(s *story) {
			o := s.write(alice)
			o.TTL = sec
			s.now += 2 * sec
			s.gap("alice/app", alice, o.Seq, o.Seq, "expired")
			s.deliver(o, o.Seq)
		}},
		{"a writer's messages numbered the other way round", []Word{Reordered}, func(s *story) {
			first, second := s.write(alice), s.write(alice)
			first.Seq, second.Seq = second.Seq, first.Seq
			s.deliver(second, second.Seq)
			s.deliver(first, first.Seq)
		}},
		{"two messages under one sequence", []Word{Diverged}, func(s *story) {
			first := s.write("all")
			second := s.attempt("all")
			s.deliver(first, first.Seq, "bob/app")
			s.got("bob/app", second, first.Seq)
			s.got("bob/app", first, first.Seq)
		}},
		{"a message under two sequences", []Word{Diverged}, func(s *story) {
			o := s.write("all")
			s.heads["all"]++
			s.deliver(o, o.Seq, "bob/app")
			lost := s.attempt("all")
			s.got("bob/app", lost, o.Seq+1).Seq = o.Seq // bob has another message there
			s.got("bob/app", o, o.Seq+1)
		}},
		{"two devices have two messages the other way round", []Word{Diverged}, func(s *story) {
			first, second := s.write(alice), s.write(alice)
			second.Writer, first.Seq, second.Seq = "v", 0, 0
			s.got("alice/app", first, s.heads[alice]-1)
			s.got("alice/wire", second, s.heads[alice]-1)
			s.got("alice/app", second, s.heads[alice])
			s.got("alice/wire", first, s.heads[alice])
		}},
		{"the door told another sequence", []Word{Diverged}, func(s *story) {
			o := s.write(alice)
			o.Seq++
			s.deliver(o, o.Seq-1)
		}},
		{"the door gave one sequence to two", []Word{Diverged}, func(s *story) {
			o := s.send(alice)
			s.attempt(alice).Seq = o.Seq
		}},
		{"of two devices one got what has no answer", []Word{Diverged}, func(s *story) {
			s.got("alice/app", s.attempt(alice), s.heads[alice]+1)
		}},
		{"what has no answer, to one device, and gone for the other", []Word{Diverged}, func(s *story) {
			s.got("alice/app", s.attempt(alice), s.heads[alice]+1)
			s.gap("alice/wire", alice, s.heads[alice]+1, s.heads[alice]+1, "deleted")
		}},
		{"declared gone to who had it", []Word{Diverged}, func(s *story) {
			o := s.send(alice)
			s.open("alice/wire")
			s.gap("alice/wire", alice, o.Seq, o.Seq, "deleted")
		}},
		{"a sequence that nobody has was skipped", []Word{Jumped}, func(s *story) {
			s.heads[alice]++
			s.send(alice)
		}},
		{"a sequence was skipped between two sessions on the wire", []Word{Jumped}, func(s *story) {
			o := s.attempt("all")
			s.got("alice/app", o, s.heads["all"]+1)
			s.got("bob/app", o, s.heads["all"]+1)
			s.heads["all"]++
			s.open("alice/wire")
			last := s.send("all")
			s.open("alice/wire")
			s.got("alice/wire", o, last.Seq-1)
			s.got("alice/wire", last, last.Seq)
		}},
		{"the first message of all is not number 1", []Word{Jumped}, func(s *story) {
			*s = *begin()
			s.heads[alice] = 1
			s.send(alice)
			s.fault(func() {})
		}},
		{"a gap that begins too late", []Word{Jumped}, func(s *story) {
			s.heads[alice] += 3
			for _, d := range []string{"alice/app", "alice/wire"} {
				s.gap(d, alice, s.heads[alice]-1, s.heads[alice], "expired")
			}
		}},
		{"a gap that ends too early", []Word{Jumped}, func(s *story) {
			s.heads[alice] += 3
			for _, d := range []string{"alice/app", "alice/wire"} {
				s.gap(d, alice, s.heads[alice]-2, s.heads[alice]-1, "expired")
			}
			s.send(alice)
		}},
		{"a gap over what this session had", []Word{Jumped}, func(s *story) {
			o := s.send(alice)
			o.TTL = 1
			s.now += sec
			s.gap("alice/wire", alice, o.Seq, o.Seq+1, "expired")
			s.gap("alice/app", alice, o.Seq+1, o.Seq+1, "expired")
		}},
		{"a gap of another session does not cover", []Word{Jumped}, func(s *story) {
			s.heads[alice]++
			s.gap("alice/app", alice, s.heads[alice], s.heads[alice], "expired")
			s.gap("alice/wire", alice, s.heads[alice], s.heads[alice], "expired")
			s.open("alice/wire")
			s.send(alice)
			s.heads[alice]++
			s.gap("alice/app", alice, s.heads[alice], s.heads[alice], "expired")
			s.send(alice)
		}},
		{"bob's message in alice's mailbox", []Word{Misrouted}, func(s *story) {
			g := s.got("alice/app", s.send("user:bob"), 0)
			g.To, g.Seq = alice, s.heads[alice]+1
		}},
		{"under an address of somebody else", []Word{Misrouted}, func(s *story) {
			o := s.send("user:bob")
			s.got("alice/app", o, o.Seq)
		}},
		{"a gap of somebody else", []Word{Misrouted}, func(s *story) { s.gap("alice/app", "user:bob", 1, 2, "expired") }},
		{"a checksum is wrong", []Word{Corrupted}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.got("alice/app", o, o.Seq).Sound = false
		}},
		{"another message's payload", []Word{Corrupted}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.got("alice/app", o, o.Seq).Counter--
		}},
		{"another writer's payload", []Word{Corrupted}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.got("alice/app", o, o.Seq).Writer = "v"
		}},
		{"an id of another mailbox's message", []Word{Corrupted}, func(s *story) {
			o := s.send("all")
			g := s.got("alice/app", o, s.heads[alice]+1)
			g.To, g.For = alice, alice
		}},
		{"a sequence from nowhere", []Word{Corrupted, Lost}, func(s *story) { s.got("alice/app", s.send(alice, "alice/app"), 1<<60) }},
		{"no sequence", []Word{Corrupted, Lost}, func(s *story) { s.got("alice/app", s.send(alice, "alice/app"), 0) }},
		{"a gap that is no range", []Word{Corrupted}, func(s *story) { s.gap("alice/app", alice, s.heads[alice]+1, s.heads[alice], "expired") }},
		{"a gap without an end", []Word{Corrupted}, func(s *story) { s.gap("alice/app", alice, s.heads[alice]+1, 1<<60, "expired") }},
		{"a door told a sequence from nowhere", []Word{Corrupted}, func(s *story) { s.attempt(alice).Seq = 1 << 60 }},
		{"nobody wrote it", []Word{Invented}, func(s *story) {
			s.got("bob/app", &record.Op{Writer: "w", To: "user:bob", Counter: 9, ID: "x"}, s.heads["user:bob"]+1)
		}},
		{"it was refused for good", []Word{Invented}, func(s *story) {
			o := s.attempt(alice)
			o.Result, o.Code = record.Failed, "too_large"
			s.deliver(o, s.heads[alice]+1)
		}},
		{"too late after the acknowledgement", []Word{Late}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.now += 11 * sec
			s.got("alice/app", o, o.Seq)
		}},
		{"too late after the healing", []Word{Late}, func(s *story) {
			var o *record.Op
			s.fault(func() { o = s.send(alice, "alice/app") })
			s.now += 11 * sec
			s.got("alice/app", o, o.Seq)
		}},
		{"too late before a fault that came afterwards", []Word{Late}, func(s *story) {
			o := s.send(alice, "alice/app")
			s.now += 11 * sec
			s.fault(func() {})
			s.got("alice/app", o, o.Seq)
		}},
		{"too late after the device was back", []Word{Late}, func(s *story) {
			s.conn("alice/app", "closed")
			o := s.send(alice, "alice/app")
			s.now += 11 * sec
			s.open("alice/app")
			s.now += 11 * sec
			s.got("alice/app", o, o.Seq)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := plain()
			test.tell(s)
			v := s.judge(t, Options{})
			got := words(v)
			slices.Sort(got)
			slices.Sort(test.want)
			if v.Outcome != Invalid || !slices.Equal(got, test.want) {
				t.Errorf("%s for %v, want it invalid for %v\n%v", v.Outcome, got, test.want, v.Cases)
			}
			if len(v.Reasons) > 0 {
				t.Errorf("inconclusive as well: %q", v.Reasons)
			}
			for _, c := range v.Cases {
				if c.Address == "" && c.Word != Died || c.Text == "" || c.At == 0 {
					t.Errorf("a case says too little: %+v", c)
				}
			}
		})
	}
}
