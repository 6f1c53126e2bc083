package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/event"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// announceEvery is how often the owner of a partition looks for users who came or went.
	announceEvery = time.Second
	// announceMost is how many are told at once, and announcePages how many times so many in one look.
	announceMost  = 256
	announcePages = 40
	// announceWithin is how old what was read of users may be when it is told: a collect that was paused must not tell what
	// others have told long ago. The stream's window for duplicates is 2 minutes.
	announceWithin = 30 * time.Second
)

// announce tells who of a partition's users came and who went, until ctx ends.
func (s *Service) announce(ctx context.Context, partition int) error {
	look := time.NewTicker(announceEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if err := s.announceDue(ctx, partition); err != nil && ctx.Err() == nil {
			s.faults.Note("tell who came and went", err)
		}
	}
}

func (s *Service) announceDue(ctx context.Context, partition int) error {
	for range announcePages {
		if err := ctx.Err(); err != nil {
			return err
		}
		now := time.Now()
		var due []archive.Attendance
		err := s.withArchive(ctx, func(ctx context.Context) (err error) {
			due, err = s.archive.Due(ctx, partition, now, announceMost)
			return err
		})
		if err != nil || len(due) == 0 {
			return err
		}
		if err := s.announceSome(ctx, due, now); err != nil {
			return err
		}
		if len(due) < announceMost {
			return nil
		}
	}
	return nil
}

// announceSome decides about users as they were known at a moment, stores that, publishes the events, and stores that they
// are published. Between any two steps it may end: an event that is decided is published by whoever looks next, under the
// same id, before anything else is decided about its user.
func (s *Service) announceSome(ctx context.Context, due []archive.Attendance, now time.Time) error {
	due, err := s.decideAll(ctx, due, now)
	if err != nil {
		return err
	}
	var open []archive.Attendance
	var events []event.Event
	for _, u := range due {
		if u.Open {
			open, events = append(open, u), append(events, s.turn(u))
		}
	}
	if len(open) == 0 {
		return nil
	}
	if time.Since(now) > announceWithin {
		return fmt.Errorf("it took %s to decide; somebody else may have told it", time.Since(now))
	}
	if err := s.publishEvents(ctx, events); err != nil {
		return fmt.Errorf("publish events: %w", err)
	}
	return s.closeTurns(ctx, open, now)
}

// decideAll stores what is to be told of each user, and returns those of whom that holds; the others are due again.
func (s *Service) decideAll(ctx context.Context, due []archive.Attendance, now time.Time) (decided []archive.Attendance, err error) {
	var fresh []archive.Attendance
	until, asked := now, false
	for i, u := range due {
		switch {
		case u.Open:
			decided = append(decided, due[i])
			continue
		case u.Told && !u.On && !asked: // only absence is concluded from what was not reported
			if until, err = s.reportedUntil(ctx, subject.PresenceAll, now); err != nil {
				return nil, err
			}
			asked = true
		}
		fresh = append(fresh, decide(u, now, until, s.cfg.OfflineAfter))
	}
	if len(fresh) == 0 {
		return decided, nil
	}
	held, err := s.attend(ctx, fresh)
	if err != nil {
		return nil, err
	}
	for i, u := range fresh {
		if held[i] {
			u.Revision++
			decided = append(decided, u)
		}
	}
	return decided, nil
}

func (s *Service) attend(ctx context.Context, some []archive.Attendance) (held []bool, err error) {
	err = s.withArchive(ctx, func(ctx context.Context) error {
		held, err = s.archive.Attend(ctx, some)
		return err
	})
	return held, err
}

// decide is what is to be told of a user about whom nothing is open. until is when the reports end that are stored: a user
// who is gone may have come back in a later one.
func decide(u archive.Attendance, now, until time.Time, grace time.Duration) archive.Attendance {
	if u.On == u.Told {
		u.Due = archive.NotDue
		return u
	}
	if !u.On {
		over := time.UnixMilli(u.Noted).Add(grace)
		if u.Due = over.UnixMilli(); now.Before(over) {
			return u
		}
		if u.Due = now.Add(announceEvery).UnixMilli(); until.Before(over) {
			return u
		}
	}
	// The clocks of nodes may differ: no event is before the one that it ends, and none in the future.
	u.At = max(min(u.Since, now.UnixMilli()), u.At)
	u.Told, u.Turn, u.Open, u.Due = u.On, u.Turn+1, true, now.UnixMilli()
	return u
}

// closeTurns stores that events are published. Where something new was reported meanwhile, somebody looks again.
func (s *Service) closeTurns(ctx context.Context, open []archive.Attendance, now time.Time) error {
	for i := range open {
		u := &open[i]
		u.Open, u.Due = false, archive.NotDue
		if u.On != u.Told {
			u.Due = now.UnixMilli()
		}
	}
	held, err := s.attend(ctx, open)
	if err != nil {
		return err
	}
	var others []archive.Attendance
	for i, u := range open {
		if !held[i] {
			others = append(others, u)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return s.withArchive(ctx, func(ctx context.Context) error { return s.archive.Said(ctx, others) })
}

// turn is the event that is open of a user. It is the same whenever and by whomever it is made.
func (s *Service) turn(u archive.Attendance) event.Event {
	what := event.Offline
	if u.Told {
		what = event.Online
	}
	return event.Event{
		ID:   event.ID(what, s.archive.Facts().Epoch+"/"+u.User.Tokens(), u.Turn, u.At),
		What: what, Tenant: u.User.Tenant, User: u.User.ID, At: u.At, Turn: u.Turn,
	}
}

// publishEvents returns when the stream has them all. Doing it twice soon changes nothing.
func (s *Service) publishEvents(ctx context.Context, events []event.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	acks := make([]jetstream.PubAckFuture, 0, len(events))
	for _, e := range events {
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		ack, err := s.events.PublishMsgAsync(&nats.Msg{
			Subject: subject.Event(e.Tenant, string(e.What)), Data: body, Header: nats.Header{jetstream.MsgIDHeader: {e.ID}},
		}, jetstream.WithStallWait(publishTimeout))
		if err != nil {
			return err
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
