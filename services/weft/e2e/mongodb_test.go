package e2e

import (
	"bufio"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/subject"
)

// The same on MongoDB's wire protocol: the server that WEFT_TEST_MONGODB_URI names, or FerretDB, a peer for tests only,
// which is slow and must be kept below 2,000 documents.
func TestOnMongoDB(t *testing.T) {
	server := os.Getenv("WEFT_TEST_MONGODB_URI")
	if server == "" {
		server = startFerretDB(t)
	}
	for name, test := range map[string]func(*testing.T, *fabric){
		"one-message": oneMessageReachesEveryDevice,
		"an-id":       anIDIsOneMessage,
		"operators":   operatorsSeeAll,
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(server)
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "weft-" + name + "-" + filepath.Base(t.TempDir()) + "-" + strings.ToLower(filepath.Base(bin))
			f := &fabric{t: t, kind: "up", data: t.TempDir(), args: []string{"--archive", u.String()}}
			f.start()
			t.Cleanup(f.stop)
			test(t, f)
		})
	}
}

// operatorsSeeAll asks each question that operators have: of a user whose phone took all and whose tablet is away, of one
// who is away, and of what can't be processed.
func operatorsSeeAll(t *testing.T, f *fabric) {
	const each = 30
	nc, o := f.connect(), terminal{t, f}
	f.device("alice", "tablet", protocol.FromClient{}).leave()
	f.device("bob", "phone", protocol.FromClient{}).leave()
	phone := f.device("alice", "phone", protocol.FromClient{})
	for n := 1; n <= each; n++ {
		for _, to := range []string{"alice", "bob"} {
			header := withID(fmt.Sprint(to, "-", n))
			header.Set(message.HeaderReceipt, "delivered")
			request(t, nc, user(to), fmt.Sprintf(`{"n":%d}`, n), header)
		}
	}
	publish(t, nc, subject.In(user("carol")), `not JSON`, nil)
	receive(t, phone, 1, each)

	o.awaitUndelivered(each)
	o.awaitUndelivered(each, "--user", "alice", "--device", "tablet")
	o.awaitUndelivered(0, "--user", "alice")
	var alice admin.UserAnswer
	o.json(&alice, "user", "alice")
	if len(alice.Devices) != 2 || alice.Devices[0].Cursor != each || alice.Devices[1].Pending != each || alice.Pending != 0 || alice.Head != each {
		t.Errorf("alice: %+v", alice)
	}
	o.traced("alice-7", "partly", "accepted", "archived", "logged", "routed", "acknowledged", "receipt", "pending")
	o.traced("bob-7", "pending", "accepted", "archived", "logged", "pending")

	o.replayed("bob", each)
	books, said, code := o.audit(2*each + 1 + each)
	if want := (admin.Balance{Accepted: 3*each + 1, Delivered: 2 * each, Pending: each, Quarantined: 1}); books.Balance != want || code != 0 {
		t.Errorf("exit %d, %s; want %+v", code, said, want)
	}
	var set admin.QuarantinePage
	o.json(&set, "quarantine", "ls")
	if len(set.Entries) != 1 || set.Entries[0].To != "user:carol" {
		t.Fatalf("in quarantine are %+v", set.Entries)
	}
	if out, said, code := o.weft("quarantine", "drop", fmt.Sprint(set.Entries[0].Number), "--yes"); code != 0 {
		t.Errorf("drop: exit %d\n%s%s", code, out, said)
	}
	var records admin.RecordsAnswer
	o.json(&records, "audit", "records")
	if newest := records.Records[0]; newest.Action != "quarantine.drop" || newest.Count != 1 {
		t.Errorf("the newest record is %+v", newest)
	}
}

// traced wants a message to be in a state, with these steps among others, and to know when each was.
func (o terminal) traced(id, state string, steps ...string) {
	o.t.Helper()
	var missing []string
	for late := time.Now().Add(patience); time.Now().Before(late); { // what is routed is reported after the fact
		var answer admin.TraceAnswer
		o.json(&answer, "trace", id)
		if len(answer.Traces) != 1 || answer.Traces[0].State != state {
			o.t.Errorf("%s is %+v; want it %s", id, answer.Traces, state)
			return
		}
		missing = slices.DeleteFunc(slices.Clone(steps), func(what string) bool {
			return slices.ContainsFunc(answer.Traces[0].Steps, func(s admin.Step) bool { return s.What == what && (s.At != 0 || what == "pending") })
		})
		if len(missing) == 0 {
			return
		}
	}
	o.t.Errorf("the trace of %s lacks %q after %s", id, missing, patience)
}

// replayed replays what waits for a user who is away, and then, by force, what his one device has handled.
func (o terminal) replayed(name string, count int) {
	t := o.t
	t.Helper()
	var dry admin.Total
	o.json(&dry, "replay", "--dry-run", "--user", name)
	if dry.Messages != count || dry.Oldest == 0 {
		t.Errorf("the dry run says %+v; want %d messages", dry, count)
	}
	if done := o.replay("--user", name, "--note", "he is away"); done.Waiting != count || done.Sent != 0 {
		t.Errorf("the replay to somebody who is away: %+v", done)
	}
	phone := o.f.device(name, "phone", protocol.FromClient{})
	receive(t, phone, 1, count)
	o.awaitUndelivered(0, "--user", name)
	phone.leave()
	if done := o.replay("--user", name, "--force", "--note", "he lost it"); done.Copied != count {
		t.Errorf("the forced replay: %+v; want %d copies", done, count)
	}
	o.awaitUndelivered(count, "--user", name)
	o.recorded("he lost it", count)
}

// startFerretDB builds and starts FerretDB on a free port, and returns its URI. It ends when its input is closed.
func startFerretDB(t *testing.T) string {
	t.Helper()
	program := filepath.Join(bin, "ferretdb")
	build := exec.CommandContext(t.Context(), "go", "-C", "../../../.tools", "build", "-buildvcs=false", "-o", program, "./ferretdb")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build FerretDB: %v\n%s", err, out)
	}
	peer := exec.Command(program, "-data", t.TempDir())
	peer.Stderr = os.Stderr
	in, err := peer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = peer.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("FerretDB did not say where it listens")
	}
	return strings.TrimSpace(lines.Text())
}
