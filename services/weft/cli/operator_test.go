package cli

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// eventually runs a command line until it has printed JSON that is as wanted.
func eventually[A any](t *testing.T, command func() *cobra.Command, wanted func(A) bool, args ...string) A {
	t.Helper()
	var a A
	var got ran
	for late := time.Now().Add(patience); time.Now().Before(late); {
		a = *new(A)
		got = operate(t, command(), append(args, "--output", "json")...)
		if err := json.Unmarshal([]byte(got.out), &a); err == nil && wanted(a) {
			return a
		}
	}
	t.Fatalf("%v does not come to say what is wanted: %+v", args, got)
	return a
}

// A night at the whole of Weft: what waits is counted and replayed, what was set aside is mended, and all of it is on record.
func TestOperatorsAtARunningFabric(t *testing.T) {
	data := filepath.Join(t.TempDir(), "weft")
	m := fabricIn(t, data)
	isolated(t)
	at := []string{"--nats", m.NATS}
	for _, payload := range []string{`1`, `2`, `3`} {
		if _, err := run(t, NewPub(), "", "user:alice", payload, "--data", data, "--type", "night"); err != nil {
			t.Fatal(err)
		}
	}
	page := eventually(t, NewUndelivered, func(p admin.UndeliveredPage) bool { return p.Total != nil && p.Total.Messages == 3 }, append(at, "--type", "night")...)
	if m := page.Messages; len(m) != 3 || m[0].To != "user:alice" || m[2].Seq != 3 || m[0].Reason != admin.ReasonNobody {
		t.Errorf("undelivered are %+v", m)
	}
	replay := append(at, "--user", "alice", "--yes", "--note", "night shift")
	done := eventually(t, NewReplay, func(r replayed) bool { return r.Finished }, replay...)
	if done.Waiting != 3 || done.Sent != 0 || done.Matched != 3 {
		t.Errorf("replayed to nobody: %+v", done)
	}
	l := listen(t, "--data", data, "--user", "alice")
	for range 3 {
		l.line(l.out, "user:alice  night")
	}
	eventually(t, NewUndelivered, func(p admin.UndeliveredPage) bool { return p.Total != nil && p.Total.Messages == 0 }, append(at, "--user", "alice")...)
	if done = eventually(t, NewReplay, func(r replayed) bool { return r.Finished }, replay...); done.Matched+done.Sent+done.Copied+done.Waiting != 0 {
		t.Errorf("replayed again: %+v", done)
	}
	forced := eventually(t, NewReplay, func(r replayed) bool { return r.Finished }, append(replay, "--force")...)
	if forced.Copied != 3 {
		t.Errorf("forced: %+v", forced)
	}
	for range 3 {
		l.line(l.out, "user:alice  night  again")
	}
	mend(t, at, m.NATS)
	records := eventually(t, newAuditRecords, func(a admin.RecordsAnswer) bool { return len(a.Records) >= 4 }, append(at, "--limit", "10")...)
	if r := records.Records[1]; r.ID != forced.Run || r.Count != 3 || r.By.Note != "night shift" || r.Action != admin.Replay {
		t.Errorf("the records are %+v", records.Records)
	}
	books := eventually(t, NewAudit, func(b books) bool { return b.Balance.Accepted > 0 }, at...)
	if !books.Balanced || books.Partitions != 4 {
		t.Errorf("the books are %+v", books)
	}
}

// mend has a message set aside and sends it again as what it is.
func mend(t *testing.T, at []string, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	to := subject.UserAddress("default", "bob")
	if _, err := nc.Request(subject.In(to), []byte("not JSON"), patience); err != nil {
		t.Fatal(err)
	}
	ls := newQuarantineLs
	set := eventually(t, ls, func(p admin.QuarantinePage) bool { return len(p.Entries) == 1 }, append(at, "--of", "user:bob")...)
	o := eventually(t, newQuarantineReplay, func(o outcome) bool { return len(o.Done) == 1 },
		append(at, "1", "--set", "Content-Type: text/plain")...)
	if o.Done[0].Number != set.Entries[0].Number || o.Done[0].ID != set.Entries[0].ID {
		t.Errorf("%+v was sent again as %+v", set.Entries, o)
	}
	eventually(t, ls, func(p admin.QuarantinePage) bool { return len(p.Entries) == 0 }, at...)
	eventually(t, NewUndelivered, func(p admin.UndeliveredPage) bool {
		return len(p.Messages) == 1 && p.Messages[0].ID == o.Done[0].ID
	}, append(at, "--user", "bob")...)
}
