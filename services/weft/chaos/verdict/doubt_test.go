package verdict

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// A run that shows nothing is not valid.
func TestWhatProvesNothingIsInconclusive(t *testing.T) {
	const alice = "user:alice"
	for _, test := range []struct {
		name, reason string
		tell         func(s *story)
	}{
		{"cut off", "ends before the run had settled", func(s *story) {
			s.send(alice, "alice/app") // which may have been about to come
			s.got("bob/app", &record.Op{To: "user:bob", ID: "x"}, s.heads["user:bob"]+1)
			s.add(record.Record{Kind: record.KindPhase, Phase: &record.Phase{Name: "quiet", At: s.now}})
		}},
		{"ended too early", "2 deliveries were still owed", func(s *story) {
			s.write(alice)
			s.now += 9 * sec
			s.add(record.Record{Kind: record.KindPhase, Phase: &record.Phase{Name: "settled", At: s.now}})
		}},
		{"ended soon after the healing", "2 deliveries were still owed", func(s *story) {
			s.fault(func() {
				s.write(alice)
				s.now += 20 * sec
			})
			s.add(record.Record{Kind: record.KindPhase, Phase: &record.Phase{Name: "settled", At: s.now}})
		}},
		{"ended while the device was away", "1 deliveries were still owed", func(s *story) {
			s.conn("alice/app", "away")
			s.conn("alice/app", "closed")
			s.send(alice, "alice/app")
		}},
		{"nobody there", "no devices", func(s *story) {
			s.run().Devices = nil
			s.records = s.records[:1]
		}},
		{"nothing written", "no message was acknowledged", func(s *story) {
			*s = *begin()
			s.fault(func() {})
		}},
		{"nothing acknowledged", "no message was acknowledged", func(s *story) {
			*s = *begin()
			s.attempt(alice)
			s.fault(func() {})
		}},
		{"many unanswered", "24 of 27 operations were acknowledged within 5s", func(s *story) {
			for range 3 {
				s.attempt(alice)
			}
		}},
		{"many slow", "24 of 27 operations were acknowledged within 5s", func(s *story) {
			for range 3 {
				o := s.send(alice)
				s.now += 6 * sec
				o.End = o.Start + 6*sec
			}
		}},
		{"all within faults", "0 of 0 operations", func(s *story) {
			*s = *begin()
			s.fault(func() { s.send(alice) })
		}},
		{"many shortly after faults", "24 of 27 operations", func(s *story) {
			s.fault(func() {})
			s.now -= 3*sec - 3*ms
			s.attempt(alice) // still inside
			s.now += 3 * sec
			for range 3 {
				s.attempt(alice)
			}
		}},
		{"slow before a fault came", "24 of 27 operations", func(s *story) {
			for range 3 {
				o := s.send(alice)
				s.now += 6 * sec
				s.fault(func() {})
				o.End = s.now
			}
		}},
		{"no faults", "no fault was injected", func(s *story) {
			*s = *begin()
			s.send(alice)
			s.add(record.Record{Kind: record.KindFault, Fault: &record.Fault{Name: "disk-full", Note: "not root"}})
		}},
		{"faults at rest", "messages were in flight at 3 of 4 faults", func(s *story) {
			for _, n := range []int{1, 1, 0} {
				s.fault(func() {}).InFlight = n
			}
		}},
		{"not healed", "kill of push-1 was never healed", func(s *story) { s.fault(func() {}).Healed = 0 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := plain()
			test.tell(s)
			v := s.judge(t, Options{})
			if v.Outcome != Inconclusive || !strings.Contains(strings.Join(v.Reasons, "\n"), test.reason) {
				t.Errorf("%s %q %v, want it inconclusive since %q", v.Outcome, v.Reasons, v.Cases, test.reason)
			}
		})
	}
}

func TestARunWithoutFaultsIsValidWhereNoneWasAskedFor(t *testing.T) {
	s := begin()
	s.send("all")
	if v := s.judge(t, Options{Faultless: true}); v.Outcome != Valid {
		t.Errorf("%s %q", v.Outcome, v.Reasons)
	}
}

