package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/protocol"
)

const taken = 500

// A connected device took 500 messages and acknowledged none: its handler hung. Then it was mended, and an operator sends
// again what was not delivered.
func TestReplaySendsAgainWhatWasTakenAndNotAcknowledged(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		o := terminal{t, f}
		publishMany(t, f.connect(), "alice", 1, taken)
		d := f.device("alice", "phone", protocol.FromClient{})
		ids := take(d)
		o.sendAgain(d, "alice", ids)
		o.sendTwice(d, "alice", ids)
	})
}

// The same for a user who was away while Redis was emptied: dispatch knows no route, push no cursor, and the archive all.
func TestReplaySendsAgainPastAPurgeOfRedis(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		o := terminal{t, f}
		d := f.device("carol", "phone", protocol.FromClient{})
		d.leave()
		publishMany(t, f.connect(), "carol", 1, taken)
		o.awaitUndelivered(taken, "--user", "carol")
		if done := o.replay("--user", "carol"); done.Sent != 0 || done.Waiting != taken {
			t.Errorf("replay to somebody who is away: %+v", done)
		}
		f.emptyRedis()
		d = f.device("carol", "phone", protocol.FromClient{})
		o.sendAgain(d, "carol", take(d))
	})
}

// emptyRedis removes all that Redis knows. `weft dev` has its own in memory, out of reach: it is started anew.
func (f *fabric) emptyRedis() {
	f.t.Helper()
	for _, p := range f.manifest.Processes {
		if p.Role != "redis-server" {
			continue
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Ports[0]))
		if err != nil {
			f.t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		answer := make([]byte, 64)
		if _, err = conn.Write([]byte("FLUSHALL\r\n")); err == nil {
			var n int
			n, err = conn.Read(answer)
			answer = answer[:n]
		}
		if err != nil || string(answer) != "+OK\r\n" {
			f.t.Fatalf("FLUSHALL: %q %v", answer, err)
		}
		return
	}
	f.stop()
	f.start()
}

// take takes the messages and acknowledges none; it returns their ids.
func take(d *device) []string {
	d.t.Helper()
	ids := make([]string, taken)
	for n := range ids {
		ids[n] = d.message(uint64(n + 1)).ID
	}
	return ids
}

// sendAgain replays what a device took and did not acknowledge, until nothing is left.
func (o terminal) sendAgain(d *device, user string, ids []string) {
	t := o.t
	t.Helper()
	o.awaitUndelivered(taken, "--user", user)
	var dry admin.Total
	o.json(&dry, "replay", "--dry-run", "--user", user)
	if dry.Messages != taken || dry.Oldest == 0 || dry.Newest < dry.Oldest {
		t.Errorf("the dry run says %+v; want %d messages", dry, taken)
	}
	d.silent()
	if done := o.replay("--user", user, "--note", "the handler hung"); done.Sent != taken || done.Waiting != 0 || done.Copied != 0 {
		t.Errorf("replay: %+v; want %d sent", done, taken)
	}
	for n := range taken {
		if m := d.message(uint64(n + 1)); !m.Again || m.ID != ids[n] {
			t.Fatalf("%.200s instead of message %d sent again", m.raw, n+1)
		}
	}
	d.ack(taken)
	d.silent()
	o.awaitUndelivered(0, "--user", user)
	if done := o.replay("--user", user); done.Sent+done.Waiting+done.Copied+done.Matched != 0 {
		t.Errorf("the second replay: %+v; want nothing", done)
	}
	d.silent()
	o.recorded("the handler hung", taken)
}

// recorded looks for the record of a change.
func (o terminal) recorded(note string, count int) {
	o.t.Helper()
	var answer admin.RecordsAnswer
	o.json(&answer, "audit", "records")
	for _, r := range answer.Records {
		if r.By.Note == note {
			if r.Action != "replay" || r.Count != count || r.By.Who == "" || r.At == 0 || len(r.Filter) == 0 {
				o.t.Errorf("the record is %+v", r)
			}
			return
		}
	}
	o.t.Errorf("no record has the note %q: %+v", note, answer.Records)
}

// sendTwice forces what was acknowledged to be sent again: as new messages, once.
func (o terminal) sendTwice(d *device, user string, ids []string) {
	t := o.t
	t.Helper()
	if done := o.replay("--user", user, "--force", "--note", "they lost it"); done.Copied != taken {
		t.Errorf("the forced replay: %+v; want %d copies", done, taken)
	}
	for n := range taken {
		m := d.message(uint64(taken + n + 1))
		if !m.Again || !strings.HasPrefix(m.ID, ids[n]+"~") {
			t.Fatalf("%.200s instead of a copy of message %d", m.raw, n+1)
		}
	}
	d.ack(2 * taken)
	d.silent()
	o.recorded("they lost it", taken)
}
