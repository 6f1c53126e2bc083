package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

// shellWords is a line as bash splits it.
func shellWords(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "-c", `printf '%s\0' `+line).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// fakeLog is a fake service that has so many messages to send again, on one partition.
type fakeLog struct {
	messages int
	page     int // most of a page
	asked    []admin.ReplayRequest
	before   func(page int) error // what happens before the answer to the page of this number, from 1
}

func (l *fakeLog) replay(q admin.ReplayRequest) (any, error) {
	l.asked = append(l.asked, q)
	if l.before != nil {
		if err := l.before(len(l.asked)); err != nil {
			return nil, err
		}
	}
	from := int(q.Position.Sequence)
	n := min(l.page, l.messages-from)
	if q.Limit > 0 {
		n = min(n, q.Limit)
	}
	page := admin.ReplayPage{
		ReplayCount: admin.ReplayCount{Read: n, Matched: n, Sent: n},
		Position:    admin.ReplayPosition{Archived: true, Sequence: uint64(from + n)}, Finished: from+n == l.messages, ToRead: l.messages - from - n,
	}
	if q.Dry && n > 0 {
		page.Oldest, page.Newest = int64(1000+from), int64(1001+from)
		for i := range 2 {
			page.Sample = append(page.Sample, admin.Message{To: "user:alice", ID: fmt.Sprint("m", from+i)})
		}
	}
	return page, nil
}

// at is where it answers.
func (l *fakeLog) at(t *testing.T) string {
	t.Helper()
	return fakeFabric(t, answers{
		admin.Replay: answering(t, l.replay),
		admin.Undelivered: answering(t, func(admin.UndeliveredRequest) (any, error) {
			return admin.UndeliveredPage{Total: &admin.Total{Messages: l.messages, Users: 1}}, nil
		}),
	})
}

func TestReplayHandsEachPageWhereTheLastOneEnded(t *testing.T) {
	l := &fakeLog{messages: 25, page: 10}
	url := l.at(t)
	got := operate(t, NewReplay(), "--nats", url, "--user", "alice", "--since", "2026-11-23T01:00:00Z", "--yes", "--note", "INC-1", "--output", "json")
	var done replayed
	if err := json.Unmarshal([]byte(got.out), &done); err != nil || got.code != ExitDone {
		t.Fatalf("%+v: %v", got, err)
	}
	if done.Sent != 25 || done.Read != 25 || !done.Finished || done.Resume != "" || done.Run == "" {
		t.Errorf("it says %+v", done)
	}
	if len(l.asked) != 3 {
		t.Fatalf("%d pages", len(l.asked))
	}
	for i, q := range l.asked {
		want := l.asked[0]
		want.Position = admin.ReplayPosition{Archived: i > 0, Sequence: uint64(10 * i)}
		want.Done = admin.ReplayCount{Read: 10 * i, Matched: 10 * i, Sent: 10 * i}
		if q != want || q.User != "alice" || q.Since != 1795395600000 || q.By.Note != "INC-1" || !strings.Contains(q.By.Who, "@") || q.Run != done.Run || q.Started == 0 {
			t.Errorf("page %d was asked with %+v", i+1, q)
		}
	}
}

// stoppedAfter runs a replay that is told to stop while the page of this number is under way.
func (l *fakeLog) stoppedAfter(t *testing.T, page int, args ...string) ran {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	l.before = func(n int) error {
		if n == page {
			stop()
		}
		return nil
	}
	out, said := &tty{}, &tty{}
	err := execute(ctx, NewReplay(), strings.NewReader(""), out, said, args)
	l.before = nil
	return ran{out.String(), said.String(), err, ExitCode(err)}
}

