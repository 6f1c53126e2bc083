package e2e

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "modernc.org/sqlite" // a row is removed behind the system's back

	"github.com/weftpush/weft/shared/admin"
	streams "github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// audited is what `weft audit --output json` prints.
type audited struct {
	Balance admin.Balance `json:"balance"`
	Breaks  []admin.Break `json:"breaks"`
	Broken  int           `json:"broken"`
}

// audit runs `weft audit` until everything that was accepted is old enough to be judged.
func (o terminal) audit(accepted int) (books audited, said string, code int) {
	o.t.Helper()
	for late := time.Now().Add(patience); ; {
		out, stderr, code := o.weft("audit", "--since", "1h", "--output", "json")
		books = audited{}
		if err := json.Unmarshal([]byte(out), &books); err != nil {
			o.t.Fatalf("weft audit: exit %d: %v\n%s%s", code, err, out, stderr)
		}
		if books.Balance.Accepted == accepted || time.Now().After(late) {
			return books, out, code
		}
	}
}

// The books balance, whatever became of the messages; and each of two planted faults is found by its message's id.
func TestTheBooksBalanceAndShowPlantedFaults(t *testing.T) {
	f := &fabric{t: t, kind: "up", data: t.TempDir()}
	f.start()
	t.Cleanup(f.stop)
	nc := f.connect()
	o := terminal{t, f}

	d := f.device("alice", "phone", protocol.FromClient{})
	publishMany(t, nc, "alice", 1, 100)
	receive(t, d, 1, 100)
	publishMany(t, nc, "bob", 1, 50)
	request(t, nc, user("carol"), `{}`, nats.Header{message.HeaderTTL: {"1ms"}})
	publish(t, nc, subject.In(user("dave")), `not JSON`, nil)
	request(t, nc, subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}, `{}`, nil)
	const accepted = 100 + 50 + 1 + 1 + 1
	books, said, code := o.audit(accepted)
	want := admin.Balance{Accepted: accepted, Delivered: 101, Pending: 50, Expired: 1, Quarantined: 1}
	if books.Balance != want || books.Broken != 0 || code != 0 {
		t.Fatalf("exit %d, %s; want %+v", code, said, want)
	}

	request(t, nc, user("erin"), `{"n":1}`, withID("removed"))
	request(t, nc, user("erin"), `{"n":2}`, withID("neighbour"))
	f.removeRow("removed")
	f.purgeBeforeRouted(nc, user("frank"), "purged")
	books, said, code = o.audit(accepted + 3)
	found := map[string]string{}
	for _, b := range books.Breaks {
		found[b.ID] = b.What
	}
	if code != 1 || books.Broken != 2 || len(found) != 2 || found["removed"] != "not_in_archive" || found["purged"] != "not_in_log" {
		t.Errorf("exit %d, %s; want the two planted faults", code, said)
	}
	if out, _, _ := o.weft("audit", "--since", "1h"); !strings.Contains(out, "removed") || !strings.Contains(out, "purged") {
		t.Errorf("what people are told does not name them:\n%s", out)
	}
}

// removeRow deletes a message from the archive's file.
func (f *fabric) removeRow(id string) {
	f.t.Helper()
	file := url.URL{Path: filepath.Join(f.data, "archive.db")}
	db, err := sql.Open("sqlite", "file:"+file.EscapedPath()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	result, err := db.ExecContext(f.t.Context(), "DELETE FROM messages WHERE id = ?", id)
	if err != nil {
		f.t.Fatal(err)
	}
	if n, err := result.RowsAffected(); n != 1 || err != nil {
		f.t.Fatalf("%d rows removed (%v)", n, err)
	}
}

// purgeBeforeRouted publishes a message while every dispatch is paused, removes it from the log, and kills
// them.
func (f *fabric) purgeBeforeRouted(nc *nats.Conn, to subject.Address, id string) {
	f.t.Helper()
	signal := func(s syscall.Signal) {
		for _, p := range f.manifest.Processes {
			if p.Role == "dispatch" {
				if err := syscall.Kill(p.PID, s); err != nil {
					f.t.Fatal(err)
				}
			}
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGKILL) // what was delivered to them dies with them; others begin anew
	request(f.t, nc, to, `{}`, withID(id))
	for p := 0; ; p++ {
		stream, err := js.Stream(f.t.Context(), streams.MsgStream(p))
		if err != nil {
			f.t.Fatalf("no log has the message: %v", err)
		}
		last, err := stream.GetLastMsgForSubject(f.t.Context(), subject.Msg(p, to))
		if err != nil {
			continue
		}
		if err := stream.DeleteMsg(f.t.Context(), last.Sequence); err != nil {
			f.t.Fatal(fmt.Errorf("remove it from the log: %w", err))
		}
		return
	}
}
