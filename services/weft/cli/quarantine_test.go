package cli

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

// ward is a fake quarantine with the messages 1 to so many; bad ones refuse to be sent again or dropped.
type ward struct {
	messages int
	bad      []uint64 // that are refused
	gone     []uint64 // that are not there
	asked    []admin.QuarantineRequest
	changed  []admin.QuarantineOne
	during   func(number uint64) error
}

func (w *ward) list(q admin.QuarantineRequest) (any, error) {
	w.asked = append(w.asked, q)
	page := admin.QuarantinePage{Entries: []admin.Quarantined{}}
	if q.After == 0 {
		page.Total = w.messages
	}
	for n := q.After + 1; n <= uint64(w.messages); n++ {
		if len(page.Entries) == min(q.Limit, 3) {
			page.Next = n - 1
			break
		}
		page.Entries = append(page.Entries, admin.Quarantined{
			Number: n, At: 1e12, Reason: problem.BadJSON, Message: "the payload is not JSON", ID: "an-id", Tenant: "default", To: "user:alice", Size: 8,
		})
	}
	return page, nil
}

func (w *ward) change(q admin.QuarantineOne) (any, error) {
	if w.during != nil {
		if err := w.during(q.Number); err != nil {
			return nil, err
		}
	}
	w.changed = append(w.changed, q)
	if slices.Contains(w.bad, q.Number) {
		return nil, problem.New(problem.TooLarge, "message %d is too large", q.Number)
	}
	if slices.Contains(w.gone, q.Number) {
		return nil, problem.New(problem.NotFound, "there is no message %d", q.Number)
	}
	return admin.QuarantineDone{Number: q.Number, ID: "an-id", Stream: "WEFT_IN_0"}, nil
}

func (w *ward) numbers() []uint64 {
	var numbers []uint64
	for _, q := range w.changed {
		numbers = append(numbers, q.Number)
	}
	return numbers
}

func (w *ward) at(t *testing.T) string {
	t.Helper()
	return fakeFabric(t, answers{
		admin.QuarantineList:   answering(t, w.list),
		admin.QuarantineReplay: answering(t, w.change),
		admin.QuarantineDrop:   answering(t, w.change),
	})
}

