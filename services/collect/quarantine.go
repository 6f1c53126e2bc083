package collect

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// Headers of a quarantined message. Its own headers are there too, each with originalPrefix before its name: among
// them may be some that mean something to JetStream.
const (
	headerReason   = "Weft-Reason"  // the code
	headerDetail   = "Weft-Detail"  // the sentence
	headerSubject  = "Weft-Subject" // the subject it came on
	headerField    = "Weft-Field"   // the header that was wrong
	originalPrefix = "Weft-Original-"
)

// quarantine puts aside what came through the stream door and can't be archived, and sends a receipt for each. Both
// are durable before it returns.
func (t *term) quarantine(ctx context.Context, batch []intake) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for i := range batch {
		in := &batch[i]
		if in.refusal == nil || in.delivery == nil {
			continue
		}
		if err := t.setAside(ctx, in); err != nil {
			return err
		}
	}
	return nil
}

// setAside quarantines one message. Both publishes carry an id made of the message's place in its stream: doing it
// again within the window of the streams changes nothing.
func (t *term) setAside(ctx context.Context, in *intake) error {
	subj, tokens, id := in.delivery.Subject(), "", ""
	if in.message != nil {
		tokens, id = in.message.To.Tokens(), in.message.ID
	} else {
		rest, _ := subject.Cut(subj)
		tokens = subject.Unaddressed(rest)
		if to, err := subject.ParseTokens(rest); err == nil {
			tokens = to.Tokens()
		}
	}
	place := subj
	if meta, err := in.delivery.Metadata(); err == nil {
		place = meta.Stream + "/" + strconv.FormatUint(meta.Sequence.Stream, 10)
		if id == "" {
			id = streamID(meta.Stream, meta.Sequence.Stream, meta.Timestamp)
		}
	}
	entry := &nats.Msg{Subject: subject.Quarantine(in.refusal.Code, tokens), Data: in.delivery.Data(), Header: nats.Header{}}
	for name, values := range in.delivery.Headers() {
		entry.Header[originalPrefix+name] = values
	}
	entry.Header.Set(headerReason, string(in.refusal.Code))
	entry.Header.Set(headerDetail, in.refusal.Message)
	entry.Header.Set(headerSubject, subj)
	entry.Header.Set(headerField, in.refusal.Field)
	if _, err := t.js.PublishMsg(ctx, entry, jetstream.WithMsgID(place)); err != nil {
		return err
	}
	receipt, err := json.Marshal(message.Receipt{
		ID: id, To: named(tokens, subj), State: message.StateQuarantined, At: time.Now().UnixMilli(),
		Reason: in.refusal.Code, Message: in.refusal.Message,
	})
	if err != nil {
		return err
	}
	_, err = t.js.Publish(ctx, subject.Receipt(tokens), receipt, jetstream.WithMsgID(place))
	return err
}

// named is the address as people write it, or the subject where there is none.
func named(tokens, subj string) string {
	to, err := subject.ParseTokens(tokens)
	if err != nil {
		return subj
	}
	return to.String()
}
