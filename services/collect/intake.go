package collect

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// intake is one thing that came in for a partition: a message with the way to answer it, or what is wrong with it.
// Exactly one of delivery and request is set.
type intake struct {
	message  *message.Message
	refusal  *problem.Problem // why it can't be archived
	delivery jetstream.Msg    // from the stream: acknowledged when everything is done
	request  *nats.Msg        // from the request door: answered when the archive has it
}

// many is the subject of one publish to many users, which is not there yet.
const many = "many"

// fromStream reads what came through the stream door. Nothing here can be refused to the publisher, who has his
// PubAck: what can't be archived goes to quarantine.
func (s *Service) fromStream(msg jetstream.Msg) intake {
	in := intake{delivery: msg}
	meta, err := msg.Metadata()
	if err != nil {
		in.refusal = problem.New(problem.InternalFault, "the delivery has no metadata: %v", err)
		return in
	}
	to, err := addressed(msg.Subject())
	if err == nil {
		in.message, err = message.Read(to, msg.Headers(), msg.Data(), meta.Timestamp, s.cfg.Limits)
	}
	if err != nil {
		in.refusal = problem.From(err)
	}
	if in.message != nil && in.message.ID == "" {
		in.message.ID = streamID(meta.Stream, meta.Sequence.Stream, meta.Timestamp)
	}
	return in
}

// fromDoor reads what another collect's request door, or this one's, has checked and passed on.
func fromDoor(msg *nats.Msg) intake {
	in := intake{request: msg}
	entries, err := message.DecodeEntries(msg.Data)
	if err != nil || len(entries) != 1 || entries[0].Message == nil {
		in.refusal = problem.New(problem.BadRequest, "%s takes one message that a request door has checked; publish to weft.publish", msg.Subject)
		return in
	}
	in.message = entries[0].Message
	return in
}

// addressed is the address in a subject of either door.
func addressed(subj string) (subject.Address, error) {
	tokens, ok := subject.Cut(subj)
	if !ok {
		return subject.Address{}, problem.New(problem.BadAddress, "%s is no subject of a door", subj)
	}
	to, err := subject.ParseTokens(tokens)
	if to.Kind == many {
		return to, problem.New(problem.Unsupported, "publishing to many users at once is part of the contract, but this version does not do it yet; publish one by one")
	}
	return to, err
}

// streamID is the id of a message whose publisher gave none: the same at every redelivery, another for every message.
// The sequence alone would do until a stream is lost and made anew.
func streamID(stream string, seq uint64, at time.Time) string {
	h := sha256.New()
	h.Write([]byte(stream))
	h.Write(binary.BigEndian.AppendUint64(nil, seq))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano()))) //nolint:gosec // a hash's input
	var id ulid.ULID
	_ = id.SetTime(ulid.Timestamp(at)) // fails after the year 10889
	_ = id.SetEntropy(h.Sum(nil)[:10]) // fails for another length
	return id.String()
}
