package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// payloadShown is how many bytes of a payload are shown: base64 makes four of three, and the answer must fit a NATS message.
	payloadShown = 512 << 10
	// quarantineWithin is how long a page looks for entries.
	quarantineWithin = 2 * time.Second
)

// listQuarantine answers with a page of what is in quarantine, the oldest first.
func (d *Desk) listQuarantine(ctx context.Context, q admin.QuarantineRequest) (*admin.QuarantinePage, error) {
	if q.Limit <= 0 {
		q.Limit = rowsUsual
	}
	q.Limit = min(q.Limit, rowsMost)
	page := &admin.QuarantinePage{Entries: []admin.Quarantined{}}
	size, began := 0, time.Now()
	total, err := d.eachQuarantined(ctx, q, func(e admin.Quarantined) bool {
		full := len(page.Entries) == q.Limit || size > pageBytes || time.Since(began) > quarantineWithin
		if full && len(page.Entries) > 0 { // a page gets on by one entry at least, however slow all is
			page.Next = page.Entries[len(page.Entries)-1].Number
			return false
		}
		page.Entries = append(page.Entries, e)
		size += 6*(len(e.ID)+len(e.Subject)+len(e.Message)+len(e.To)+len(e.Tenant)+len(e.Field)) + 200
		return true
	})
	if err == nil && q.After == 0 && q.Until > 0 && total > 0 {
		var later int
		rest := q
		rest.Since = q.Until
		later, err = d.eachQuarantined(ctx, rest, func(admin.Quarantined) bool { return false })
		total -= later
	}
	if err != nil {
		return nil, err
	}
	if q.After == 0 {
		page.Total = total
	}
	return page, nil
}

// eachQuarantined gives the entries that a request chooses, whatever its Limit, to fn, the oldest first and without headers
// and payload, until fn returns false. It returns how many there are from the first on, those at or after Until among them.
func (d *Desk) eachQuarantined(ctx context.Context, q admin.QuarantineRequest, fn func(admin.Quarantined) bool) (total int, err error) {
	filter, err := quarantineFilter(q)
	if err != nil {
		return 0, err
	}
	c := from(jetstream.ConsumerConfig{FilterSubject: filter, HeadersOnly: true}, q.After, q.Since)
	r, err := d.read(ctx, fabric.QuarantineStream, c)
	if err != nil {
		return 0, err
	}
	defer r.close(ctx)
	total = int(r.left) //nolint:gosec // a number of messages
	for {
		m, meta, err := r.next(ctx)
		if err != nil || m == nil {
			return total, err
		}
		at := meta.Timestamp.UnixMilli()
		if q.Until > 0 && at >= q.Until {
			return total, nil
		}
		if at < q.Since { // q.After was before it
			continue
		}
		e, err := d.entry(ctx, r.stream, m, meta)
		if errors.Is(err, jetstream.ErrMsgNotFound) { // dropped meanwhile
			continue
		}
		if err != nil {
			return total, err
		}
		if !fn(e) {
			return total, nil
		}
	}
}

// entry is a delivery without its data. Where the message's own headers are in the data, it is fetched once more.
func (d *Desk) entry(ctx context.Context, stream jetstream.Stream, m jetstream.Msg, meta *jetstream.MsgMetadata) (admin.Quarantined, error) {
	packed := m.Headers()
	if packed.Get(quarantine.HeaderBlock) != "" {
		e, _, _, err := d.fetch(ctx, stream, meta.Sequence.Stream)
		return e, err
	}
	size, _ := strconv.Atoi(packed.Get(nats.MsgSize)) // the server's own
	original, _, err := quarantine.Unpack(packed, nil)
	return described(meta.Sequence.Stream, meta.Timestamp, m.Subject(), packed, original, size), err
}

// fetch is an entry with the headers and the payload that the message came with.
func (d *Desk) fetch(ctx context.Context, stream jetstream.Stream, number uint64) (admin.Quarantined, nats.Header, []byte, error) {
	raw, err := stream.GetMsg(ctx, number)
	if err != nil {
		return admin.Quarantined{}, nil, nil, err
	}
	header, payload, err := quarantine.Unpack(raw.Header, raw.Data)
	return described(raw.Sequence, raw.Time, raw.Subject, raw.Header, header, len(payload)), header, payload, err
}

