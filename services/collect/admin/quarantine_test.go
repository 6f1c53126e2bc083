package admin

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/services/collect/quarantine"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// setAside puts a message into quarantine as collect does; on is the subject that it came on, without weft.inp.<p>.
func (w *world) setAside(reason problem.Code, on, payload string, header nats.Header) uint64 {
	w.t.Helper()
	tokens := on
	if _, err := subject.ParseTokens(on); err != nil {
		tokens = subject.Unaddressed(on)
	}
	m := &nats.Msg{Subject: subject.Quarantine(reason, tokens)}
	m.Header, m.Data = quarantine.Pack(header, []byte(payload))
	m.Header.Set(quarantine.HeaderReason, string(reason))
	m.Header.Set(quarantine.HeaderDetail, "what was wrong")
	m.Header.Set(quarantine.HeaderField, "a field")
	m.Header.Set(quarantine.HeaderSubject, "weft.inp.0."+on)
	m.Header.Set(jetstream.MsgIDHeader, "place-"+payload[:min(len(payload), 9)])
	w.tick()
	ack, err := w.js.PublishMsg(w.t.Context(), m)
	w.must(err)
	w.tick()
	return ack.Sequence
}

func numbers(entries []admin.Quarantined) (list []uint64) {
	for _, e := range entries {
		list = append(list, e.Number)
	}
	return list
}

