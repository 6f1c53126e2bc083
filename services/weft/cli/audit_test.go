package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

// accounts are fake books: three partitions of two pages each, of which each has 100 messages and so many breaks.
type accounts struct {
	breaks int // of a page
	off    int // by how much a page does not add up
	late   int // messages of a page that are under way
	none   bool
	asked  []admin.AuditRequest
	before func(n int) error
}

func (a *accounts) audit(q admin.AuditRequest) (any, error) {
	a.asked = append(a.asked, q)
	if a.before != nil {
		if err := a.before(len(a.asked)); err != nil {
			return nil, err
		}
	}
	page := admin.AuditPage{
		Partitions: 3, Addresses: 10, Logged: 99, Incoming: 1, Broken: a.breaks,
		Balance: admin.Balance{Accepted: 100 + a.off, Delivered: 40, Pending: 30, Expired: 10, Superseded: 8, Quarantined: 7, Deleted: 5},
	}
	if page.UnderWay = a.late; a.none {
		page.Balance = admin.Balance{}
	}
	for n := range min(a.breaks, q.Most) {
		page.Breaks = append(page.Breaks, admin.Break{
			Tenant: "acme", To: "user:alice", Seq: 17, ID: fmt.Sprintf("id-%d-%s-%d", q.Partition, q.After, n), What: "not_in_log", Message: "publish it again",
		})
	}
	if q.After == "" {
		page.Next = "two"
	}
	return page, nil
}

func (a *accounts) at(t *testing.T) string {
	t.Helper()
	return fakeFabric(t, answers{admin.Audit: answering(t, a.audit)})
}

