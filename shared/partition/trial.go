package partition

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
)

const (
	// Suspicious is how many owners have died at a message when it is worked on alone, so that it is known which of a
	// batch kills.
	Suspicious = 2
	// Deadly is how many owners have died at a message when it is not worked on any more. Between Suspicious and Deadly
	// three died that did nothing else on trial; that does not happen by chance.
	Deadly = 5
)

// Trials keeps in the bucket fabric.OwnersBucket at which message each term of a stage began, so that a message that
// kills its owners is found out. A process has one of each stage; it may be used by all its terms at once.
//
// A death counts against a message only if it happened while the message was on trial: begun, and neither finished nor
// survived. A kill between messages, of an idle owner, or of one that waits for something that is away counts for nothing.
type Trials struct {
	js    jetstream.JetStream
	stage string
	// alone is held by the one trial of this process whose message is suspected already. A message must not be counted
	// dead because another partition's killed the process that both were in.
	alone chan struct{}
}

// NewTrials returns the trials of a stage. It does no I/O.
func NewTrials(js jetstream.JetStream, stage string) *Trials {
	return &Trials{js: js, stage: stage, alone: make(chan struct{}, 1)}
}

// Trial is one message on trial.
type Trial struct {
	Deaths int // owners that died while it was on trial

	trials  *Trials
	key     string
	release func() // lets the next suspected message begin
	end     sync.Once
}

// Begin puts a message on trial. It is for the first message of a term, and for each one while the term works singly;
// nothing may look into the message before. Where an owner has died at the message it waits for other such messages of
// the process, then for ready (nil: nothing), which returns nil as soon as all that the work needs answers: who is killed
// while he waits has proved nothing. When Begin returns the trial is durable in the bucket; of a message with Deadly deaths none is
// written. After an error there is no trial, and the work may go on without.
func (t *Trials) Begin(ctx context.Context, p int, m jetstream.Msg, ready func(context.Context) error) (*Trial, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read the place of a message: %w", err)
	}
	place := fmt.Sprintf("%d@%d", meta.Sequence.Stream, meta.Timestamp.UnixNano())
	trial := &Trial{trials: t, key: fabric.TrialKey(t.stage, p), release: func() {}}
	if trial.Deaths, err = t.deaths(ctx, trial.key, place); err != nil {
		return nil, err
	}
	if trial.Deaths >= Deadly {
		return trial, nil
	}
	if trial.Deaths > 0 {
		select {
		case t.alone <- struct{}{}:
			trial.release = func() { <-t.alone }
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if ready != nil {
			err = ready(ctx)
		}
	}
	if err == nil {
		err = t.write(ctx, trial.key, place+" "+strconv.Itoa(trial.Deaths+1))
	}
	if err != nil {
		trial.release()
		return nil, err
	}
	return trial, nil
}

// Survived ends the trial: the message was finished, or failed and left the process alive. It may be called any number
// of times, on nil too, and does not wait for NATS.
func (t *Trial) Survived() {
	if t == nil {
		return
	}
	t.end.Do(func() {
		m := &nats.Msg{Subject: keySubject(t.key), Header: nats.Header{opHeader: {opDelete}}}
		_ = t.trials.js.Conn().PublishMsg(m) // lost with the connection: the next term begins with another message, or at 2
		t.release()
	})
}

// deaths reads how many owners died at the message of a place: all that began with it, if it is the one on record.
func (t *Trials) deaths(ctx context.Context, key, place string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := t.js.Stream(ctx, ownersStream)
	if err != nil {
		return 0, fmt.Errorf("look up the bucket: %w", err)
	}
	record, err := stream.GetLastMsgForSubject(ctx, keySubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	there, begun, _ := strings.Cut(string(record.Data), " ")
	if there != place {
		return 0, nil // another message, or none: deleted
	}
	n, err := strconv.Atoi(begun)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return n, nil
}

func (t *Trials) write(ctx context.Context, key, value string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := t.js.Publish(ctx, keySubject(key), []byte(value)); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}
