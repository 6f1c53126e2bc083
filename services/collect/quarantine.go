package collect

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// detailMost is the most bytes of the sentence, which can quote what was wrong.
const detailMost = 1024

// quarantine puts aside what came through the stream door and can't be archived, and sends a receipt for each. Both
// are durable before it returns. After an error it goes on where it was.
func (t *term) quarantine(ctx context.Context, batch []intake) error {
	for i := range batch {
		in := &batch[i]
		if in.refusal == nil || in.delivery == nil || in.aside {
			continue
		}
		if err := t.setAside(ctx, in); err != nil {
			return err
		}
		in.aside = true
	}
	return nil
}

// setAside quarantines one message. Both publishes carry an id made of the message's place in its stream: doing it
// again within the window of the streams changes nothing.
func (t *term) setAside(ctx context.Context, in *intake) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	tokens, id := in.tokens(), in.place
	if in.message != nil {
		id = in.message.ID
	}
	receipt, err := json.Marshal(message.Receipt{
		Receipt: in.place, ID: id, To: named(tokens, in.delivery.Subject()), State: message.StateQuarantined, At: time.Now().UnixMilli(),
		Reason: in.refusal.Code, Message: cut(in.refusal.Message, detailMost),
	})
	if err != nil {
		return err
	}
	for _, m := range []*nats.Msg{
		in.asQuarantined(tokens),
		{Subject: subject.Receipt(tokens), Data: receipt, Header: nats.Header{}},
	} {
		m.Header.Set(jetstream.MsgIDHeader, in.place)
		if _, err := t.js.PublishMsg(ctx, m); err != nil {
			return fmt.Errorf("%s: %w", m.Subject, err)
		}
	}
	return nil
}

// tokens are those of the address that a delivery names, or subject.Unaddressed.
func (in *intake) tokens() string {
	rest, _ := subject.Cut(in.delivery.Subject())
	if to, err := subject.ParseTokens(rest); err == nil {
		return to.Tokens()
	}
	return subject.Unaddressed(rest)
}

// asQuarantined is a delivery as it lies in quarantine, with every byte that it came with.
func (in *intake) asQuarantined(tokens string) *nats.Msg {
	m := &nats.Msg{Subject: subject.Quarantine(in.refusal.Code, tokens)}
	m.Header, m.Data = quarantine.Pack(in.delivery.Headers(), in.delivery.Data())
	m.Header.Set(quarantine.HeaderReason, string(in.refusal.Code))
	m.Header.Set(quarantine.HeaderDetail, cut(in.refusal.Message, detailMost))
	m.Header.Set(quarantine.HeaderSubject, in.delivery.Subject())
	if in.refusal.Field != "" {
		m.Header.Set(quarantine.HeaderField, in.refusal.Field)
	}
	return m
}

// cut shortens a text to a number of bytes, leaving no half character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// named is the address as people write it, or the subject where there is none.
func named(tokens, subj string) string {
	to, err := subject.ParseTokens(tokens)
	if err != nil {
		return subj
	}
	return to.String()
}