func TestAuditAddsUpAllPagesOfAllPartitions(t *testing.T) {
	a := new(accounts)
	url := a.at(t)
	got := operate(t, NewAudit(), "--nats", url, "--since", "2h", "--until", "1h")
	if got.code != ExitDone || len(a.asked) != 6 {
		t.Fatalf("%d pages: %+v", len(a.asked), got)
	}
	has(t, got.out, "600 messages, 594 of the log", "accepted", " 600\n", "delivered", " 240\n", "pending", " 180\n", "expired", " 60\n",
		"superseded", " 48\n", "quarantined", " 42\n", "deleted", " 30\n", "6 messages wait to be archived", "The books balance.\n")
	for i, q := range a.asked {
		if q.Partition != i/2 || (q.After == "two") != (i%2 == 1) || q.Since != a.asked[0].Since || q.Until-q.Since != time.Hour.Milliseconds() {
			t.Errorf("page %d was asked with %+v", i, q)
		}
	}
	got = operate(t, NewAudit(), "--nats", url, "--output", "json")
	var b books
	if err := json.Unmarshal([]byte(got.out), &b); err != nil || b.Balance.Accepted != 600 || !b.Balanced || b.Breaks == nil || b.Until-b.Since != time.Hour.Milliseconds() {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestAuditNamesWhatBreaksTheBooks(t *testing.T) {
	a := &accounts{breaks: 2}
	url := a.at(t)
	got := operate(t, NewAudit(), "--nats", url, "--most", "3")
	if got.code != ExitFailed || !errors.Is(got.err, errUnbalanced) {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "12 messages broke the books.", "not_in_log  acme/user:alice seq 17 id id-0--0\n    publish it again\n", "id-0--1", "id-0-two-0")
	lacks(t, got.out, "id-0-two-1", "balance.")
	has(t, got.said, "and 9 more; --most")
	got = operate(t, NewAudit(), "--nats", url, "--output", "json")
	var b books
	if err := json.Unmarshal([]byte(got.out), &b); err != nil || b.Broken != 12 || len(b.Breaks) != 12 || b.Balanced || got.code != ExitFailed {
		t.Errorf("%v: %+v", err, got)
	}
}

// What the log has not taken yet is no break and no balance either: the same window is to be audited again.
func TestAuditOfWhatIsUnderWay(t *testing.T) {
	a := &accounts{late: 2}
	url := a.at(t)
	got := operate(t, NewAudit(), "--nats", url, "--since", "2h")
	if got.code != ExitPartly {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "12 messages under way", "The books balance but for these.\n")
	first := a.asked[0]
	if got = operate(t, NewAudit(), goesOn(t, got.err.Error(), "audit")...); got.code != ExitPartly || a.asked[6].Since != first.Since || a.asked[6].Until != first.Until {
		t.Errorf("asked again with %+v after %+v", a.asked[6], first)
	}
	var b books
	got = operate(t, NewAudit(), "--nats", url, "--output", "json")
	if err := json.Unmarshal([]byte(got.out), &b); err != nil || b.UnderWay != 12 || b.Balanced || got.code != ExitPartly {
		t.Errorf("%v: %+v", err, got)
	}
	a.breaks = 1
	if got = operate(t, NewAudit(), "--nats", url); got.code != ExitFailed {
		t.Errorf("with breaks: %+v", got)
	}
}

func TestAuditOfNothingProvesNothing(t *testing.T) {
	got := operate(t, NewAudit(), "--nats", (&accounts{none: true}).at(t))
	if got.code != ExitDone {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "nothing to compare")
	lacks(t, got.out, "The books balance")
}

func TestSumsThatDifferAreNoBalance(t *testing.T) {
	got := operate(t, NewAudit(), "--nats", (&accounts{off: 2}).at(t))
	if got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "The sums differ by 12, and no message was found")
}

func TestAuditThatCanNotBeFinishedIsNoBalance(t *testing.T) {
	a := &accounts{before: func(n int) error {
		switch n {
		case 2:
			return problem.New(problem.Unavailable, "moving")
		case 5:
			return problem.New(problem.InternalFault, "broken")
		}
		return nil
	}}
	got := operate(t, NewAudit(), "--nats", a.at(t))
	if got.code != ExitFailed || got.out != "" || len(a.asked) != 5 {
		t.Errorf("%d pages: %+v", len(a.asked), got)
	}
	has(t, got.err.Error(), "partition 1: internal: broken")
	has(t, got.said, "waiting: unavailable: moving")
}

func TestAuditRecords(t *testing.T) {
	var asked admin.RecordsRequest
	at := time.Now().Add(-time.Minute).UnixMilli()
	url := fakeFabric(t, answers{admin.Records: answering(t, func(q admin.RecordsRequest) (any, error) {
		asked = q
		return admin.RecordsAnswer{Records: []admin.Record{
			{ID: "run", At: at, By: admin.By{Who: "alice@laptop", Note: "INC-1"}, Action: "replay", Filter: json.RawMessage(`{"user":"bob","since":1000000000000}`), Count: 500, Detail: "finished"},
			{ID: "run", At: at - 1, By: admin.By{Who: "alice@laptop"}, Action: "replay", Filter: json.RawMessage(`{}`), Count: 0},
		}}, nil
	})})
	got := operate(t, NewAudit(), "records", "--nats", url, "--action", "replay", "--limit", "2", "--before", "2026-11-23T01:00:00Z")
	if got.code != ExitDone || asked != (admin.RecordsRequest{Before: 1795395600000, Action: "replay", Limit: 2}) {
		t.Fatalf("%+v, asked with %+v", got, asked)
	}
	has(t, got.out, "alice@laptop  replay    500  user=bob since=2001-09-", "; finished", "INC-1", "replay      0  everything")
	next := goesOn(t, got.said, "audit records")
	if got = operate(t, NewAudit(), append([]string{"records"}, next...)...); got.code != ExitDone || asked.Before != at-1 || asked.Action != "replay" {
		t.Errorf("%v: %+v, asked with %+v", next, got, asked)
	}
	if got = operate(t, NewAudit(), "records", "--nats", url, "--output", "json"); !strings.Contains(got.out, `"who":"alice@laptop"`) {
		t.Errorf("%+v", got)
	}
}