func TestWhatCountsAsPromptIsAnOption(t *testing.T) {
	s := plain()
	for range 3 {
		o := s.send("all")
		o.End = o.Start + 6*sec
	}
	if v := s.judge(t, Options{Prompt: 7 * time.Second}); v.Outcome != Valid {
		t.Errorf("%s %q", v.Outcome, v.Reasons)
	}
}

func TestInvalidBeatsInconclusive(t *testing.T) {
	s := begin()
	o := s.send("all")
	s.got("bob/app", o, o.Seq)
	v := s.judge(t, Options{})
	if v.Outcome != Invalid || len(v.Reasons) == 0 {
		t.Errorf("%s %q", v.Outcome, v.Reasons)
	}
}

func TestExitCodes(t *testing.T) {
	for outcome, want := range map[Outcome]int{Valid: 0, Invalid: 1, Inconclusive: 2, "": 2} {
		if got := outcome.Exit(); got != want {
			t.Errorf("%q exits with %d, want %d", outcome, got, want)
		}
	}
}

func TestWhatIsNoHistoryHasNoVerdict(t *testing.T) {
	for name, tell := range map[string]func(s *story){
		"empty":               func(s *story) { s.records = nil },
		"no run":              func(s *story) { s.records = s.records[1:] },
		"two runs":            func(s *story) { s.add(s.records[0]) },
		"two devices":         func(s *story) { s.run().Devices = append(s.run().Devices, s.run().Devices[0]) },
		"two operations":      func(s *story) { s.send("all").ID = s.send("all").ID },
		"an unknown kind":     func(s *story) { s.add(record.Record{Kind: "crash"}) },
		"an unknown state":    func(s *story) { s.conn("bob/app", "asleep") },
		"a stranger connects": func(s *story) { s.conn("eve/app", "open") },
		"a stranger gets":     func(s *story) { s.got("eve/app", s.write("all"), s.heads["all"]) },
		"a stranger's gap":    func(s *story) { s.gap("eve/app", "all", 1, 1, "expired") },
	} {
		s := plain()
		tell(s)
		if v, err := Judge(s.source(), Options{}); err == nil {
			t.Errorf("%s: %s", name, v.Outcome)
		}
	}
	failed := errors.New("disk")
	if _, err := Judge(func(func(record.Record) error) error { return failed }, Options{}); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
}