func TestQuarantineLs(t *testing.T) {
	w := &ward{messages: 4}
	url := w.at(t)
	got := operate(t, NewQuarantine(), "ls", "--nats", url, "--of", "user:alice", "--reason", "bad_json", "--limit", "3")
	if got.code != ExitDone || w.asked[0].To != "user:alice" || w.asked[0].Reason != problem.BadJSON {
		t.Fatalf("%+v, asked with %+v", got, w.asked)
	}
	has(t, got.out, "4 messages in quarantine", "NUMBER  SET ASIDE", "     1  2001-09-", "user:alice", "bad_json", "the payload is not JSON", "\n     3  ")
	got = operate(t, NewQuarantine(), append([]string{"ls"}, goesOn(t, got.said, "quarantine ls")...)...)
	if q := w.asked[1]; got.code != ExitDone || q.After != 3 || q.To != "user:alice" {
		t.Fatalf("%+v, asked with %+v", got, w.asked)
	}
	got = operate(t, NewQuarantine(), "ls", "--nats", url, "--after", "3", "--output", "json")
	var page admin.QuarantinePage
	if err := json.Unmarshal([]byte(got.out), &page); err != nil || len(page.Entries) != 1 || page.Entries[0].Number != 4 {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestQuarantineShow(t *testing.T) {
	payload := []byte(`{"a":[1],"b":"\u001b"}`)
	url := fakeFabric(t, answers{admin.QuarantineShow: answering(t, func(q admin.QuarantineOne) (any, error) {
		return admin.Quarantined{
			Number: q.Number, At: 1e12, Reason: problem.Conflict, Message: "the id is taken", Field: "Weft-Id", ID: "an-id",
			Subject: "weft.in.default.user.alice", Tenant: "default", To: "user:alice", Size: len(payload), Payload: payload,
			Header: map[string][]string{"Weft-Id": {"an-id"}, "X-Evil": {"\x1b[2J"}},
		}, nil
	})})
	got := operate(t, NewQuarantine(), "show", "17", "--nats", url)
	has(t, got.out, "number     17\n", "reason     conflict\n", "the id is taken", "field      Weft-Id", "header     Weft-Id: an-id\n", `header     X-Evil: \x1b[2J`, "payload    22 bytes\n", "{\n  \"a\": [\n    1\n  ],")
	payload = []byte("line one\r\n\x1b[2Jtwo")
	has(t, operate(t, NewQuarantine(), "show", "17", "--nats", url).out, "\nline one\n\\x1b[2Jtwo\n")
	payload = append([]byte{0xff, 0x00}, strings.Repeat("x", 600)...)
	has(t, operate(t, NewQuarantine(), "show", "17", "--nats", url).out, "000000  ff 00 78 78", "..xxxx", "0001f0  78", "and 90 bytes more; --raw")
	if got := operate(t, NewQuarantine(), "show", "17", "--nats", url, "--raw").out; got != string(payload) {
		t.Errorf("raw is %q", got)
	}
}

func TestQuarantineReplayChangesWhatWasAskedFor(t *testing.T) {
	w := &ward{messages: 1}
	got := operate(t, NewQuarantine(), "replay", "1", "--nats", w.at(t), "--to", "user:bob", "--id", "new", "--set", "Content-Type: text/plain", "--set", "Weft-TTL:")
	if got.code != ExitDone || got.out != "1 sent again as an-id, taken by WEFT_IN_0\n" {
		t.Fatalf("%+v", got)
	}
	q := w.changed[0]
	if q.Run != nil || q.To != "user:bob" || q.ID != "new" || len(q.Set) != 2 || q.Set["Content-Type"] != "text/plain" || q.By.Who == "" {
		t.Errorf("asked with %+v", q)
	}
	if value, removed := q.Set["Weft-TTL"]; !removed || value != "" {
		t.Errorf("asked with %+v", q)
	}
}

func TestQuarantinePartlyDoneSaysHowToGoOn(t *testing.T) {
	w := &ward{messages: 9, bad: []uint64{2, 4}, gone: []uint64{5}}
	url := w.at(t)
	got := operate(t, NewQuarantine(), "drop", "1", "2", "3", "4", "5", "--yes", "--nats", url, "--note", "x")
	if got.code != ExitPartly {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "1 dropped, its id was an-id", "3 dropped")
	if r := w.changed[4].Run; r == nil || r.Done != 2 || len(r.Numbers) != 5 || r.ID != w.changed[0].Run.ID {
		t.Errorf("%+v", r)
	}
	has(t, got.said, "2: too_large:", "4: too_large:", "5: not_found:")
	has(t, got.err.Error(), "3 messages could not be dropped; go on with:\n  weft quarantine drop --nats "+url+" --note x --yes 2 4")
	if got = operate(t, NewQuarantine(), "drop", "2", "--yes", "--nats", url); got.code != ExitFailed {
		t.Errorf("nothing done: %+v", got)
	}
	got = operate(t, NewQuarantine(), "drop", "1", "2", "--yes", "--nats", url, "--output", "json")
	var o outcome
	if err := json.Unmarshal([]byte(got.out), &o); err != nil || len(o.Done) != 1 || len(o.Failed) != 1 || o.Failed[0].Number != 2 || o.Failed[0].Code != problem.TooLarge {
		t.Errorf("%v: %+v", err, got)
	}
	// What is gone will not come back: there is nothing to repeat.
	got = operate(t, NewQuarantine(), "drop", "1", "5", "--yes", "--nats", url)
	if got.code != ExitPartly || got.err.Error() != "1 message could not be dropped" {
		t.Errorf("%+v", got)
	}
}

func TestQuarantineAllIsOnePageAfterTheOther(t *testing.T) {
	w := &ward{messages: 8, bad: []uint64{5}}
	url := w.at(t)
	got := sitting(t, NewQuarantine(), "y\n", "replay", "--all", "--reason", "bad_json", "--nats", url)
	if want := []uint64{1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(w.numbers(), want) || got.code != ExitPartly {
		t.Errorf("%v: %+v", w.numbers(), got)
	}
	has(t, got.said, "Send again 8 messages, at "+url+"? [y/N]", "5: too_large:")
	has(t, got.out, "7 messages sent again.")
	for i, q := range w.changed { // one record of all, of what was done so far
		done := i
		if q.Number > 5 {
			done--
		}
		if r := q.Run; r == nil || r.ID == "" || r.ID != w.changed[0].Run.ID || r.Done != done || r.Started == 0 || r.Filter.Reason != problem.BadJSON || r.Filter.Until != w.asked[0].Until {
			t.Errorf("%d: %+v", q.Number, r)
		}
	}
	for _, q := range w.asked {
		if q.Until == 0 || q.Reason != problem.BadJSON {
			t.Errorf("what is set aside meanwhile would be taken too: %+v", q)
		}
	}
	w.changed = nil
	if got = sitting(t, NewQuarantine(), "\n", "drop", "--all", "--nats", url); got.code != ExitFailed || len(w.changed) != 0 {
		t.Errorf("declined: %+v", got)
	}
	if got = operate(t, NewQuarantine(), "drop", "1", "--nats", url); got.code != ExitUsage || len(w.changed) != 0 {
		t.Errorf("nobody to ask: %+v", got)
	}
}

// A message that is being dropped when Ctrl-C comes is dropped and told; the next ones are named to go on with.
func TestQuarantineStopsBetweenMessages(t *testing.T) {
	w := &ward{messages: 5}
	url := w.at(t)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	w.during = func(number uint64) error {
		if number == 2 {
			stop()
		}
		return nil
	}
	out := &tty{}
	err := execute(ctx, NewQuarantine(), strings.NewReader(""), out, &tty{}, []string{"drop", "1", "2", "3", "4", "--yes", "--nats", url})
	if ExitCode(err) != ExitPartly || !slices.Equal(w.numbers(), []uint64{1, 2}) {
		t.Fatalf("%v: %v", w.numbers(), err)
	}
	has(t, out.String(), "1 dropped", "2 dropped")
	has(t, err.Error(), "stopped before the end; go on with:", "--yes 3 4")
}

func TestQuarantineUsage(t *testing.T) {
	isolated(t)
	for want, args := range map[string][]string{
		"say what to do":       {},
		"is no number":         {"drop", "x"},
		"give numbers of":      {"replay"},
		"not both":             {"drop", "1", "--all"},
		"filters go with":      {"drop", "1", "--reason", "bad_json"},
		"one message":          {"replay", "1", "2", "--id", "x"},
		"'Name: value'":        {"replay", "1", "--set", "x"},
		"bad_address":          {"replay", "1", "--to", "group:x"},
		"accepts 1 arg":        {"show"},
		"--limit is 1 to 1000": {"ls", "--limit", "0"},
	} {
		if got := operate(t, NewQuarantine(), args...); got.code != ExitUsage || !strings.Contains(got.err.Error(), want) {
			t.Errorf("%v: exit %d, %v; want %q", args, got.code, got.err, want)
		}
	}
}
