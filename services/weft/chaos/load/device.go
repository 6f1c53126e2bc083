package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/subject"
)

const (
	tokenTTL = 24 * time.Hour
	// ownReplaced is for how long a hello that got no answer can be what a session was replaced by.
	ownReplaced = 2 * time.Minute
)

// errGone is the end of a device that the server does not want to see again.
var errGone = errors.New("the server refuses the device for good")

// topics are what every device subscribes to.
var topics = [...]string{"news", "t2"}

// device is what both kinds have in common: who it is, and the line that it holds.
type device struct {
	record.Device

	load    *Load
	id      string // device id
	number  int    // among all devices
	welcome chan struct{}
	session atomic.Int32
	current atomic.Pointer[line] // the last line that was opened; mischief breaks it

	mu    sync.Mutex         // protects what follows
	leave context.CancelFunc // ends the present stint; nil between two
	away  time.Duration      // how long it stays away when the stint has ended
}

// stinter is a device of either kind. A stint lasts until its context ends or, for a raw device, its connection.
type stinter interface {
	stint(ctx context.Context) error
}

// live is a device's life: one stint after the other until ctx ends. calm brings one that is away back.
func (d *device) live(ctx context.Context, s stinter) {
	for ctx.Err() == nil {
		stint, leave := context.WithCancel(ctx)
		d.mu.Lock()
		d.leave = leave
		d.mu.Unlock()
		err := s.stint(stint)
		leave()
		if errors.Is(err, errGone) {
			return // the history has said why; what it does not get any more is lost
		}
		d.mu.Lock()
		away := d.away
		d.away, d.leave = 0, nil
		d.mu.Unlock()
		if away > 0 && ctx.Err() == nil {
			d.stayAway(ctx, away)
		}
	}
}

func (d *device) stayAway(ctx context.Context, away time.Duration) {
	d.conn(record.Conn{What: "away"})
	d.load.owed.leave(d.number, true)
	defer d.load.owed.leave(d.number, false)
	t := time.NewTimer(away)
	defer t.Stop()
	select {
	case <-t.C:
	case <-d.load.calm:
	case <-ctx.Done():
	}
	d.conn(record.Conn{What: "back"})
}

// goAway ends the present stint; the next one begins after a while.
func (d *device) goAway(away time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leave != nil {
		d.away = away
		d.leave()
	}
}

// dial opens the line of the next connection.
func (d *device) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	l, err := d.load.network.dial(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	d.current.Store(l)
	return l, nil
}

func (d *device) token() (string, error) {
	return auth.Sign(d.load.o.Key, identity.Identity{Tenant: subject.DefaultTenant, User: d.User, Topics: topics[:]}, tokenTTL)
}

// online begins a session through a door.
func (d *device) online(door, node string) {
	if d.session.Add(1) == 1 {
		close(d.welcome)
	}
	d.conn(record.Conn{What: "open", Node: node, Over: door})
}

// offline ends a session: by itself where ctx has ended.
func (d *device) offline(ctx context.Context, err error) {
	why := "left"
	if ctx.Err() == nil {
		why = err.Error()
	}
	d.conn(record.Conn{What: "closed", Why: why})
}

func (d *device) conn(c record.Conn) {
	c.Device, c.At = d.Name, d.load.o.Log.Now()
	d.load.o.Log.Conn(c)
}

// got records a message.
func (d *device) got(now int64, to string, seq uint64, id string, data []byte) {
	p, sound := read(data)
	d.load.o.Log.Got(record.Got{
		Device: d.Name, At: now, Session: int(d.session.Load()), To: to, Seq: seq, ID: id,
		Writer: p.Writer, Counter: p.Counter, For: p.To, Sound: sound,
	})
	d.load.owed.got(id, d.number)
	d.load.last.Store(now)
}

// The odds of mischief; they add up to 100.
const (
	oddsLeave = 15 // says bye and comes back at once
	oddsReset = 20 // RST
	oddsDead  = 20 // nothing arrives and nothing leaves any more, and nobody is told
	oddsSlow  = 15 // reads 20 KB a second for slowPeriod
	oddsAway  = 15 // stays away for awayPeriod
	// The rest comes back without its cursors, if it is raw: then the server's decide.

	slowPeriod = 10 * time.Second
	awayPeriod = 30 * time.Second
)

// misbehave does to the device what happens to phones, until all is to be calm. forget makes the next hello one
// without cursors; nil for a device that can't.
func (d *device) misbehave(ctx context.Context, random *rand.Rand, forget func()) {
	pause := d.load.o.Mischief
	for {
		t := time.NewTimer(pause/2 + time.Duration(random.Int64N(int64(pause))))
		select {
		case <-t.C:
		case <-d.load.calm:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		}
		d.mischief(ctx, random.IntN(100), forget)
	}
}

// mischief does one thing, by a number below 100.
func (d *device) mischief(ctx context.Context, n int, forget func()) {
	l := d.current.Load()
	switch {
	case n < oddsLeave:
		d.goAway(0)
	case n < oddsLeave+oddsReset:
		l.reset()
	case n < oddsLeave+oddsReset+oddsDead:
		l.die()
	case n < oddsLeave+oddsReset+oddsDead+oddsSlow:
		l.setSlow(true)
		t := time.NewTimer(slowPeriod)
		defer t.Stop()
		select {
		case <-t.C:
		case <-d.load.calm:
		case <-ctx.Done():
		}
		l.setSlow(false)
	case n < oddsLeave+oddsReset+oddsDead+oddsSlow+oddsAway:
		d.goAway(awayPeriod)
	case forget != nil:
		forget()
		d.goAway(0)
	default:
		d.goAway(0)
	}
}
