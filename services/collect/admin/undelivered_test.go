package admin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
)

// pending makes six messages that wait: two for somebody who is connected, three for somebody who is away, one for nobody.
func (w *world) pending() {
	w.t.Helper()
	held, away, nobody := user(1), user(2), user(3)
	w.publish(held, 3)
	w.publish(away, 3)
	w.publish(nobody, 1)
	w.ack(held, "phone", 1)
	w.ack(away, "phone", 0)
	w.connect(held, "phone", "node-1")
}

func TestUndelivered(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.pending()
	page, err := ask[admin.UndeliveredPage](w, admin.Undelivered, admin.UndeliveredRequest{Count: true})
	w.must(err)
	var got []string
	for _, m := range page.Messages {
		got = append(got, fmt.Sprintf("%s %s %s %d", m.Tenant, m.ID, m.Reason, m.Size))
	}
	want := []string{
		"default user-1/2 held 10", "default user-1/3 held 10", "default user-2/1 away 10", "default user-2/2 away 10",
		"default user-2/3 away 10", "default user-3/1 nobody 10",
	}
	if !slices.Equal(got, want) || page.Next != nil {
		t.Errorf("%q, next %v", got, page.Next)
	}
	first, last := page.Messages[0], page.Messages[5]
	reasons := map[admin.Reason]int{admin.ReasonHeld: 2, admin.ReasonAway: 3, admin.ReasonNobody: 1}
	if s := page.Total; s == nil || s.Messages != 6 || s.Users != 3 || s.Oldest != first.Archived || s.Newest != last.Archived || s.AtLeast || !maps.Equal(s.Reasons, reasons) {
		t.Errorf("in total %+v", page.Total)
	}
	if first.To != "user:user-1" || first.Seq != 2 || first.At == 0 {
		t.Errorf("%+v", first)
	}
	if page, err = ask[admin.UndeliveredPage](w, admin.Undelivered, admin.UndeliveredRequest{}); err != nil || page.Total != nil {
		t.Errorf("counted unasked: %+v, %v", page.Total, err)
	}
}

func TestUndeliveredInPages(t *testing.T) {
	w := newWorld(t)
	w.pending()
	for _, c := range []struct {
		reason admin.Reason
		want   []string
	}{
		{"", []string{"user-1/2", "user-1/3", "user-2/1", "user-2/2", "user-2/3", "user-3/1"}},
		{admin.ReasonAway, []string{"user-2/1", "user-2/2", "user-2/3"}},
		{admin.ReasonNobody, []string{"user-3/1"}},
	} {
		for limit := 1; limit < 8; limit++ {
			q := admin.UndeliveredRequest{Filter: admin.Filter{Reason: c.reason}, Limit: limit, Count: true}
			var got []string
			for pages := 1; ; pages++ {
				page, err := w.desk.undelivered(t.Context(), q)
				w.must(err)
				for _, m := range page.Messages {
					got = append(got, m.ID)
				}
				if page.Total.Messages != len(c.want) || len(page.Messages) > limit {
					t.Fatalf("%q, %d a page: total %+v, %d rows", c.reason, limit, page.Total, len(page.Messages))
				}
				if page.Next == nil {
					if most := (len(c.want) + limit - 1) / limit; pages != most {
						t.Errorf("%q, %d a page: %d pages, want %d", c.reason, limit, pages, most)
					}
					break
				}
				q.After = *page.Next
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, %d a page: %q", c.reason, limit, got)
			}
		}
	}
}

func TestUndeliveredWithoutRedis(t *testing.T) {
	w := newWorld(t)
	w.pending()
	w.stopRedis()
	page, err := w.desk.undelivered(t.Context(), admin.UndeliveredRequest{Count: true})
	w.must(err)
	if len(page.Messages) != 6 || page.Messages[0].Reason != "" || page.Total.Messages != 6 || len(page.Total.Reasons) != 0 {
		t.Errorf("%+v, total %+v", page.Messages, page.Total)
	}
	_, err = w.desk.undelivered(t.Context(), admin.UndeliveredRequest{Filter: admin.Filter{Reason: admin.ReasonAway}})
	if !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("a reason without Redis: %v", err)
	}
}

// The answer must fit a NATS message, whatever publishers wrote.
func TestUndeliveredPageFits(t *testing.T) {
	w := newWorld(t)
	w.serve()
	var messages []*message.Message
	for n := range 600 {
		id := strings.Repeat("\x01", 240) + fmt.Sprint(n) // six bytes each in JSON
		messages = append(messages, &message.Message{To: user(1), ID: id, Type: strings.Repeat("\x01", 256)})
	}
	w.storeAtOnce(messages)
	seen := 0
	for q := (admin.UndeliveredRequest{Limit: 1000}); ; {
		page, err := ask[admin.UndeliveredPage](w, admin.Undelivered, q)
		w.must(err)
		if seen += len(page.Messages); page.Next == nil {
			break
		}
		q.After = *page.Next
	}
	if seen != 600 {
		t.Errorf("%d came", seen)
	}
}

func TestRecords(t *testing.T) {
	w := newWorld(t)
	w.serve()
	for n := range 120 {
		w.must(w.archive.Record(t.Context(), admin.Record{
			ID: fmt.Sprint(n), At: int64(1000 + n), By: admin.By{Who: "anna"}, Action: []string{"kick", "drain"}[n%2], Filter: []byte(`{}`), Count: n,
		}))
	}
	answer, err := ask[admin.RecordsAnswer](w, admin.Records, admin.RecordsRequest{})
	w.must(err)
	if len(answer.Records) != recordsUsual || answer.Records[0].ID != "119" {
		t.Errorf("%d records, the first %+v", len(answer.Records), answer.Records[0])
	}
	answer, err = ask[admin.RecordsAnswer](w, admin.Records, admin.RecordsRequest{Action: "kick", Before: 1010, Limit: 3})
	w.must(err)
	if len(answer.Records) != 3 || answer.Records[0].ID != "8" || answer.Records[2].ID != "4" {
		t.Errorf("%+v", answer.Records)
	}
}

func TestServiceRefusesWithASentence(t *testing.T) {
	w := newWorld(t)
	w.serve()
	_, err := ask[admin.UndeliveredPage](w, admin.Undelivered, admin.UndeliveredRequest{Filter: admin.Filter{Device: "phone"}})
	if p := problem.From(err); p.Code != problem.BadRequest || p.Field != "device" || p.Message == "" {
		t.Errorf("refused with %v", err)
	}
	w.archive.failRecords(func(admin.Record) error { return errFault })
	_, err = ask[admin.ReplayPage](w, admin.Replay, admin.ReplayRequest{Run: "run", By: admin.By{Who: "anna"}})
	if p := problem.From(err); p.Code != problem.Unavailable || !p.Retry || !strings.Contains(p.Message, errFault.Error()) {
		t.Errorf("a fault: %v", err)
	}
	began := time.Now()
	w.nats.Stop()
	if _, err = w.desk.listQuarantine(t.Context(), admin.QuarantineRequest{}); err == nil || time.Since(began) > patience {
		t.Errorf("without NATS: %v", err)
	}
}
