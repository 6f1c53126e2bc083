package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// topicField is the field of a problem that blames the topics of a hello or a `sub`.
	topicField = "topics"
	// retopicPause is how long a node that can't change topics right now is left alone.
	retopicPause = time.Second
)

// change is a wish for other topics that the server has not answered.
type change struct {
	topics []string
	leave  bool       // they are to go
	done   chan error // has room for the answer
}

// Subscribe adds topics to those of the device, across reconnects. It returns nil when the server has confirmed them:
// what is published from then on comes. A topic that the device had before goes on where it was; a new one begins now.
//
// A *Closed with a *problem.Problem says why the server refuses the topics, because of the token perhaps: they are not
// wanted any more then, and the others come as before. When ctx ends first the topics stay wanted. Subscribe and
// Unsubscribe may be called concurrently, and by the handler, while Run runs or before it: then they return during Run.
// They must not be called by a callback of Options, which the connection waits for.
func (s *Subscriber) Subscribe(ctx context.Context, topics ...string) error {
	return s.retopic(ctx, false, topics)
}

// Unsubscribe takes topics away. When it has returned nil, no message of them is handed over any more; one that the
// handler has still counts as handled. The cursor is kept, for the case that the topic is subscribed to again, and the
// server hears of it then.
func (s *Subscriber) Unsubscribe(ctx context.Context, topics ...string) error {
	return s.retopic(ctx, true, topics)
}

func (s *Subscriber) retopic(ctx context.Context, leave bool, topics []string) error {
	for _, topic := range topics {
		if err := subject.CheckID(topic); err != nil {
			return fmt.Errorf("client: the topic %q: %w", topic, err)
		}
	}
	select { // one change at a time
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c := s.ledger.change(leave, topics)
	select {
	case err := <-c.done:
		return err
	case <-s.over:
		return ErrEnded
	case <-ctx.Done():
		s.ledger.forget()
		return ctx.Err()
	}
}

// change notes which topics are wanted now.
func (l *ledger) change(leave bool, topics []string) *change {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &change{topics: topics, leave: leave, done: make(chan error, 1)}
	for _, topic := range topics {
		_, wanted := l.wanted[topic]
		switch {
		case leave:
			l.leave(topic)
		case !wanted:
			l.wanted[topic] = false
		}
	}
	l.pending = c
	l.settle()
	return c
}

// leave makes a topic one that is not wanted, and lets go of what was read of it and not handled.
func (l *ledger) leave(topic string) {
	delete(l.wanted, topic)
	if box := l.boxes[topicPrefix+topic]; box != nil {
		box.read, box.left = box.handled, box.open
	}
}

// settle answers the pending change if the session has the topics now, or has them no more. Else the session is to be
// told, once there is one.
func (l *ledger) settle() {
	c := l.pending
	if c == nil {
		return
	}
	for _, topic := range c.topics {
		box := l.boxes[topicPrefix+topic]
		if has := box != nil && box.open; has == c.leave || (has && box.left) {
			signal(l.retopic)
			return
		}
	}
	l.pending = nil
	c.done <- nil
}

// differs says whether the session has a topic that is not wanted, whose messages nobody would acknowledge, or has yet to
// take one. It is to be told so though nobody may wait for it: the wish can have come while the session was opened.
func (l *ledger) differs() bool {
	for _, box := range l.boxes {
		if box.open && box.left {
			return true
		}
	}
	for topic, taken := range l.wanted {
		if box := l.boxes[topicPrefix+topic]; !taken && (box == nil || !box.open) {
			return true
		}
	}
	return false
}

// forget gives up waiting for the pending change.
func (l *ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = nil
}

// refused says whether a connection was refused because of topics that no session has had yet. They are not wanted any
// more then, and the next connection is made without them.
func (l *ledger) refused(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Field != topicField {
		return false
	}
	blamed := false
	for topic, taken := range l.wanted {
		if !taken {
			l.leave(topic)
			blamed = true
		}
	}
	if blamed && l.pending != nil && !l.pending.leave {
		l.pending.done <- err
		l.pending = nil
	}
	return blamed
}

// changes are what the session has to be told so that it has the topics that are wanted.
func (l *ledger) changes() []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var unsub []string
	for address, box := range l.boxes {
		if box.open && box.left {
			unsub = append(unsub, address[len(topicPrefix):])
		}
	}
	sub := protocol.FromClient{T: protocol.TSub, Epoch: l.epoch, Cursors: make(map[string]uint64)}
	for topic := range l.wanted {
		address := topicPrefix + topic
		box := l.boxes[address]
		if box != nil && !box.open {
			box.said = box.saved
			sub.Cursors[address] = box.saved
		}
		if box == nil || !box.open {
			sub.Topics = append(sub.Topics, topic)
		}
	}
	var objects []any
	if unsub != nil {
		objects = append(objects, protocol.FromClient{T: protocol.TUnsub, Topics: unsub})
	}
	if sub.Topics != nil {
		objects = append(objects, sub)
	}
	return objects
}
