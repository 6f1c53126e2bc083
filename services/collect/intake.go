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
	message  *message.Message // of a refused one whatever could be read; nil if nothing could
	refusal  *problem.Problem // why it can't be archived
	delivery jetstream.Msg    // from the stream: acknowledged when everything is done
	place    string           // of a delivery: the same at every redelivery, another for every message
	request  *nats.Msg        // from the request door: answered, once, when the archive and the log have it
	aside    bool             // it is in quarantine
}

// many is the subject of one publish to many users, which is not there yet.
const many = "many"

// fromStream reads what came through the stream door. Nothing here can be refused to the publisher, who has his
// PubAck: what can't be archived goes to quarantine.
func (t *term) fromStream(msg jetstream.Msg) intake {
	in := intake{delivery: msg}
	meta, err := msg.Metadata()
	if err != nil {
		in.refusal = problem.New(problem.InternalFault, "the delivery has no metadata: %v", err)
		return in
	}
	in.place = streamID(meta.Stream, meta.Sequence.Stream, meta.Timestamp)
	to, err := addressed(msg.Subject())
	if err == nil && !t.owns(to) {
		err = problem.New(problem.BadAddress, "%s does not belong to partition %d; publish to %s", to, t.partition, subject.In(to))
	}
	m, wrong := message.Read(to, msg.Headers(), msg.Data(), meta.Timestamp, t.cfg.Limits)
	if err == nil {
		err = wrong
	}
	if err != nil {
		in.refusal = problem.From(err)
	}
	if m.ID == "" {
		m.ID = in.place
	}
	in.message = m
	return in
}

// fromDoor reads what another collect's request door, or this one's, has checked and passed on.
func (t *term) fromDoor(msg *nats.Msg) intake {
	in := intake{request: msg}
	entries, err := message.DecodeEntries(msg.Data)
	if err != nil || len(entries) != 1 || entries[0].Message == nil || entries[0].Message.ID == "" || !t.owns(entries[0].To) {
		in.refusal = problem.New(problem.BadRequest, "%s takes one message of its partition that a request door has checked; publish to weft.publish", msg.Subject)
		return in
	}
	in.message = entries[0].Message
	return in
}

// owns says whether an address belongs to the term's partition. Whoever publishes to weft.inp by himself could put
// its messages under two owners, and out of order.
func (t *term) owns(to subject.Address) bool {
	return subject.Partition(to, t.archive.Facts().Partitions) == t.partition
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
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())))
	var id ulid.ULID
	_ = id.SetTime(ulid.Timestamp(at)) // fails after the year 10889
	_ = id.SetEntropy(h.Sum(nil)[:10]) // fails for another length
	return id.String()
}