func TestReplayStopsBetweenPagesAndGoesOn(t *testing.T) {
	l := &fakeLog{messages: 45, page: 10}
	url := l.at(t)
	got := l.stoppedAfter(t, 2, "--nats", url, "--type", "it's", "--since", "1h", "--force", "--yes")
	if got.code != ExitPartly || !strings.Contains(got.out, "is not finished: 20 sent") {
		t.Fatalf("%+v", got)
	}
	line := goesOn(t, got.err.Error(), "replay")
	if got := operate(t, NewReplay(), line...); got.code != ExitDone || !strings.Contains(got.out, "is done: 45 sent, 0 copied, 0 waiting, 45 read") {
		t.Errorf("%v: %+v", line, got)
	}
	if len(l.asked) != 5 {
		t.Fatalf("%d pages", len(l.asked))
	}
	for i, q := range l.asked {
		want := l.asked[0]
		want.Position = admin.ReplayPosition{Archived: i > 0, Sequence: uint64(10 * i)}
		want.Done = admin.ReplayCount{Read: 10 * i, Matched: 10 * i, Sent: 10 * i}
		if q != want || q.Type != "it's" || !q.Force {
			t.Errorf("page %d was asked with %+v, the first with %+v", i+1, q, l.asked[0])
		}
	}
	// With another filter it is another replay.
	line[slices.Index(line, "it's")] = "other"
	if got := operate(t, NewReplay(), line...); got.code != ExitUsage || len(l.asked) != 5 {
		t.Errorf("%v: %+v", line, got)
	}
}

func TestReplayWaitsForServicesThatMove(t *testing.T) {
	l := &fakeLog{messages: 20, page: 10, before: func(n int) error {
		if n == 2 || n == 3 {
			return problem.New(problem.Unavailable, "nobody is there")
		}
		return nil
	}}
	got := operate(t, NewReplay(), "--nats", l.at(t), "--everything", "--yes")
	if got.code != ExitDone || len(l.asked) != 4 || !reflect.DeepEqual(l.asked[1], l.asked[3]) {
		t.Errorf("%d pages: %+v", len(l.asked), got)
	}
	has(t, got.said, "waiting: unavailable: nobody is there")
	if strings.Count(got.said, "waiting:") != 1 {
		t.Errorf("it is said again and again:\n%s", got.said)
	}
}

func TestReplayThatIsRefused(t *testing.T) {
	refuse := 1
	l := &fakeLog{messages: 20, page: 10, before: func(n int) error {
		if n == refuse {
			return problem.New(problem.BadRequest, "no such user")
		}
		return nil
	}}
	url := l.at(t)
	if got := operate(t, NewReplay(), "--nats", url, "--user", "x", "--yes"); got.code != ExitFailed || got.out != "" || !errors.Is(got.err, problem.New(problem.BadRequest, "")) {
		t.Errorf("at once: %+v", got)
	}
	refuse, l.asked = 2, nil
	got := operate(t, NewReplay(), "--nats", url, "--user", "x", "--yes", "--output", "json")
	var done replayed
	if err := json.Unmarshal([]byte(got.out), &done); err != nil || got.code != ExitPartly || done.Finished || done.Sent != 10 {
		t.Errorf("in the middle: %+v", got)
	}
	if line := goesOn(t, got.err.Error(), "replay"); !slices.Contains(line, done.Resume) {
		t.Errorf("%v does not go on at %s", line, done.Resume)
	}
}

func TestReplayAsksBack(t *testing.T) {
	l := &fakeLog{messages: 1234, page: 2000}
	url := l.at(t)
	got := sitting(t, NewReplay(), "n\n", "--nats", url, "--everything")
	if got.code != ExitFailed || len(l.asked) != 0 {
		t.Errorf("no: %d pages, %+v", len(l.asked), got)
	}
	has(t, got.said, "Send 1,234 messages to 1 mailbox again, at "+url+"? [y/N] ")
	if got = sitting(t, NewReplay(), "y\n", "--nats", url, "--everything"); got.code != ExitDone || len(l.asked) != 1 {
		t.Errorf("yes: %d pages, %+v", len(l.asked), got)
	}
	has(t, got.said, "█", "100%", "1,234 sent", "\r\x1b[K")
	if !strings.HasSuffix(got.said, "\r\x1b[K") {
		t.Errorf("the bar stays: %q", got.said)
	}
	if got = operate(t, NewReplay(), "--nats", url, "--everything"); got.code != ExitUsage || len(l.asked) != 1 {
		t.Errorf("nobody to ask: %+v", got)
	}
	has(t, got.err.Error(), "--yes")
}

