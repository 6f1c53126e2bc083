package collect

import (
	"context"
	"fmt"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// waitingEvery is how often the owner of a partition looks for messages that have waited for long, waitingMost how many
	// are looked at at once, and waitingPages how many times so many in one look: 10,000 a second.
	waitingEvery = time.Second
	waitingMost  = 500
	waitingPages = 20
	// rememberEvery is how often the mark is stored while there is nothing to tell.
	rememberEvery = time.Minute
)

// waiting walks over a partition's messages in the order of archiving, each at the time when it has waited for
// -undelivered-after, and tells those that no device of their user has acknowledged. All of it belongs to one goroutine.
type waiting struct {
	*Service
	partition int
	known     bool         // stored is what the archive has
	stored    archive.Mark // how far all are told
	at        archive.Mark // how far all were looked at
	saved     time.Time
}

// lookForWaiting walks until ctx ends.
func (s *Service) lookForWaiting(ctx context.Context, partition int) error {
	w := &waiting{Service: s, partition: partition}
	look := time.NewTicker(waitingEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			if err := w.round(ctx, time.Now()); err != nil { // a tick may be older, of before a long round
				w.known = false // another owner may have gone on
				if ctx.Err() == nil {
					w.faults.Note("look for messages that wait", err)
				}
			}
		}
	}
}

// round looks at what has waited long enough by now. The first time of all it begins there: a fabric that has a long past
// does not tell it. While it is turned off the mark goes on, for the same reason.
func (w *waiting) round(ctx context.Context, now time.Time) error {
	until := now.Add(-w.cfg.UndeliveredAfter).UnixMilli()
	if !w.known {
		err := w.withArchive(ctx, func(ctx context.Context) (err error) {
			w.stored, err = w.archive.Mark(ctx, w.partition, archive.Mark{Since: until})
			return err
		})
		if err != nil {
			return err
		}
		w.at, w.known, w.saved = w.stored, true, now
	}
	if w.cfg.UndeliveredAfter == 0 {
		w.at = archive.Mark{Since: until}
		return w.save(ctx, now, false)
	}
	for range waitingPages {
		if w.at.Since >= until {
			break
		}
		more, err := w.page(ctx, now, until)
		if err != nil || !more {
			return err
		}
	}
	return w.save(ctx, now, false)
}

// page looks at some messages, and says whether there are more. What is told is told before the mark moves; a crash in
// between tells it again, under the same ids.
func (w *waiting) page(ctx context.Context, now time.Time, until int64) (more bool, err error) {
	var rows []archive.Row
	next := ""
	err = w.withArchive(ctx, func(ctx context.Context) error {
		rows, next, err = w.archive.Scan(ctx, w.partition, w.at.Since, until, w.at.After, waitingMost)
		return err
	})
	if err != nil {
		return false, err
	}
	candidates, err := w.above(ctx, rows, now)
	if err != nil {
		return false, err
	}
	to := archive.Mark{Since: w.at.Since, After: next}
	if next == "" {
		to = archive.Mark{Since: until}
	}
	var reported time.Time
	if len(candidates) > 0 {
		if reported, err = w.reportedUntil(ctx, subject.AckAll, now); err != nil {
			return false, err
		}
		// What was taken in between the two looks is in neither.
		if candidates, err = w.above(ctx, candidates, now); err != nil {
			return false, err
		}
	}
	if n := len(candidates); n > 0 {
		border := reported.Add(-w.cfg.UndeliveredAfter).UnixMilli()
		if candidates[0].Message.Archived >= border {
			return false, nil // acknowledgements of all of them may be under way
		}
		if candidates[n-1].Message.Archived >= border {
			to, next = archive.Mark{Since: border}, "" // the later ones come next time
		}
		if late := time.Since(now); late > announceWithin {
			return false, fmt.Errorf("it took %s to look; somebody else may have told what waits", late)
		}
		if err := w.tell(ctx, candidates, border); err != nil {
			return false, err
		}
	}
	w.at = to
	return next != "", w.save(ctx, now, len(candidates) > 0)
}

// above are the rows of users' mailboxes that no device has acknowledged and that have not expired.
func (w *waiting) above(ctx context.Context, rows []archive.Row, now time.Time) (candidates []archive.Row, err error) {
	var users []subject.Address
	listed := map[subject.Address]bool{}
	for _, r := range rows {
		if to := r.Message.To; to.Kind == subject.User && !listed[to] {
			listed[to], users = true, append(users, to)
		}
	}
	if len(users) == 0 {
		return nil, nil
	}
	var standing map[subject.Address]archive.Standing
	err = w.withArchive(ctx, func(ctx context.Context) error {
		standing, err = w.archive.Standing(ctx, users, "")
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		m := r.Message
		expired := r.Why != "" || m.Expires > 0 && m.Expires <= now.UnixMilli()
		if m.To.Kind == subject.User && !expired && m.Seq > standing[m.To].Handled {
			candidates = append(candidates, r)
		}
	}
	return candidates, nil
}

// tell publishes that messages archived before a border (ms since 1970) wait.
func (w *waiting) tell(ctx context.Context, candidates []archive.Row, border int64) error {
	var events []event.Event
	after := w.cfg.UndeliveredAfter.Milliseconds()
	for _, r := range candidates {
		m := r.Message
		if m.Archived >= border {
			break
		}
		events = append(events, event.Event{
			ID:   event.ID(event.Undelivered, w.archive.Facts().Epoch+"/"+m.To.Tokens(), m.Seq, m.Archived),
			What: event.Undelivered, Tenant: m.To.Tenant, User: m.To.ID, At: m.Archived + after,
			Message: &event.Message{
				ID: m.ID, To: m.To.String(), Seq: m.Seq, Type: m.Type, At: m.At, Archived: m.Archived, Waiting: after,
				Expires: m.Expires, Receipt: m.Receipt,
			},
		})
	}
	for len(events) > 0 {
		n := min(len(events), announceMost)
		if err := w.publishEvents(ctx, events[:n]); err != nil {
			return fmt.Errorf("publish events: %w", err)
		}
		events = events[n:]
	}
	return nil
}

// save stores how far the walk has come, at once after something was told. Where another owner has moved the mark this one
// begins from there.
func (w *waiting) save(ctx context.Context, now time.Time, told bool) error {
	if w.at == w.stored || !told && now.Sub(w.saved) < rememberEvery {
		return nil
	}
	moved := false
	err := w.withArchive(ctx, func(ctx context.Context) (err error) {
		moved, err = w.archive.MoveMark(ctx, w.partition, w.stored, w.at)
		return err
	})
	if err != nil {
		return err
	}
	w.stored, w.saved, w.known = w.at, now, moved
	return nil
}
