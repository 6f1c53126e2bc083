package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/client"
)

const (
	// One in so many messages takes the handler handling; one in so many fails once, and is handed over again.
	handlingOdds = 50
	handling     = 50 * time.Millisecond
	failingOdds  = 500
	// dialPause is the longest pause before a Subscriber is made anew that could not connect at first.
	dialPause = 500 * time.Millisecond
)

// errClumsy is what a handler returns that fails once.
var errClumsy = errors.New("the handler fails, once")

// app is a device on the Go client: application truth. It records what its handler took.
type app struct {
	*device

	cursors client.Memory // survives a stint as a file would
	// The goroutine of the device:
	random *rand.Rand
	failed string // the message that the handler failed with last
}

// stint is the life of one Subscriber; mischief ends its context to make the device leave. It returns errGone when the
// server does not want to see the device again.
func (a *app) stint(ctx context.Context) error {
	subscriber, err := client.Dial(ctx, client.Options{
		URL: strings.Join(a.load.o.Push, ","), Token: func(context.Context) (string, error) { return a.token() },
		Device: a.id, Topics: topics[:], Cursors: &a.cursors, NetDial: a.dial,
		OnGap: func(g client.Gap) {
			a.load.o.Log.Gap(record.Gap{Device: a.Name, At: a.load.o.Log.Now(), To: g.Address, From: g.From, Until: g.To, Why: string(g.Why)})
		},
		OnStatus: func(s client.Status) {
			if s.Online {
				a.online(overClient, s.Welcome.Node)
			} else {
				a.offline(ctx, s.Err)
			}
		},
	})
	if err == nil {
		if err = subscriber.Run(ctx, a.handle); err == nil {
			a.offline(ctx, nil)
			return nil
		}
		return errors.Join(errGone, err)
	}
	if closed, ok := errors.AsType[*client.Closed](err); ok && closed.Code.Fatal() {
		a.offline(ctx, err)
		return errors.Join(errGone, err)
	}
	_ = wait(ctx, time.Duration(a.random.Int64N(int64(dialPause))))
	return nil
}

// handle takes a message, sometimes slowly and sometimes at the second try.
func (a *app) handle(ctx context.Context, m client.Message) error {
	if a.random.IntN(handlingOdds) == 0 {
		if err := wait(ctx, handling); err != nil {
			return err // not handled: it comes again
		}
	}
	if a.failed != m.ID && a.random.IntN(failingOdds) == 0 {
		a.failed = m.ID
		return errClumsy
	}
	a.got(a.load.o.Log.Now(), m.Address, m.Seq, m.ID, m.Data)
	return nil
}