// Where little of what is read is sent, a bar of what is read says nothing about how long it takes at a rate.
func TestTheBarOfAReplayIsOfWhatIsSent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := fakeFabric(t, answers{
		admin.Replay: answering(t, func(admin.ReplayRequest) (any, error) {
			cancel()
			return admin.ReplayPage{ReplayCount: admin.ReplayCount{Read: 9000, Matched: 250, Sent: 250}, Position: admin.ReplayPosition{Sequence: 1}, ToRead: 1000}, nil
		}),
		admin.Undelivered: answering(t, func(admin.UndeliveredRequest) (any, error) {
			return admin.UndeliveredPage{Total: &admin.Total{Messages: 1000, Users: 1}}, nil
		}),
	})
	out, said := &tty{width: 120}, &tty{width: 120}
	err := execute(ctx, NewReplay(), strings.NewReader(""), out, said, []string{"--nats", url, "--everything", "--yes"})
	if ExitCode(err) != ExitPartly {
		t.Errorf("%v", err)
	}
	has(t, said.String(), " 25%  250 sent")
	has(t, err.Error(), ".250.250.0.0.1000:") // and the one that goes on knows
}

func TestReplayDryRunChangesNothing(t *testing.T) {
	at := time.Now().Add(-time.Hour).UnixMilli()
	url := fakeFabric(t, answers{admin.Undelivered: answering(t, func(q admin.UndeliveredRequest) (any, error) {
		if q.User != "alice" || !q.Count || q.Limit != sampled {
			return nil, fmt.Errorf("asked with %+v", q)
		}
		return admin.UndeliveredPage{
			Messages: []admin.Message{{Tenant: "default", To: "user:alice", Seq: 7, ID: "seven", Archived: at, Reason: admin.ReasonHeld}},
			Total:    &admin.Total{Messages: 500, Users: 1, Oldest: at, Newest: at + 1, Reasons: map[admin.Reason]int{admin.ReasonHeld: 500}},
		}, nil
	})})
	got := operate(t, NewReplay(), "--nats", url, "--user", "alice", "--dry-run")
	if got.code != ExitDone {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "500 messages to 1 mailbox would be sent again", "oldest", "1h00m ago", "newest", "500 held", "user:alice", "seven")
	got = operate(t, NewReplay(), "--nats", url, "--user", "alice", "--dry-run", "--output", "json")
	var total rehearsal
	if err := json.Unmarshal([]byte(got.out), &total); err != nil || total.Messages != 500 || total.Oldest != at || len(total.Sample) != 1 {
		t.Errorf("%s: %v", got.out, err)
	}
}

// A dry run of --force goes through all pages and changes nothing: none of them is asked to do anything.
func TestReplayForceCanBeRehearsed(t *testing.T) {
	l := &fakeLog{messages: 25, page: 10}
	url := l.at(t)
	for _, output := range []string{"text", "json"} {
		l.asked = nil
		got := operate(t, NewReplay(), "--nats", url, "--user", "alice", "--force", "--dry-run", "--rate", "1/h", "--output", output)
		if got.code != ExitDone || len(l.asked) != 3 {
			t.Fatalf("%d pages: %+v", len(l.asked), got)
		}
		for _, q := range l.asked {
			if !q.Dry || !q.Force || q.Limit != 0 {
				t.Errorf("asked with %+v", q)
			}
		}
		if output == "text" {
			has(t, got.out, "25 messages would be sent: 25 again, 0 as new", "oldest", "newest", "m0", "m1", "m10", "m11", "m20")
			lacks(t, got.out, "m21")
			continue
		}
		var total rehearsedForce
		if err := json.Unmarshal([]byte(got.out), &total); err != nil {
			t.Fatal(err)
		}
		if total.Messages != 25 || total.Sent != 25 || total.Oldest != 1000 || total.Newest != 1021 || len(total.Sample) != sampled {
			t.Errorf("%+v", total)
		}
	}
	l.asked, l.messages = nil, 0
	has(t, operate(t, NewReplay(), "--nats", url, "--user", "alice", "--force", "--dry-run").out, "no message matches")
	l.asked, l.messages = nil, 25
	l.before = func(int) error { return problem.New(problem.BadRequest, "no") }
	got := operate(t, NewReplay(), "--nats", url, "--user", "alice", "--force", "--dry-run")
	if got.code != ExitFailed || strings.Contains(got.err.Error(), "--resume") {
		t.Errorf("a rehearsal that fails: %+v", got)
	}
}

