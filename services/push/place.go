package push

import (
	"maps"
	"slices"

	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// places is where the client of a stream stands in its mailboxes after an event, as the event's id says it. It learns that
// from what is written, and leaves out what the next session of the device knows without being told.
//
// Left out is a mailbox that was not sent anything, or whose last item was acknowledged and handed over: the session began it at the device's
// cursor, and goes on there. Kept for ever is what the client has said itself, which decides whatever Redis and archive
// have, and everything of a client without a name, whose next session is another device's.
type places struct {
	hello protocol.FromClient
	epoch string
	user  string // its address, as hello names it
	list  []place
}

// place is one mailbox.
type place struct {
	ch    string // as on the wire
	token string
	seq   uint64
	keep  bool
}

// note takes an object that is written, and says whether the client stands elsewhere after it.
func (p *places) note(o *protocol.FromServer) bool {
	if o.T == protocol.TWelcome {
		p.begin(o)
		return p.hello.Device == "" // else nothing was sent yet that would not be sent again
	}
	seq, ok := o.Position()
	if !ok {
		return false
	}
	p.set(o.Ch, seq, false)
	return true
}

// begin takes the welcome.
func (p *places) begin(welcome *protocol.FromServer) {
	p.epoch, p.user = welcome.Epoch, subject.UserAddress("", welcome.User).String()
	same := p.hello.Epoch == p.epoch
	for _, name := range slices.Sorted(maps.Keys(welcome.Mailboxes)) {
		_, said := p.hello.Cursors[name]
		if p.hello.Device == "" || (said && same) {
			ch := name
			if ch == p.user {
				ch = ""
			}
			p.set(ch, welcome.Mailboxes[name].Next-1, true)
		}
	}
}

// set notes that everything of a mailbox up to seq was sent.
func (p *places) set(ch string, seq uint64, keep bool) {
	for i := range p.list {
		if p.list[i].ch == ch {
			p.list[i].seq = max(p.list[i].seq, seq) // a message that is sent again is no step back
			return
		}
	}
	name := ch
	if name == "" {
		name = p.user
	}
	a, err := subject.ParseAddress(subject.DefaultTenant, name)
	if err != nil {
		return // no address of ours
	}
	p.list = append(p.list, place{ch: ch, token: protocol.CursorToken(a), seq: seq, keep: keep})
}

// forget leaves out what is settled: the device's next session begins behind it by itself.
func (p *places) forget(settled func(ch string, seq uint64) bool) {
	p.list = slices.DeleteFunc(p.list, func(at place) bool { return !at.keep && settled(at.ch, at.seq) })
}

// append appends the id of the event that was noted last.
func (p *places) append(b []byte) []byte {
	b = protocol.AppendEventID(b, p.epoch)
	for _, at := range p.list {
		b = protocol.AppendCursor(b, at.token, at.seq)
	}
	return b
}
