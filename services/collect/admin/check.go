package admin

import (
	"context"
	"os"
	"time"

	"github.com/weftpush/weft/shared/admin"
)

// checkWithin is how long the archive, and Redis, may take to answer.
const checkWithin = 1500 * time.Millisecond

// check answers what this collect knows of what it depends on. What does not answer is told, not an error: somebody
// looks for just that.
func (d *Desk) check(ctx context.Context, _ struct{}) (*admin.CheckAnswer, error) {
	facts := d.Archive.Facts()
	host, _ := os.Hostname() // empty where the system does not say
	a := &admin.CheckAnswer{
		Instance: d.Instance, Host: host, PID: os.Getpid(), Now: time.Now().UnixMilli(),
		Epoch: facts.Epoch, Partitions: facts.Partitions, Replicas: d.Replicas, Owns: d.Owns(),
	}
	if a.Owns == nil {
		a.Owns = []int{}
	}
	eachOf(2, 2, func(i int) {
		ctx, cancel := context.WithTimeout(ctx, checkWithin)
		defer cancel()
		if i == 0 {
			a.Archive = d.checkArchive(ctx)
		} else {
			a.Redis = d.checkRedis(ctx)
		}
	})
	return a, nil
}

// checkArchive writes something small, and asks the archive what could be better.
func (d *Desk) checkArchive(ctx context.Context) admin.Health {
	began := time.Now()
	wrong := d.Archive.Ping(ctx)
	took := time.Since(began)
	h, err := d.Archive.Health(ctx)
	h.Millis = float64(took.Microseconds()) / 1000
	switch {
	case wrong != nil:
		h.Problem = "the archive takes no writes (" + wrong.Error() + "); messages wait in the streams until it does: start it, or find out what holds its lock or has filled its disk"
	case err != nil:
		h.Problem = "the archive takes writes and answers no questions (" + err.Error() + "); look at its own log"
	}
	return h
}

// checkRedis asks Redis how it is.
func (d *Desk) checkRedis(ctx context.Context) admin.Health {
	h, err := d.Table.Health(ctx)
	h.Kind = "redis"
	if err != nil {
		h.Problem = "Redis does not take writes (" + err.Error() + "); messages go to all nodes meanwhile, which costs bandwidth and loses nothing: start it, or give it memory"
	}
	return h
}