func TestReplayUsage(t *testing.T) {
	isolated(t)
	for want, args := range map[string][]string{
		"or --everything":           {"--yes"},
		"exclude each other":        {"--everything", "--user", "alice"},
		"--device means":            {"--device", "phone"},
		"--user and --topic":        {"--user", "a", "--topic", "b"},
		"away, held or nobody":      {"--reason", "lazy"},
		"is no rate":                {"--user", "a", "--rate", "fast"},
		"must be above zero":        {"--user", "a", "--rate", "0/s"},
		"is no time":                {"--user", "a", "--since", "yesterday"},
		"not before --until":        {"--user", "a", "--since", "1h", "--until", "2h"},
		"--resume is what a replay": {"--user", "a", "--resume", "x:y"},
		"unknown flag":              {"--usr", "a"},
		"text or json":              {"--user", "a", "--output", "xml"},
		"--timeout is a time":       {"--user", "a", "--timeout", "0s"},
	} {
		if got := operate(t, NewReplay(), args...); got.code != ExitUsage || !strings.Contains(got.err.Error(), want) {
			t.Errorf("%v: exit %d, %v; want %q", args, got.code, got.err, want)
		}
	}
}

// A rate is held within 10 % whatever a page takes, as long as pages are faster than it.
func TestRateIsHeld(t *testing.T) {
	for _, c := range []struct {
		rate     string
		messages int
		takes    func(page int) time.Duration
	}{
		{"500/s", 5000, func(int) time.Duration { return 2 * time.Millisecond }},
		{"50", 500, func(page int) time.Duration { return time.Duration(page%4) * 25 * time.Millisecond }},
		{"10000/s", 100_000, func(int) time.Duration { return 60 * time.Millisecond }},
		{"120/m", 40, func(int) time.Duration { return 100 * time.Millisecond }},
		{"3/s", 60, func(int) time.Duration { return 10 * time.Millisecond }},
	} {
		var r rate
		if err := r.Set(c.rate); err != nil {
			t.Fatal(err)
		}
		began := time.Unix(1e9, 0)
		now, due := began, began
		for sent, page := 0, 1; sent < c.messages; page++ {
			n := min(r.page(), c.messages-sent)
			now = now.Add(c.takes(page))
			sent += n
			due = r.next(due, now, n)
			if due.After(now) {
				now = due
			}
		}
		got := float64(c.messages) / now.Sub(began).Seconds()
		if got < r.perSecond*0.9 || got > r.perSecond*1.1 {
			t.Errorf("%s: %.1f messages a second", c.rate, got)
		}
	}
}

func TestRateIsKeptByTheCommand(t *testing.T) {
	l := &fakeLog{messages: 50, page: 1000}
	url := l.at(t)
	began := time.Now()
	got := operate(t, NewReplay(), "--nats", url, "--everything", "--yes", "--rate", "100/s")
	if took := time.Since(began); got.code != ExitDone || took < 400*time.Millisecond || l.asked[0].Limit != 10 {
		t.Errorf("50 messages at 100/s took %s in pages of %d: %+v", took, l.asked[0].Limit, got)
	}
}

// Each member of a position and each count survives the way through the line to copy.
func TestResumptionKeepsEverything(t *testing.T) {
	fill := func(v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.String:
				f.SetString("default.user.=YUBi")
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int, reflect.Int64:
				f.SetInt(int64(1<<40 + i))
			case reflect.Uint64:
				f.SetUint(1 << 50)
			case reflect.Struct:
				f.Set(reflect.ValueOf(admin.Place{Address: "default.user.a", Seq: 12}))
			default:
				t.Fatalf("a member is %s", f.Kind())
			}
		}
	}
	want := resumption{run: "abc", started: 1795395600000, expected: 77, sum: "xyz"}
	fill(reflect.ValueOf(&want.position).Elem())
	fill(reflect.ValueOf(&want.done).Elem())
	if got, err := readResumption(want.String()); err != nil || got != want {
		t.Errorf("%s is read as %+v, %v", want.String(), got, err)
	}
	for _, text := range []string{"", "a:b", want.String() + ":x", "a:1:!:1.1.1.1.1.1:s", "a:1:e30:1.1.1.1.1:s", "a:-1:e30:1.1.1.1.1.1:s", ":1:e30:1.1.1.1.1.1:s"} {
		if _, err := readResumption(text); ExitCode(err) != ExitUsage {
			t.Errorf("%q: %v", text, err)
		}
	}
}
