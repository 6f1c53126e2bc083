package push

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
)

const (
	// examineEvery is how often the keeper looks whether a session still has its device, and examineMost how many sessions
	// it looks at in one round. An order to close a session can get lost; this finds what it should have closed.
	examineEvery = 10 * time.Second
	examineMost  = 1000
)

// examine looks in Redis whether some sessions still have their devices, ends those whose device has a newer session,
// and enters what Redis lost.
func (k *keeper) examine(ctx context.Context) {
	pause, now := k.pulse.check().pauses, time.Now()
	if pause != k.examined {
		return // the next round sees to it
	}
	var due []*session
	for _, s := range k.all() {
		if (k.lost || len(due) < examineMost) && s.due(now, pause, k.lost) {
			due = append(due, s)
		}
	}
	if err := k.evict(ctx, due, now, pause, true); err != nil {
		k.faults.Note("look up devices", err)
		return
	}
	for _, s := range due {
		s.vouch(pause)
	}
	k.lost = false
}

// reexamine does the same after a pause, for all sessions, and enters nothing: until it has succeeded the node is not
// present. Data may be written meanwhile to clients that answer: while Redis is away nothing else tells where a device
// is.
func (k *keeper) reexamine(ctx context.Context, pause uint32) error {
	var due []*session
	now := time.Now()
	for _, s := range k.all() {
		if s.due(now, pause, true) {
			due = append(due, s)
		}
	}
	err := k.evict(ctx, due, now, pause, false)
	for _, s := range due {
		s.vouch(pause)
	}
	k.presence.examined.Store(pause)
	if err != nil {
		return fmt.Errorf("push: the node was paused, and where its devices are is not known: %w", err)
	}
	k.examined = pause
	return nil
}

// evict ends the sessions among some whose device has a newer one. Those of a node whose clock is behind are not taken
// for newer; they are closed by the order that their successor sent, or by silence.
func (k *keeper) evict(ctx context.Context, some []*session, now time.Time, pause uint32, write bool) error {
	claims := make([]route.Claim, len(some))
	for i, s := range some {
		claims[i] = route.Claim{User: s.user, Device: s.device, Holder: s.holder(), Write: write && s.answered(pause)}
	}
	holders, err := k.table.Hold(ctx, claims)
	if err != nil {
		return err
	}
	for i, s := range some {
		_, id, there := strings.Cut(holders[i], "/")
		switch {
		case there && id > s.id:
			s.replaced(id)
		case there || claims[i].Write:
			s.setExamined(now)
		}
	}
	return nil
}

// due says whether the keeper has to look for the session's device: it did not for a while, or not since a pause, or
// everybody is looked at. A session that is opening takes its device itself.
func (s *session) due(now time.Time, pause uint32, everybody bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun && s.end == nil && (everybody || s.vouched < pause || now.Sub(s.examined) >= examineEvery)
}

// answered says whether the client was heard after a pause.
func (s *session) answered(pause uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.echoed >= pause
}

// setExamined notes that Redis has the session for its device.
func (s *session) setExamined(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.examined = at
}

// holder is how the session stands in the devices of its user.
func (s *session) holder() string { return s.node.id + "/" + s.id }

// replaced ends a session whose device another one has taken. That is final when the other one began later. A
// connection that began earlier and took longer to open (its client gave it up and connected again while NATS or Redis
// was away) has nobody behind it: then the client is to come again, and its next session takes the device back. Clocks of
// nodes that differ can only cost such a round.
func (s *session) replaced(by string) {
	if by < s.id {
		s.finish(protocol.CloseBackOff, problem.New(problem.Busy, "an earlier connection of the device %q has opened after this one; connect again", s.device))
		return
	}
	s.finish(protocol.CloseReplaced, problem.New(problem.Replaced, "the device %q has connected again elsewhere", s.device))
}