// described says what an entry is.
func described(number uint64, at time.Time, on string, packed, original nats.Header, size int) admin.Quarantined {
	e := admin.Quarantined{
		Number: number, At: at.UnixMilli(), Size: size,
		Reason: problem.Code(packed.Get(quarantine.HeaderReason)), Message: packed.Get(quarantine.HeaderDetail),
		Field: packed.Get(quarantine.HeaderField), Subject: packed.Get(quarantine.HeaderSubject),
	}
	tokens := strings.TrimPrefix(on, subject.Quarantine(e.Reason, ""))
	if to, err := subject.ParseTokens(tokens); err == nil {
		e.Tenant, e.To = to.Tenant, to.String()
	} else {
		tenant, _, _ := strings.Cut(tokens, ".")
		e.Tenant, _ = subject.Decode(tenant) // only collect publishes there
	}
	e.ID = cmp.Or(idOf(original), packed.Get(jetstream.MsgIDHeader))
	return e
}

// idOf is the id that a message's publisher gave it, if he did.
func idOf(header nats.Header) string {
	// Only the id counts here; what else is wrong with the message is why it is in quarantine.
	m, _ := message.Read(subject.Address{}, header, nil, time.Time{}, message.Limits{})
	return m.ID
}

// quarantineFilter is the subject of what a request chooses.
func quarantineFilter(q admin.QuarantineRequest) (string, error) {
	reason, tenant, rest := problem.Code("*"), "*", ">"
	if q.Reason != "" {
		if reason = q.Reason; strings.Trim(string(reason), "abcdefghijklmnopqrstuvwxyz_") != "" {
			return "", problem.New(problem.BadRequest, "%.64q is no reason; they are codes such as bad_json or conflict", q.Reason).In("reason")
		}
	}
	if q.Tenant != "" {
		if err := subject.CheckID(q.Tenant); err != nil {
			return "", err
		}
		tenant = subject.Encode(q.Tenant)
	}
	if q.To != "" {
		to, err := subject.ParseAddress(cmp.Or(q.Tenant, subject.DefaultTenant), q.To)
		if err != nil {
			return "", err
		}
		_, rest, _ = strings.Cut(to.Tokens(), ".")
	}
	return subject.Quarantine(reason, tenant+"."+rest), nil
}

// showQuarantined answers with all there is of one message.
func (d *Desk) showQuarantined(ctx context.Context, q admin.QuarantineOne) (*admin.Quarantined, error) {
	_, e, header, payload, err := d.quarantined(ctx, q.Number)
	if err != nil {
		return nil, err
	}
	e.Header, e.Payload = header, payload[:min(len(payload), payloadShown)]
	return &e, nil
}

// quarantined finds one message.
func (d *Desk) quarantined(ctx context.Context, number uint64) (jetstream.Stream, admin.Quarantined, nats.Header, []byte, error) {
	stream, err := d.JS.Stream(ctx, fabric.QuarantineStream)
	if err != nil {
		return nil, admin.Quarantined{}, nil, nil, err
	}
	none := problem.New(problem.NotFound, "there is no message %d in quarantine; it was sent again or dropped, or it is older than quarantine keeps", number).In("number")
	if number == 0 {
		return nil, admin.Quarantined{}, nil, nil, none
	}
	e, header, payload, err := d.fetch(ctx, stream, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = none
	}
	return stream, e, header, payload, err
}

// dropQuarantined removes a message for good.
func (d *Desk) dropQuarantined(ctx context.Context, q admin.QuarantineOne) (*admin.QuarantineDone, error) {
	if err := checkBy(q.By); err != nil {
		return nil, err
	}
	stream, e, _, _, err := d.quarantined(ctx, q.Number)
	if err != nil {
		return nil, err
	}
	record, err := d.beginOne(ctx, "quarantine.drop", q, e)
	if err != nil {
		return nil, err
	}
	if err := remove(ctx, stream, q.Number); err != nil {
		return nil, err
	}
	d.end(ctx, record, record.Count+1, "")
	return &admin.QuarantineDone{Number: q.Number, ID: e.ID}, nil
}

// chosenOne is what a record says of a message in quarantine: what it was, and how it was changed.
type chosenOne struct {
	changed

	Number uint64       `json:"number"`
	Tenant string       `json:"tenant"`
	To     string       `json:"to,omitempty"`
	ID     string       `json:"id,omitempty"`
	Reason problem.Code `json:"reason"`
}

// chosenSome is what a record says of a command for several: which were named, or what chose them.
type chosenSome struct {
	changed
	admin.QuarantineRequest

	Numbers []uint64 `json:"numbers,omitempty"`
}

// changed is how messages are sent again.
type changed struct {
	NewTo string            `json:"new_to,omitempty"`
	NewID string            `json:"new_id,omitempty"`
	Set   map[string]string `json:"set,omitempty"`
}

