package verdict

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

const (
	ms  = int64(1000)
	sec = 1000 * ms
)

// story is a history that a test tells. As its plain self it is valid; each test then changes it.
type story struct {
	records []record.Record
	now     int64
	heads   map[string]uint64
	counter map[string]uint64
	session map[string]int
}

// begin has alice with an application and a device on the wire, and bob with an application; all of them on `all`.
func begin() *story {
	s := &story{heads: map[string]uint64{}, counter: map[string]uint64{}, session: map[string]int{}}
	s.add(record.Record{Kind: record.KindRun, Run: &record.Run{
		Seed: 7, Form: "ci", Command: "go run ./services/weft/cmd/chaos -seed 7", Late: 10 * sec,
		Devices: []record.Device{
			{Name: "alice/app", User: "alice", App: true, Addresses: []string{"user:alice", "all"}},
			{Name: "alice/wire", User: "alice", Addresses: []string{"user:alice", "all"}},
			{Name: "bob/app", User: "bob", App: true, Addresses: []string{"user:bob", "all"}},
		},
	}})
	for _, d := range s.run().Devices {
		s.open(d.Name)
	}
	return s
}

// plain is a whole run: messages before, during and after a fault.
func plain() *story {
	s := begin()
	for range 20 {
		s.send("user:alice")
	}
	s.send("user:bob")
	s.send("all")
	s.fault(func() { s.send("user:alice") })
	s.send("user:alice")
	s.send("all")
	return s
}

func (s *story) add(r record.Record) { s.records = append(s.records, r) }

func (s *story) run() *record.Run { return s.records[0].Run }

func (s *story) device(name string) record.Device {
	for _, d := range s.run().Devices {
		if d.Name == name {
			return d
		}
	}
	panic(name)
}

func (s *story) conn(device, what string) {
	s.now += ms
	s.add(record.Record{Kind: record.KindConn, Conn: &record.Conn{Device: device, At: s.now, What: what}})
}

func (s *story) open(device string) {
	s.session[device]++
	s.conn(device, "open")
}

// write is an acknowledged operation whose message has the next sequence, and that reaches nobody yet.
func (s *story) write(to string) *record.Op {
	s.heads[to]++
	o := s.attempt(to)
	o.Result, o.Seq = record.OK, s.heads[to]
	return o
}

// attempt is an operation that nobody answered, and whose message is nowhere.
func (s *story) attempt(to string) *record.Op {
	s.counter[to]++
	s.now += 100 * ms
	o := &record.Op{
		Writer: "w", To: to, Counter: s.counter[to], ID: fmt.Sprintf("w-%s-%d", to, s.counter[to]), Door: record.Request,
		Start: s.now, End: s.now + 5*ms, Tries: 1, Result: record.Unknown,
	}
	s.now = o.End
	s.add(record.Record{Kind: record.KindOp, Op: o})
	return o
}

// got brings a message to a device.
func (s *story) got(device string, o *record.Op, seq uint64) *record.Got {
	s.now += ms
	g := &record.Got{
		Device: device, At: s.now, Session: s.session[device], To: o.To, Seq: seq, ID: o.ID,
		Writer: o.Writer, Counter: o.Counter, For: o.To, Sound: true,
	}
	s.add(record.Record{Kind: record.KindGot, Got: g})
	return g
}

// gap declares a range gone.
func (s *story) gap(device, to string, from, until uint64, why string) *record.Gap {
	s.now += ms
	g := &record.Gap{Device: device, At: s.now, To: to, From: from, Until: until, Why: why}
	s.add(record.Record{Kind: record.KindGap, Gap: g})
	return g
}

// deliver brings a message to all devices that should have it, except some.
func (s *story) deliver(o *record.Op, seq uint64, except ...string) {
	for _, d := range s.run().Devices {
		if slices.Contains(d.Addresses, o.To) && !slices.Contains(except, d.Name) {
			s.got(d.Name, o, seq)
		}
	}
}

// send is write and deliver.
func (s *story) send(to string, except ...string) *record.Op {
	o := s.write(to)
	s.deliver(o, o.Seq, except...)
	return o
}

// fault is a process that is killed, with messages in flight, and back after what happens meanwhile and 2 s.
func (s *story) fault(meanwhile func()) *record.Fault {
	f := &record.Fault{Name: "kill", Target: "push-1", From: s.now, InFlight: 3, Injected: true}
	meanwhile()
	s.now += 2 * sec
	f.Healed = s.now
	s.add(record.Record{Kind: record.KindFault, Fault: f})
	s.now += 3 * sec
	return f
}

func (s *story) source() Source {
	return func(each func(record.Record) error) error {
		for _, r := range s.records {
			if err := each(r); err != nil {
				return err
			}
		}
		return nil
	}
}

// judge ends the run a minute later, unless it has ended, and judges it.
func (s *story) judge(t *testing.T, options Options) *Verdict {
	t.Helper()
	if s.records[len(s.records)-1].Kind != record.KindPhase {
		s.now += 60 * sec
		s.add(record.Record{Kind: record.KindPhase, Phase: &record.Phase{Name: "settled", At: s.now}})
	}
	v, err := Judge(s.source(), options)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// words are those that a verdict found.
func words(v *Verdict) []Word {
	var out []Word
	for _, c := range v.Counts {
		if c.Count > 0 {
			out = append(out, c.Word)
		}
	}
	return out
}
