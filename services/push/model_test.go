package push

import (
	"fmt"
	"sync"
	"time"

	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// model is the archive as a push node sees it: mailboxes and cursors, in memory.
type model struct {
	mu      sync.Mutex // protects the rest
	boxes   map[subject.Address][]message.Entry
	cursors map[cursorKey]uint64
	reads   []history.ReadRequest // that came
	opens   []history.OpenRequest
	down    bool          // it answers with Unavailable
	gate    chan struct{} // reads wait for it, where there is one
	opening chan struct{} // opens wait for it, where there is one
}

func newModel() *model {
	return &model{boxes: map[subject.Address][]message.Entry{}, cursors: map[cursorKey]uint64{}}
}

// add archives a message.
func (m *model) add(to subject.Address, payload string, expires int64) *message.Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := m.head(to) + 1
	msg := &message.Message{
		To: to, Seq: seq, ID: fmt.Sprint("m", seq), ContentType: message.JSON,
		At: time.Now().UnixMilli(), Expires: expires, Payload: []byte(payload),
	}
	m.boxes[to] = append(m.boxes[to], message.Entry{From: seq, To: seq, Message: msg})
	return msg
}

// skip archives a gap of n sequences.
func (m *model) skip(to subject.Address, n uint64, why message.Why) {
	m.mu.Lock()
	defer m.mu.Unlock()
	head := m.head(to)
	m.boxes[to] = append(m.boxes[to], message.Entry{From: head + 1, To: head + n, Why: why})
}

func (m *model) head(to subject.Address) uint64 {
	box := m.boxes[to]
	if len(box) == 0 {
		return 0
	}
	return box[len(box)-1].To
}

// read is what collect answers.
func (m *model) read(q history.ReadRequest) (*history.Page, error) {
	to, err := subject.ParseTokens(q.Address)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.reads = append(m.reads, q)
	gate := m.gate
	m.mu.Unlock()
	if gate != nil {
		<-gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, problem.New(problem.Unavailable, "the archive is away")
	}
	page := &history.Page{Head: m.head(to)}
	upTo, size := q.UpTo, 0
	if upTo == 0 {
		upTo = page.Head
	}
	for _, e := range m.boxes[to] {
		if e.To <= q.After || e.From > upTo {
			continue
		}
		if e.From, e.To = max(e.From, q.After+1), min(e.To, upTo); e.Message != nil {
			size += len(e.Message.Payload)
			e = message.EntryOf(e.Message, time.Now())
		}
		if len(page.Entries) > 0 && size > q.Bytes {
			break
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

func (m *model) open(q history.OpenRequest) (*history.OpenAnswer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opens = append(m.opens, q)
	if gate := m.opening; gate != nil {
		m.mu.Unlock()
		<-gate
		m.mu.Lock()
	}
	if m.down {
		return nil, problem.New(problem.Unavailable, "the archive is away")
	}
	answer := &history.OpenAnswer{Epoch: epoch, Positions: map[string]history.Position{}}
	for _, tokens := range q.Addresses {
		to, err := subject.ParseTokens(tokens)
		if err != nil {
			return nil, err
		}
		key := cursorKey{user: subject.UserAddress(q.Tenant, q.User), device: q.Device, to: to}
		cursor, known := m.cursors[key]
		if !known {
			cursor = m.start(key, q.Floors[tokens])
		}
		answer.Positions[tokens] = history.Position{Head: m.head(to), Cursor: cursor}
	}
	return answer, nil
}

// start is where a new device begins.
func (m *model) start(key cursorKey, floor uint64) uint64 {
	if key.to.Kind != subject.User {
		floor = m.head(key.to)
	} else {
		for other, seq := range m.cursors {
			if other.to == key.to {
				floor = max(floor, seq)
			}
		}
	}
	m.cursors[key] = floor
	return floor
}

func (m *model) heads(q history.HeadsRequest) (*history.HeadsAnswer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	answer := &history.HeadsAnswer{}
	for _, tokens := range q.Addresses {
		to, err := subject.ParseTokens(tokens)
		if err != nil {
			return nil, err
		}
		answer.Heads = append(answer.Heads, m.head(to))
	}
	return answer, nil
}

// readsOf counts the reads of an address.
func (m *model) readsOf(to subject.Address) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, q := range m.reads {
		if q.Address == to.Tokens() {
			n++
		}
	}
	return n
}

func (m *model) set(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}