// beginOne records a change to one message before it is made; of a command for several, that it has come so far.
func (d *Desk) beginOne(ctx context.Context, action string, q admin.QuarantineOne, e admin.Quarantined) (admin.Record, error) {
	how := changed{NewTo: q.To, NewID: q.ID, Set: q.Set}
	if q.Run == nil {
		return d.begin(ctx, action, q.By, chosenOne{how, q.Number, e.Tenant, e.To, e.ID, e.Reason})
	}
	if err := subject.CheckID(q.Run.ID); err != nil || len(q.Run.ID) > runMost {
		return admin.Record{}, problem.New(problem.BadRequest, "a command for several messages has an id of 1 to %d bytes, the same for all of them", runMost).In("run")
	}
	by := q.Run.Filter
	by.After, by.Limit = 0, 0
	filter, err := json.Marshal(chosenSome{how, by, q.Run.Numbers})
	if err != nil {
		return admin.Record{}, fmt.Errorf("encode what was asked for: %w", err)
	}
	r := admin.Record{ID: q.Run.ID, At: q.Run.Started, By: q.By, Action: action, Count: q.Run.Done, Filter: filter}
	return r, d.Archive.Record(ctx, r)
}

// remove deletes a message of the stream. One that is gone is deleted.
func remove(ctx context.Context, stream jetstream.Stream, number uint64) error {
	err := stream.DeleteMsg(ctx, number)
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if _, still := stream.GetMsg(ctx, number); errors.Is(still, jetstream.ErrMsgNotFound) {
		return nil
	}
	return fmt.Errorf("delete message %d: %w", number, err)
}

// replayQuarantined sends a message in through the stream door once more, as it came but for what is to be changed, and
// then removes it. It keeps its id, and without one gets the id that its receipt named: done twice, because a process
// died between the two, it is one message all the same.
func (d *Desk) replayQuarantined(ctx context.Context, q admin.QuarantineOne) (*admin.QuarantineDone, error) {
	if err := checkBy(q.By); err != nil {
		return nil, err
	}
	stream, e, header, payload, err := d.quarantined(ctx, q.Number)
	if err != nil {
		return nil, err
	}
	to, err := subject.ParseAddress(e.Tenant, cmp.Or(q.To, e.To))
	if err != nil && q.To == "" {
		return nil, problem.New(problem.BadAddress, "message %d was published to %s, which names no address; say to which one it goes", q.Number, e.Subject).In("to")
	}
	if err != nil {
		return nil, err
	}
	m, err := amended(e, header, q)
	if err != nil {
		return nil, err
	}
	m.Subject, m.Data = subject.In(to), payload
	record, err := d.beginOne(ctx, "quarantine.replay", q, e)
	if err != nil {
		return nil, err
	}
	ack, err := d.JS.PublishMsg(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("publish message %d to %s: %w", q.Number, m.Subject, err)
	}
	done := &admin.QuarantineDone{Number: q.Number, ID: idOf(m.Header), Stream: ack.Stream}
	if err := remove(ctx, stream, q.Number); err != nil {
		d.end(ctx, record, record.Count+1, fmt.Sprintf("number %d was sent again, and is still in quarantine", q.Number))
		return nil, err
	}
	d.end(ctx, record, record.Count+1, "")
	return done, nil
}

// amended is a message with the headers that it came with, changed as asked. What told JetStream something is left out:
// it was said of another stream, or of another moment.
func amended(e admin.Quarantined, header nats.Header, q admin.QuarantineOne) (*nats.Msg, error) {
	m := &nats.Msg{Header: nats.Header{}}
	for name, values := range header {
		if !strings.HasPrefix(strings.ToLower(name), "nats-") || strings.EqualFold(name, nats.MsgIdHdr) {
			m.Header[name] = values
		}
	}
	changes := maps.Clone(q.Set)
	if q.ID != "" {
		changes = withID(changes, q.ID)
	}
	for name, value := range changes {
		if name == "" || strings.ContainsAny(name, ": \r\n\t") || strings.ContainsAny(value, "\r\n") {
			return nil, problem.New(problem.BadHeader, "%.64q with the value %.64q can't be a header: line breaks, and colons and blanks in names, are not allowed", name, value).In("set")
		}
		maps.DeleteFunc(m.Header, func(have string, _ []string) bool { return strings.EqualFold(have, name) })
		if value != "" {
			m.Header.Set(name, value)
		}
	}
	if idOf(m.Header) == "" {
		m.Header.Set(message.HeaderID, e.ID)
	}
	return m, nil
}

// withID are changes that set the id too.
func withID(changes map[string]string, id string) map[string]string {
	all := map[string]string{message.HeaderID: id}
	for name, value := range changes {
		if !strings.EqualFold(name, message.HeaderID) {
			all[name] = value
		}
	}
	return all
}
