package push

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// client is what a device has got and acknowledged in one address, and what it expects.
type client struct {
	start, got, acked uint64
	sizes             []sent // of what it got and did not acknowledge
}

// game is one random schedule: a publisher, a wire that drops, doubles and reorders, an archive that fails, a sweep,
// and a client that acknowledges when it likes.
type game struct {
	*bench
	dice    *rand.Rand
	session *session
	paper   *paper
	boxes   []subject.Address
	clients map[subject.Address]*client
	wire    []item
	largest int               // object that was published
	owner   []subject.Address // of wire
}

func newGame(t testing.TB, seed uint64) *game {
	dice := rand.New(rand.NewPCG(seed, 0))
	g := &game{
		bench: newBench(t, 1024+dice.IntN(8192)), dice: dice,
		boxes: []subject.Address{alice, news, all}, clients: map[subject.Address]*client{},
	}
	cursors := map[subject.Address]uint64{}
	for _, to := range g.boxes {
		for range dice.IntN(20) {
			g.publish(to)
		}
		cursors[to] = uint64(dice.IntN(int(g.archive.head(to)) + 1))
		g.clients[to] = &client{start: cursors[to], got: cursors[to], acked: cursors[to]}
	}
	g.wire, g.owner = nil, nil // nobody was there
	g.session, g.paper = g.bench.session("phone", cursors)
	return g
}

func (g *game) publish(to subject.Address) {
	switch g.dice.IntN(12) {
	case 0:
		g.archive.skip(to, uint64(1+g.dice.IntN(5)), message.WhyRetention)
	case 1:
		g.archive.add(to, `"late"`, time.Now().Add(-time.Second).UnixMilli())
	default:
		size := g.dice.IntN(400)
		if g.dice.IntN(10) == 0 {
			size = g.dice.IntN(3 * g.node.cfg.Window)
		}
		g.put(to, itemOf(g.archive.add(to, `"`+strings.Repeat("x", size)+`"`, 0)))
	}
}

func (g *game) put(to subject.Address, it item) {
	g.largest = max(g.largest, len(it.object))
	g.wire, g.owner = append(g.wire, it), append(g.owner, to)
}

// step does one random thing.
func (g *game) step() {
	to := g.boxes[g.dice.IntN(len(g.boxes))]
	switch g.dice.IntN(10) {
	case 0, 1, 2:
		g.publish(to)
	case 3, 4, 5: // a frame arrives, mostly the oldest; it may stay on the wire and come again, or vanish
		if len(g.wire) == 0 {
			return
		}
		i := 0
		if g.dice.IntN(4) == 0 {
			i = g.dice.IntN(len(g.wire))
		}
		if g.dice.IntN(6) > 0 {
			g.node.hub.deliver(g.owner[i], g.wire[i])
		}
		if g.dice.IntN(6) > 0 {
			g.wire, g.owner = slices.Delete(g.wire, i, i+1), slices.Delete(g.owner, i, i+1)
		}
	case 6, 7:
		g.broken = g.dice.IntN(8) == 0
		g.fill()
	case 8:
		g.ack(to, g.clients[to].acked+uint64(g.dice.IntN(int(g.clients[to].got-g.clients[to].acked)+1)))
	case 9:
		if g.dice.IntN(2) == 0 {
			g.node.hub.observe(to, g.archive.head(to))
		} else {
			g.session.tick(time.Now())
		}
	}
}

func (g *game) ack(to subject.Address, seq uint64) {
	must(g.t, g.session.ack(to.String(), seq))
	c := g.clients[to]
	c.acked = seq
	for len(c.sizes) > 0 && c.sizes[0].to <= seq {
		c.sizes = c.sizes[1:]
	}
}

// check looks at what was written: exactly what comes next, each jump covered, and no more than the window.
func (g *game) check() {
	g.t.Helper()
	g.settle()
	for _, o := range g.paper.take() {
		to := alice
		if o.Ch != "" {
			to, _ = subject.ParseAddress("default", o.Ch)
		}
		c := g.clients[to]
		from, upTo := o.Seq, o.Seq
		if o.T == protocol.TGap {
			from, upTo = o.From, o.To
		} else if o.T != protocol.TMsg {
			continue
		}
		if from != c.got+1 || upTo < from {
			g.t.Fatalf("%s: %.80s came after %d", to, o.raw, c.got)
		}
		g.compare(to, o, from, upTo)
		c.got = upTo
		c.sizes = append(c.sizes, sent{to: upTo, size: max(len(o.raw), windowFloor)})
	}
	unacked, objects := 0, 0
	for _, c := range g.clients {
		for _, s := range c.sizes {
			unacked += s.size
			objects++
		}
	}
	if g.session.unacked != unacked {
		g.t.Fatalf("the session counts %d bytes, it was sent %d", g.session.unacked, unacked)
	}
	if most := max(g.node.cfg.Window, g.largest); g.session.queued+g.session.held > most {
		g.t.Fatalf("the session keeps %d bytes queued and %d held; the most is %d", g.session.queued, g.session.held, most)
	}
	if unacked > g.node.cfg.Window && objects > 1 {
		g.t.Fatalf("%d bytes in %d objects are unacknowledged; the window has %d", unacked, objects, g.node.cfg.Window)
	}
	if codes := g.paper.closed(); len(codes) > 0 {
		g.t.Fatalf("closed with %v", codes)
	}
}

// compare holds what came against the archive.
func (g *game) compare(to subject.Address, o wire, from, upTo uint64) {
	for _, e := range g.archive.boxes[to] {
		if e.To < from || e.From > upTo {
			continue
		}
		gone := e.Message == nil || e.Message.Expires != 0
		if gone != (o.T == protocol.TGap) {
			g.t.Fatalf("%s: %.80s is not what the archive has at %d", to, o.raw, e.From)
		}
		if !gone && string(protocol.Data(o.raw)) != string(e.Message.Payload) {
			g.t.Fatalf("%s %d has another payload", to, e.From)
		}
	}
}

// finish loses all that is on the wire and lets the sweep see the heads: everything must come.
func (g *game) finish() {
	g.wire, g.broken = nil, false
	for rounds := 0; ; rounds++ {
		left := 0
		for _, to := range g.boxes {
			g.node.hub.observe(to, g.archive.head(to))
			g.ack(to, g.clients[to].got)
			left += int(g.archive.head(to) - g.clients[to].got)
		}
		if left == 0 {
			break
		}
		if rounds > 1000 {
			g.t.Fatalf("%d are missing for ever", left)
		}
		g.session.tick(time.Now())
		for range 3 {
			g.fill()
		}
		g.check()
	}
	g.check()
	if g.session.unacked != 0 {
		g.t.Fatalf("all is acknowledged, but %d bytes are in the window", g.session.unacked)
	}
	if g.session.queued != 0 || g.session.held != 0 {
		g.t.Fatalf("all is written and acknowledged, but the session counts %d bytes queued, %d held", g.session.queued, g.session.held)
	}
	for _, l := range g.session.lanes {
		if l.held != 0 || len(l.ahead)+len(l.sent) != 0 {
			g.t.Fatalf("%s still holds %d and %d items, %d bytes", l.to, len(l.ahead), len(l.sent), l.held)
		}
	}
}

// TestAnySchedule plays random schedules of everything that can happen to a session; see game.
func TestAnySchedule(t *testing.T) {
	for seed := range uint64(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := newGame(t, seed)
			for range 400 {
				g.step()
				g.check()
			}
			g.finish()
		})
	}
}
