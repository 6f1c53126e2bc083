package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/world"
	"github.com/weftpush/weft/services/weft/cli"
	"github.com/weftpush/weft/services/weft/command"
)

// ripe is how old a message has to be before an audit judges it; what is younger may be under way.
const ripe = 13 * time.Second

// errBooks is that the books do not balance after all that was broken is whole again.
var errBooks = errors.New("the books do not balance")

// audit runs `weft audit` over everything that was published since the world began.
func (o *options) audit(ctx context.Context, w *world.World, began time.Time, say io.Writer) error {
	select {
	case <-time.After(ripe):
	case <-ctx.Done():
		return ctx.Err()
	}
	since := time.Since(began).Round(time.Second) + time.Second
	if code := command.Run(ctx, []string{"audit", "--nats", w.NATS(), "--since", since.String()}, say, say); code != cli.ExitDone {
		return fmt.Errorf("%w: weft audit ended with %d", errBooks, code)
	}
	return nil
}
