package cli

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// backlog is a fake service with so many undelivered messages; every third page is empty, as one of a rare reason may be.
type backlog struct {
	messages, page int
	asked          []admin.UndeliveredRequest
	before         func(n int) error
}

func (b *backlog) undelivered(q admin.UndeliveredRequest) (any, error) {
	b.asked = append(b.asked, q)
	if b.before != nil {
		if err := b.before(len(b.asked)); err != nil {
			return nil, err
		}
	}
	page := admin.UndeliveredPage{Messages: []admin.Message{}}
	from := int(q.After.Seq)
	to := min(from+min(b.page, q.Limit), b.messages)
	if len(b.asked)%3 == 0 {
		to = from
	}
	for seq := from + 1; seq <= to; seq++ {
		page.Messages = append(page.Messages, admin.Message{
			Tenant: "default", To: "user:alice", Seq: uint64(seq), ID: fmt.Sprintf("id-%d", seq), Type: "order.shipped",
			Archived: time.Now().Add(-192 * time.Second).UnixMilli(), Size: 100, Reason: admin.ReasonAway,
		})
	}
	if to < b.messages {
		page.Next = &admin.Place{Address: "default.user.alice", Seq: uint64(to)}
	}
	if q.Count {
		page.Total = &admin.Total{
			Messages: b.messages, Users: 2, Oldest: time.Now().Add(-50 * time.Hour).UnixMilli(), AtLeast: b.messages > 1000,
			Reasons: map[admin.Reason]int{admin.ReasonAway: b.messages - 3, admin.ReasonHeld: 2, admin.ReasonNobody: 1},
		}
	}
	return page, nil
}

func (b *backlog) at(t *testing.T) string {
	t.Helper()
	return fakeFabric(t, answers{admin.Undelivered: answering(t, b.undelivered)})
}

func TestUndeliveredForPeople(t *testing.T) {
	b := &backlog{messages: 2345, page: 4}
	got := operate(t, NewUndelivered(), "--nats", b.at(t), "--limit", "10", "--type", "order.shipped")
	if got.code != ExitDone || b.asked[0].Type != "order.shipped" {
		t.Fatalf("%+v", got)
	}
	has(t, got.out,
		"at least 2,345 messages undelivered, to 2 users; the oldest is 2d02h old; 2,342 away, 2 held, 1 nobody\n",
		"TO          SEQ  ID     TYPE             AGE  REASON\n",
		"user:alice    1  id-1   order.shipped  3m12s  away\n",
		"user:alice   10  id-10  order.shipped  3m12s  away\n")
	lacks(t, got.out, "id-11", "EXPIRES", "TENANT", "\x1b")
	b.asked = nil
	got = operate(t, NewUndelivered(), goesOn(t, got.said, "undelivered")...)
	if got.code != ExitDone || b.asked[0].Type != "order.shipped" || b.asked[0].Count {
		t.Fatalf("%+v, asked with %+v", got, b.asked[0])
	}
	has(t, got.out, "TO ", "id-11", "id-20")
	lacks(t, got.out, "undelivered, to", "id-21")
}

func TestUndeliveredForPrograms(t *testing.T) {
	b := &backlog{messages: 12, page: 5}
	url := b.at(t)
	got := operate(t, NewUndelivered(), "--nats", url, "--limit", "10", "--output", "json")
	var page admin.UndeliveredPage
	if err := json.Unmarshal([]byte(got.out), &page); err != nil || len(page.Messages) != 10 || page.Next == nil || page.Total == nil || page.Total.Messages != 12 {
		t.Errorf("%v: %+v", err, got)
	}
	b.asked = nil
	got = operate(t, NewUndelivered(), "--nats", url, "--all", "--output", "json")
	d := json.NewDecoder(strings.NewReader(got.out))
	rows := 0
	for d.More() {
		var page admin.UndeliveredPage
		if err := d.Decode(&page); err != nil {
			t.Fatal(err)
		}
		rows += len(page.Messages)
	}
	if rows != 12 || got.code != ExitDone {
		t.Errorf("%d rows: %+v", rows, got)
	}
}

func TestUndeliveredAllGoesOnWhereItWasRefused(t *testing.T) {
	b := &backlog{messages: 12, page: 5, before: func(n int) error {
		if n == 2 {
			return problem.New(problem.InternalFault, "broken")
		}
		return nil
	}}
	got := operate(t, NewUndelivered(), "--nats", b.at(t), "--all")
	if got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "id-1 ", "id-5 ")
	got = operate(t, NewUndelivered(), goesOn(t, got.err.Error(), "undelivered")...)
	has(t, got.out, "id-6 ", "id-12 ")
	lacks(t, got.out, "id-5 ")
}

