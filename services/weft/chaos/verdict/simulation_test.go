package verdict

import (
	"fmt"
	"math/rand/v2"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// simulation is a fabric that keeps its promise, and that does by chance whatever the promise allows: operations
// without an answer that were archived or not, messages that expire, devices that go, that stay away and that are sent
// again what they had not acknowledged, faults during which nothing moves.
type simulation struct {
	*story
	random *rand.Rand
	boxes  map[string][]*record.Op // the archive
	states map[string]*state
	healed int64 // end of the fault under way
}

// state is a device as the fabric sees it.
type state struct {
	record.Device
	connected bool
	until     int64 // it stays as it is at least until then
	served    int64 // when it was last sent all there is
	next      map[string]int
	acked     map[string]int
}

func simulate(seed uint64) *story {
	m := &simulation{
		story: begin(), random: rand.New(rand.NewPCG(seed, 0)),
		boxes: map[string][]*record.Op{}, states: map[string]*state{},
	}
	for _, d := range m.run().Devices {
		m.states[d.Name] = &state{Device: d, connected: true, next: map[string]int{}, acked: map[string]int{}}
	}
	for range 250 {
		m.now += m.random.Int64N(300) * ms
		m.publish()
		m.live()
		if m.healed < m.now && m.random.IntN(30) == 0 {
			m.disturb()
		}
	}
	m.now = max(m.now, m.healed)
	for _, d := range m.run().Devices {
		st := m.states[d.Name]
		if !st.connected {
			m.resume(st)
		}
		m.serve(st, len(m.records))
	}
	return m.story
}

func (m *simulation) disturb() {
	m.healed = m.now + m.random.Int64N(15)*sec
	m.add(record.Record{Kind: record.KindFault, Fault: &record.Fault{
		Name: "kill", Target: "push-1", From: m.now, Healed: m.healed, InFlight: 1, Injected: true,
	}})
}

// publish ends an operation. Outside faults nearly all are acknowledged.
func (m *simulation) publish() {
	o := m.attempt([]string{"user:alice", "user:bob", "all"}[m.random.IntN(3)])
	o.Writer = []string{"v", "w"}[m.random.IntN(2)]
	if m.random.IntN(8) == 0 {
		o.TTL = (1 + m.random.Int64N(20)) * sec
	}
	switch chance := m.random.IntN(40); {
	case chance == 0: // and nobody knows of it
	case chance == 1:
		m.boxes[o.To] = append(m.boxes[o.To], o)
	case chance == 2 && m.now < m.healed:
		o.Result = record.Failed
	default:
		m.boxes[o.To] = append(m.boxes[o.To], o)
		o.Result = record.OK
		if o.Door = []record.Door{record.Stream, record.Request, record.HTTP}[m.random.IntN(3)]; o.Door != record.Stream {
			o.Seq = uint64(len(m.boxes[o.To]))
		}
	}
}

// live lets some time of the devices pass.
func (m *simulation) live() {
	for _, d := range m.run().Devices {
		st := m.states[d.Name]
		switch {
		case !st.connected:
			if m.now >= st.until {
				m.resume(st)
			}
		case m.now >= m.healed && m.now-max(st.served, m.healed) > 4*sec:
			m.serve(st, len(m.records))
		case m.random.IntN(3) > 0:
			m.serve(st, m.random.IntN(4))
		case m.random.IntN(20) == 0:
			m.leave(st)
		}
	}
}

func (m *simulation) leave(st *state) {
	st.connected, st.until = false, m.now
	if m.random.IntN(3) == 0 {
		m.conn(st.Name, "away")
		st.until += m.random.Int64N(30) * sec
	}
	m.conn(st.Name, "closed")
}

// resume opens a session. On the wire it begins anywhere behind what was acknowledged.
func (m *simulation) resume(st *state) {
	st.connected, st.served = true, m.now
	if m.random.IntN(2) == 0 {
		m.conn(st.Name, "back")
	}
	m.open(st.Name)
	for address := range st.next {
		if !st.App {
			st.next[address] = st.acked[address] + m.random.IntN(st.next[address]-st.acked[address]+1)
			st.acked[address] = min(st.acked[address], st.next[address])
		}
	}
}

// serve sends a device so many messages and gaps at most.
func (m *simulation) serve(st *state, most int) {
	for range most {
		address := st.Addresses[m.random.IntN(len(st.Addresses))]
		if st.next[address] == len(m.boxes[address]) {
			address = m.owed(st)
		}
		if address == "" {
			st.served = m.now
			return
		}
		m.step(st, address)
		if m.random.IntN(2) == 0 {
			st.acked[address] = st.next[address]
		}
	}
}

func (m *simulation) owed(st *state) string {
	for _, address := range st.Addresses {
		if st.next[address] < len(m.boxes[address]) {
			return address
		}
	}
	return ""
}

// step sends the next of a mailbox: a message, or a gap for as many as have expired.
func (m *simulation) step(st *state, address string) {
	box, n := m.boxes[address], st.next[address]
	until := n
	for until < len(box) && box[until].TTL > 0 && box[until].Start+box[until].TTL <= m.now {
		until++
	}
	if until > n {
		m.gap(st.Name, address, uint64(n+1), uint64(until), "expired")
		st.next[address] = until
		return
	}
	m.got(st.Name, box[n], uint64(n+1))
	st.next[address]++
}

// damage is something wrong that can be put into a history.
type damage struct {
	name string
	// do changes the record at a place if it can be broken in this way there, and says so.
	do func(s *story, at int, random *rand.Rand) bool
}

func damages() []damage {
	return []damage{
		{"a loss", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Got
			return g != nil && s.op(g.ID).Result == record.OK && s.remove(func(r record.Record) bool {
				return r.Got != nil && r.Got.Device == g.Device && r.Got.ID == g.ID
			})
		}},
		{"a double", func(s *story, at int, _ *rand.Rand) bool {
			if s.records[at].Got == nil {
				return false
			}
			s.add(s.records[len(s.records)-1])
			copy(s.records[at+1:], s.records[at:])
			return true
		}},
		{"an exchange", func(s *story, at int, _ *rand.Rand) bool {
			at = min(at, len(s.records)-2)
			a, b := s.records[at].Got, s.records[at+1].Got
			if a == nil || b == nil || a.Device != b.Device || a.To != b.To || a.Session != b.Session {
				return false
			}
			*a, *b = *b, *a
			return true
		}},
		{"an id", func(s *story, at int, random *rand.Rand) bool {
			g, o := s.records[at].Got, s.records[random.IntN(len(s.records))].Op
			if g == nil || o == nil || o.ID == g.ID {
				return false
			}
			g.ID = o.ID
			return true
		}},
		{"a sequence", func(s *story, at int, random *rand.Rand) bool {
			g := s.records[at].Got
			if g == nil {
				return false
			}
			g.Seq += []uint64{1, 2, ^uint64(0)}[random.IntN(3)]
			return true
		}},
		{"a byte", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Got
			if g == nil {
				return false
			}
			g.Sound = false
			return true
		}},
		{"an address", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Got
			if g == nil || g.To == "all" {
				return false
			}
			g.To = "all"
			return true
		}},
		{"a time", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Got
			if g == nil || !s.device(g.Device).App {
				return false
			}
			g.At = s.now + 100*sec
			return true
		}},
		{"an operation", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Got
			return g != nil && s.remove(func(r record.Record) bool { return r.Op != nil && r.Op.ID == g.ID })
		}},
		{"a refusal", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Got
			if g == nil {
				return false
			}
			s.op(g.ID).Result = record.Failed
			return true
		}},
		{"a silent gap", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Gap
			if g == nil || !s.device(g.Device).App || !s.follows(at, g) {
				return false
			}
			return s.remove(func(r record.Record) bool { return r.Gap == g })
		}},
		{"a reason", func(s *story, at int, _ *rand.Rand) bool {
			g := s.records[at].Gap
			if g == nil || !s.device(g.Device).App || !s.acknowledged(g) {
				return false
			}
			g.Why = "retention"
			return true
		}},
	}
}

func (s *story) op(id string) *record.Op {
	for _, r := range s.records {
		if r.Op != nil && r.Op.ID == id {
			return r.Op
		}
	}
	panic(fmt.Sprint("no ", id))
}

// remove takes records out.
func (s *story) remove(which func(record.Record) bool) bool {
	kept := s.records[:0]
	for _, r := range s.records {
		if !which(r) {
			kept = append(kept, r)
		}
	}
	removed := len(kept) < len(s.records)
	s.records = kept
	return removed
}

// follows says whether a message comes behind a gap.
func (s *story) follows(at int, g *record.Gap) bool {
	for _, r := range s.records[at:] {
		if r.Got != nil && r.Got.Device == g.Device && r.Got.To == g.To {
			return true
		}
	}
	return false
}

// acknowledged says whether a door told the sequence of a message that a gap covers.
func (s *story) acknowledged(g *record.Gap) bool {
	for _, r := range s.records {
		if r.Op != nil && r.Op.To == g.To && r.Op.Seq >= g.From && r.Op.Seq <= g.Until {
			return true
		}
	}
	return false
}