func TestQuarantineList(t *testing.T) {
	w := newWorld(t)
	w.serve()
	many := nats.Header{"Weft-Id": {"mine too"}}
	for n := range 600 { // more than fit with a prefix
		many.Set(fmt.Sprint("h", n), "v")
	}
	w.setAside(problem.BadJSON, "default.user.anna", "{", nats.Header{"ce-id": {"mine"}})
	w.setAside(problem.BadAddress, "default.robot.7", "22", nil)
	w.setAside(problem.BadJSON, "acme.user.anna", "333", many)
	w.setAside(problem.Conflict, "default.user.ben", "4444", nil)
	page, err := ask[admin.QuarantinePage](w, admin.QuarantineList, admin.QuarantineRequest{})
	w.must(err)
	var got []string
	for _, e := range page.Entries {
		got = append(got, fmt.Sprintf("%d %s %s/%s %q %d %s", e.Number, e.Reason, e.Tenant, e.To, e.ID, e.Size, e.Subject))
		if e.Message != "what was wrong" || e.Field != "a field" || e.At == 0 || len(e.Header)+len(e.Payload) > 0 {
			t.Errorf("%+v", e)
		}
	}
	want := []string{
		`1 bad_json default/user:anna "mine" 1 weft.inp.0.default.user.anna`, `2 bad_address default/ "place-22" 2 weft.inp.0.default.robot.7`,
		`3 bad_json acme/user:anna "mine too" 3 weft.inp.0.acme.user.anna`, `4 conflict default/user:ben "place-4444" 4 weft.inp.0.default.user.ben`,
	}
	if !slices.Equal(got, want) || page.Total != 4 || page.Next != 0 {
		t.Errorf("%q, %d in total, next %d", got, page.Total, page.Next)
	}
	at := func(n int) int64 { return page.Entries[n-1].At }
	for _, c := range []struct {
		q    admin.QuarantineRequest
		want []uint64
	}{
		{admin.QuarantineRequest{Tenant: "default"}, []uint64{1, 2, 4}},
		{admin.QuarantineRequest{To: "user:anna"}, []uint64{1, 3}},
		{admin.QuarantineRequest{Tenant: "acme", To: "user:anna"}, []uint64{3}},
		{admin.QuarantineRequest{Reason: problem.BadJSON}, []uint64{1, 3}},
		{admin.QuarantineRequest{Since: at(2)}, []uint64{2, 3, 4}},
		{admin.QuarantineRequest{Until: at(3)}, []uint64{1, 2}},
		{admin.QuarantineRequest{Since: at(2), Until: at(4), Reason: problem.BadJSON}, []uint64{3}},
		{admin.QuarantineRequest{Tenant: "nobody"}, nil},
	} {
		for limit := 1; limit < 5; limit++ {
			var all []uint64
			for q := c.q; ; {
				q.Limit = limit
				page, err := ask[admin.QuarantinePage](w, admin.QuarantineList, q)
				w.must(err)
				if q.After == 0 && page.Total != len(c.want) || q.After > 0 && page.Total != 0 {
					t.Errorf("%+v: %d in total", q, page.Total)
				}
				all = append(all, numbers(page.Entries)...)
				if q.After = page.Next; q.After == 0 {
					break
				}
			}
			if !slices.Equal(all, c.want) {
				t.Errorf("%+v, %d a page: %v, want %v", c.q, limit, all, c.want)
			}
		}
	}
	for _, q := range []admin.QuarantineRequest{{Reason: "a.b"}, {Reason: ">"}, {To: "robot:1"}, {Tenant: strings.Repeat("t", 129)}} {
		if _, err := ask[admin.QuarantinePage](w, admin.QuarantineList, q); err == nil || problem.From(err).Retry {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

func TestQuarantineShow(t *testing.T) {
	w := newWorld(t)
	w.serve()
	large := `"` + strings.Repeat("x", 700<<10) + `"`
	w.setAside(problem.BadJSON, "default.user.anna", "{", nats.Header{"ce-id": {"mine"}, "x": {"1", "2"}})
	w.setAside(problem.TooLarge, "default.user.anna", large, nil)
	e, err := ask[admin.Quarantined](w, admin.QuarantineShow, admin.QuarantineOne{Number: 1})
	w.must(err)
	if string(e.Payload) != "{" || len(e.Header) != 2 || !slices.Equal(e.Header["x"], []string{"1", "2"}) || e.ID != "mine" || e.Size != 1 {
		t.Errorf("%+v", e)
	}
	e, err = ask[admin.Quarantined](w, admin.QuarantineShow, admin.QuarantineOne{Number: 2})
	w.must(err)
	if e.Size != len(large) || len(e.Payload) != payloadShown || !strings.HasPrefix(large, string(e.Payload)) {
		t.Errorf("%d bytes of %d", len(e.Payload), e.Size)
	}
	for _, number := range []uint64{0, 3} {
		if _, err := ask[admin.Quarantined](w, admin.QuarantineShow, admin.QuarantineOne{Number: number}); !errors.Is(err, problem.New(problem.NotFound, "")) {
			t.Errorf("%d: %v", number, err)
		}
	}
}

// incoming is what a partition's stream door holds.
func (w *world) incoming(to subject.Address) []*jetstream.RawStreamMsg {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fabric.InStream(subject.Partition(to, partitions)))
	w.must(err)
	var all []*jetstream.RawStreamMsg
	for n := uint64(1); n <= stream.CachedInfo().State.LastSeq; n++ {
		m, err := stream.GetMsg(w.t.Context(), n)
		w.must(err)
		all = append(all, m)
	}
	return all
}

func TestQuarantineReplay(t *testing.T) {
	w := newWorld(t)
	w.serve()
	by := admin.By{Who: "anna", Note: "mended"}
	anna, ben := subject.UserAddress("default", "anna"), subject.UserAddress("default", "ben")
	w.setAside(problem.BadHeader, "default.user.anna", `"one"`, nats.Header{
		"Weft-TTL": {"soon"}, "weft-type": {"t"}, "X": {"1", "2"}, "Nats-Expected-Last-Sequence": {"77"}, "Nats-Msg-Id": {"mine"},
	})
	w.setAside(problem.BadAddress, "default.robot.7", `"two"`, nil)
	for _, q := range []admin.QuarantineOne{
		{Number: 2}, {Number: 2, To: "robot:8"}, {Number: 1, Set: map[string]string{"a:b": "c"}}, {Number: 1, Set: map[string]string{"a": "b\r\nc: d"}},
	} {
		q.By = by
		if _, err := ask[admin.QuarantineDone](w, admin.QuarantineReplay, q); err == nil || problem.From(err).Retry {
			t.Errorf("%+v: %v", q, err)
		}
	}
	if records := w.recorded(""); len(records) > 0 {
		t.Errorf("recorded %+v", records)
	}
	done, err := ask[admin.QuarantineDone](w, admin.QuarantineReplay, admin.QuarantineOne{Number: 1, Set: map[string]string{"weft-ttl": "", "Weft-Type": "u"}, By: by})
	w.must(err)
	if done.Number != 1 || done.ID != "mine" || done.Stream != fabric.InStream(subject.Partition(anna, partitions)) {
		t.Errorf("%+v", done)
	}
	in := w.incoming(anna)
	if len(in) != 1 || string(in[0].Data) != `"one"` {
		t.Fatalf("%d came in", len(in))
	}
	h := in[0].Header
	if len(h) != 3 || h.Get("Nats-Msg-Id") != "mine" || h.Get("Weft-Type") != "u" || len(h["X"]) != 2 {
		t.Errorf("headers %v", h)
	}
	// Without an id of its own it keeps the one that its receipt named.
	done, err = ask[admin.QuarantineDone](w, admin.QuarantineReplay, admin.QuarantineOne{Number: 2, To: "user:ben", By: by})
	w.must(err)
	in = w.incoming(ben)
	if last := in[len(in)-1]; done.ID != `place-"two"` || last.Header.Get("Weft-Id") != done.ID || string(last.Data) != `"two"` || !strings.HasSuffix(last.Subject, "default.user.ben") {
		t.Errorf("%+v, came in on %s with %v", done, last.Subject, last.Header)
	}
	page, err := w.desk.listQuarantine(t.Context(), admin.QuarantineRequest{})
	w.must(err)
	if len(page.Entries) != 0 {
		t.Errorf("left in quarantine: %+v", page.Entries)
	}
	records := w.recorded("quarantine.replay")
	if len(records) != 2 || records[0].Count != 1 || records[0].By != by || !bytes.Contains(records[0].Filter, []byte(`"new_to":"user:ben"`)) {
		t.Errorf("recorded %+v", records)
	}
	if _, err = ask[admin.QuarantineDone](w, admin.QuarantineReplay, admin.QuarantineOne{Number: 2, To: "user:ben", By: by}); !errors.Is(err, problem.New(problem.NotFound, "")) {
		t.Errorf("once more: %v", err)
	}
}

func TestQuarantineReplayUnderAnotherID(t *testing.T) {
	w := newWorld(t)
	anna := subject.UserAddress("default", "anna")
	w.setAside(problem.Conflict, "default.user.anna", `1`, nats.Header{"weft-id": {"taken"}, "Nats-Msg-Id": {"older"}})
	done, err := w.desk.replayQuarantined(t.Context(), admin.QuarantineOne{Number: 1, ID: "free", By: admin.By{Who: "anna"}})
	w.must(err)
	in := w.incoming(anna)
	if len(in) != 1 || idOf(in[0].Header) != "free" || done.ID != "free" {
		t.Errorf("%+v came in with %v", done, in[0].Header)
	}
}

func TestQuarantineDrop(t *testing.T) {
	w := newWorld(t)
	w.serve()
	by := admin.By{Who: "anna"}
	w.setAside(problem.BadJSON, "default.user.anna", `{`, nil)
	w.setAside(problem.BadJSON, "default.user.anna", `[`, nil)
	w.archive.failRecords(func(admin.Record) error { return errFault })
	if _, err := w.desk.dropQuarantined(t.Context(), admin.QuarantineOne{Number: 1, By: by}); !errors.Is(err, errFault) {
		t.Errorf("without a record: %v", err)
	}
	w.archive.failRecords(nil)
	done, err := ask[admin.QuarantineDone](w, admin.QuarantineDrop, admin.QuarantineOne{Number: 2, By: by})
	w.must(err)
	page, err := w.desk.listQuarantine(t.Context(), admin.QuarantineRequest{})
	w.must(err)
	if done.Number != 2 || !slices.Equal(numbers(page.Entries), []uint64{1}) {
		t.Errorf("%+v, left %v", done, numbers(page.Entries))
	}
	records := w.recorded("quarantine.drop")
	if len(records) != 1 || records[0].Count != 1 || !bytes.Contains(records[0].Filter, []byte(`"id":"place-["`)) || records[0].At > time.Now().UnixMilli() {
		t.Errorf("recorded %+v", records)
	}
	if in := w.incoming(subject.UserAddress("default", "anna")); len(in) > 0 {
		t.Errorf("%d came in", len(in))
	}
}

// A command for several messages leaves one record: who, when, what was chosen, how many so far.
func TestOneRecordOfACommandForSeveral(t *testing.T) {
	w := newWorld(t)
	w.serve()
	for n := range 4 {
		w.setAside(problem.BadJSON, "default.user.anna", fmt.Sprint(n), nil)
	}
	q := admin.QuarantineOne{By: admin.By{Who: "anna"}, Run: &admin.QuarantineRun{ID: "run", Started: 5, Filter: admin.QuarantineRequest{Reason: problem.BadJSON, Until: 9}}}
	change := func(endpoint string, number uint64) {
		q.Number = number
		_, err := ask[admin.QuarantineDone](w, endpoint, q)
		w.must(err)
		q.Run.Done++
	}
	change(admin.QuarantineDrop, 1)
	change(admin.QuarantineDrop, 2)
	q.Run = &admin.QuarantineRun{ID: "other", Started: 6, Numbers: []uint64{3, 4}}
	q.To = "user:ben"
	change(admin.QuarantineReplay, 3)
	var got []string
	for _, r := range w.recorded("") {
		got = append(got, fmt.Sprintf("%s at %d %s %s %d %s", r.ID, r.At, r.Action, r.By.Who, r.Count, r.Filter))
	}
	if want := []string{
		`other at 6 quarantine.replay anna 1 {"new_to":"user:ben","numbers":[3,4]}`,
		`run at 5 quarantine.drop anna 2 {"reason":"bad_json","until":9}`,
	}; !slices.Equal(got, want) {
		t.Errorf("recorded %q", got)
	}
	q.Run, q.Number = &admin.QuarantineRun{}, 4
	if _, err := ask[admin.QuarantineDone](w, admin.QuarantineDrop, q); problem.From(err).Code != problem.BadRequest {
		t.Errorf("without an id: %v", err)
	}
}