func TestNothingIsUndelivered(t *testing.T) {
	url := fakeFabric(t, answers{admin.Undelivered: answering(t, func(admin.UndeliveredRequest) (any, error) {
		return admin.UndeliveredPage{Messages: []admin.Message{}, Total: &admin.Total{}}, nil
	})})
	if got := operate(t, NewUndelivered(), "--nats", url); got.code != ExitDone || got.out != "Nothing is undelivered.\n" {
		t.Errorf("%+v", got)
	}
	if got := operate(t, NewUndelivered(), "--nats", url, "--output", "json"); got.out != `{"messages":[],"total":{"messages":0,"users":0}}`+"\n" {
		t.Errorf("%+v", got)
	}
}

// What strangers wrote moves no cursor, and a narrow terminal cuts ids in the middle.
func TestATableAtANarrowTerminal(t *testing.T) {
	url := fakeFabric(t, answers{admin.Undelivered: answering(t, func(admin.UndeliveredRequest) (any, error) {
		return admin.UndeliveredPage{Messages: []admin.Message{
			{Tenant: "acme", To: "user:\x1b[2J" + strings.Repeat("x", 60), Seq: 1, ID: "begin-" + strings.Repeat("日本", 20) + "-end", Type: "t"},
		}}, nil
	})})
	got := sitting(t, NewUndelivered(), "", "--nats", url)
	lacks(t, got.out, "\x1b")
	has(t, got.out, "acme", `user:\x1b`, "…", "begin-", "…", "-end")
	for l := range strings.Lines(got.out) {
		if n := displayed(strings.TrimRight(l, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
	if wide := operate(t, NewUndelivered(), "--nats", url); strings.Contains(wide.out, "…") {
		t.Errorf("cut where no terminal is:\n%s", wide.out)
	}
}

func TestWithoutServicesTheRemedyIsTold(t *testing.T) {
	url := fakeFabric(t, nil)
	got := operate(t, NewUndelivered(), "--nats", url)
	if got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	has(t, got.err.Error(), "unavailable: nobody answers on weft.admin.undelivered at "+url, "`weft doctor`")
	if got = operate(t, NewUndelivered(), "--nats", "nats://somebody:secret@127.0.0.1:1"); got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	has(t, got.err.Error(), "connect to NATS at nats://127.0.0.1:1:", "is the fabric running?")
	lacks(t, got.err.Error(), "secret")
	if got = operate(t, NewUndelivered()); got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	has(t, got.err.Error(), "no fabric runs in .weft; start one with `weft dev`", "--nats or --context")
}

func TestASilentServiceIsNotWaitedForForEver(t *testing.T) {
	release := make(chan struct{})
	url := fakeFabric(t, answers{admin.Undelivered: func([]byte) (any, error) { <-release; return nil, nil }}) //nolint:nilnil // nobody hears it
	defer close(release)
	got := operate(t, NewUndelivered(), "--nats", url, "--timeout", "50ms")
	if got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	has(t, got.err.Error(), "did not answer within 50ms", "--timeout")
}

func TestASilentOrderMayStillBeDone(t *testing.T) {
	release := make(chan struct{})
	silent := func([]byte) (any, error) { <-release; return nil, nil } //nolint:nilnil // nobody hears it
	url := fakeFabric(t, answers{admin.Kick: silent})
	defer close(release)
	got := operate(t, NewKick(), "alice", "--nats", url, "--timeout", "50ms")
	if got.code != ExitFailed || !retryable(got.err) {
		t.Errorf("%+v", got)
	}
	has(t, got.err.Error(), "unavailable: ", "did not answer", "not known whether it was done", "`weft audit records`")
	if got = operate(t, NewDrain(), "NODE", "--nats", url, "--timeout", "50ms"); got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	lacks(t, got.err.Error(), "not known") // nobody was there to do it
}

func TestAMessageThatMayBeTakenIsPublishedUnderItsID(t *testing.T) {
	c := newCounter(t)
	if _, err := c.nc.SubscribeSync(subject.Publish(subject.UserAddress("default", "alice"))); err != nil {
		t.Fatal(err)
	}
	if err := c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	got := operate(t, NewPub(), "user:alice", "1", "--id", "order 17", "--nats", c.url, "--timeout", "50ms")
	has(t, got.err.Error(), "not known whether", "--id 'order 17'")
	if got.code != ExitFailed {
		t.Errorf("%+v", got)
	}
	got = operate(t, NewPub(), "user:alice", "1", "--nats", c.url, "--timeout", "50ms")
	if !regexp.MustCompile(`--id [0-9A-Z]{26}$`).MatchString(got.err.Error()) {
		t.Errorf("%v", got.err)
	}
}

func TestCompletion(t *testing.T) {
	isolated(t)
	writeContext(t, "prod", `{}`)
	for want, args := range map[string][]string{
		"held\ta device is connected": {"--reason", ""},
		"json":                        {"--output", ""},
		"prod":                        {"--context", ""},
	} {
		c := NewUndelivered()
		got := complementOf(t, c, append([]string{"undelivered"}, args...))
		has(t, got, want)
	}
}