func TestAFolderIsJudged(t *testing.T) {
	folder := t.TempDir()
	log, err := record.Create(folder)
	if err != nil {
		t.Fatal(err)
	}
	s := plain()
	s.judge(t, Options{}) // which ends it
	for _, r := range s.records {
		log.Add(r)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := Judge(Folder(folder), Options{}); err != nil || v.Outcome != Valid || v.Deliveries != 51 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestTheTableSaysWhatAPersonNeeds(t *testing.T) {
	s := plain()
	for range 7 {
		s.send("user:alice", "alice/wire")
	}
	s.fault(func() { s.send("user:alice", "alice/wire") })
	s.add(record.Record{Kind: record.KindFault, Fault: &record.Fault{Name: "disk-full", Note: "the mount was refused"}})
	s.open("bob/app")
	v := s.judge(t, Options{Cases: 2, Again: "chaos -judge here"})
	var out bytes.Buffer
	if err := v.Table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"INVALID (form ci, seed 7", "repeat it:   go run ./services/weft/cmd/chaos -seed 7", "judge again: chaos -judge here",
		"lost  doubled", "8     0 ", "request  ok", "33          request", "31 of 31 (100.0 %)", "2 of 2 (100.0 %)", "3, 2 of them on the Go client",
		"disk-full  0", "1: the mount was refused", "kill       2         2          2.11 s", "outside fault windows  ",
		"lost, 2 of 8:", "  alice/wire, user:alice 23 (w-user:alice-23) was acknowledged and never came; at ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if v.Sessions != 4 || v.Deliveries != 59 {
		t.Errorf("%d sessions, %d deliveries", v.Sessions, v.Deliveries)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestATableThatCannotBeWrittenIsAnError(t *testing.T) {
	if err := plain().judge(t, Options{}).Table(full{}); err == nil {
		t.Error("no error")
	}
}

// A case names what was broken between the writing of its message and what is wrong; a loss what was broken until it
// was late.
func TestCasesNameTheirFaults(t *testing.T) {
	for faults, want := range []string{
		"",
		"kill of push-1 (3.16 s to 5.27 s)",
		"kill of push-1 (3.16 s to 5.27 s), kill of push-1 (5.27 s to 7.27 s)",
		"kill of push-1 (3.16 s to 5.27 s), kill of push-1 (5.27 s to 7.27 s), kill of push-1 (7.27 s to 9.27 s)",
		"kill of push-1 (3.16 s to 5.27 s), kill of push-1 (5.27 s to 7.27 s), kill of push-1 (7.27 s to 9.27 s), 2 more",
	} {
		s := begin()
		for range 20 {
			s.send("all")
		}
		s.now += sec
		if faults == 0 {
			s.send("all", "bob/app")
			s.now += 20 * sec
			s.fault(func() {})
		}
		for n := range faults {
			s.fault(func() {
				if n == 0 {
					s.send("all", "bob/app")
				}
			})
			s.now -= 3 * sec
		}
		if faults == 4 { // one that overlaps with all of them
			s.add(record.Record{Kind: record.KindFault, Fault: &record.Fault{
				Name: "kill", Target: "push-1", From: 8 * sec, Healed: 30 * sec, InFlight: 1, Injected: true,
			}})
		}
		v := s.judge(t, Options{})
		if len(v.Cases) != 1 || v.Cases[0].Fault != want {
			t.Errorf("%+v, want %q", v.Cases, want)
		}
	}
}

// The figures of a fault count from when the message was owed: not while the device was away.
func TestFigures(t *testing.T) {
	s := plain()
	f := s.fault(func() {
		s.conn("alice/app", "away")
		o := s.write("user:alice")
		s.got("alice/wire", o, o.Seq)
		s.now += 4 * sec
		s.conn("alice/app", "back")
		s.got("alice/app", o, o.Seq)
	})
	f.Name = "stop"
	v := s.judge(t, Options{})
	if v.Outcome != Valid || len(v.Faults) != 2 || v.Faults[1].Name != "stop" || v.Faults[1].Outage != ms || v.Faults[1].Window != 6109*ms {
		t.Errorf("%s %v %+v", v.Outcome, v.Cases, v.Faults)
	}
	if v.Calm.Count != 47 || v.Stormy.Count != 6 || v.Stormy.Most != 3*ms || v.Calm.P50 != 1007 {
		t.Errorf("calm %+v, stormy %+v", v.Calm, v.Stormy)
	}
}

func TestOnlyWhatALaterSessionBringsWasSentAgain(t *testing.T) {
	s := plain()
	o := s.send("user:alice")
	s.got("alice/wire", o, o.Seq)
	s.open("alice/wire")
	s.got("alice/wire", o, o.Seq)
	if v := s.judge(t, Options{}); v.Resent != 1 || v.Counts[1] != (Count{Doubled, 1}) {
		t.Errorf("%d sent again, %v", v.Resent, v.Counts)
	}
}

// What was wrongly declared gone will not come, however long the run goes on.
func TestALieIsOneInAHistoryThatWasCutOff(t *testing.T) {
	s := plain()
	o := s.send("all", "bob/app")
	s.gap("bob/app", "all", o.Seq, o.Seq, "retention")
	s.add(record.Record{Kind: record.KindPhase, Phase: &record.Phase{Name: "quiet", At: s.now}})
	if v := s.judge(t, Options{}); v.Outcome != Invalid || v.Counts[0] != (Count{Lost, 1}) {
		t.Errorf("%s %v", v.Outcome, v.Counts)
	}
}
