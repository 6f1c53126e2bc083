package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weftpush/weft/services/weft/local"
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

// A push node, the dispatches or the collects die by kill -9 while a replay is at work. Nothing is lost or reordered, no
// session is sent anything again more than once, and the counts add up.
func TestReplayWhileSomethingDies(t *testing.T) {
	for _, role := range []string{"push", "dispatch", "collect"} {
		t.Run(role, func(t *testing.T) {
			f := &fabric{t: t, kind: "up", data: t.TempDir()}
			f.start()
			t.Cleanup(f.stop)
			o := terminal{t, f}
			publishMany(t, f.connect(), "alice", 1, taken)
			d := f.device("alice", "phone", protocol.FromClient{})
			take(d)
			o.awaitUndelivered(taken, "--user", "alice")
			ended := make(chan ran, 1)
			go func() {
				out, said, code := o.weft("replay", "--user", "alice", "--rate", "200/s", "--yes", "--output", "json")
				ended <- ran{out, said, code}
			}()
			for n := range 20 {
				if m := d.message(uint64(n + 1)); !m.Again {
					t.Fatalf("%.200s instead of message %d sent again", m.raw, n+1)
				}
			}
			heard := hearing{first: taken, again: 20}
			if f.killAll(role); role == "push" { // the device's is the first: it goes to the other one
				d, heard = f.device("alice", "phone", protocol.FromClient{}), hearing{}
			}
			r := <-ended
			var done admin.ReplayCount
			if err := json.Unmarshal([]byte(r.out), &done); err != nil || r.code != 0 {
				t.Fatalf("replay: %v, exit %d\n%s%s", err, r.code, r.out, r.said)
			}
			again := heard.hears(d)
			t.Logf("%+v; %d came again", done, again)
			if done.Matched != taken || done.Sent+done.Waiting != taken {
				t.Errorf("the replay says %+v; there were %d", done, taken)
			}
			if role != "push" && again < done.Sent {
				t.Errorf("%d came again; the replay says %+v", again, done)
			}
			d.ack(taken)
			o.awaitUndelivered(0, "--user", "alice")
			if twice := o.replay("--user", "alice"); twice.Matched+twice.Sent+twice.Waiting+twice.Copied != 0 {
				t.Errorf("the second replay: %+v; want nothing", twice)
			}
			d.silent()
		})
	}
}

// ran is how a command line ended.
type ran struct {
	out, said string
	code      int
}

// killAll ends by kill -9 the processes of a role; of push nodes the first, to which the first device is connected.
func (f *fabric) killAll(role string) {
	f.t.Helper()
	killed, port := 0, local.Port(f.manifest.Push[0])
	for _, p := range f.manifest.Processes {
		if p.Role != role || role == "push" && !slices.Contains(p.Ports, port) {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			f.t.Fatalf("kill %s: %v", p.Name, err)
		}
		killed++
	}
	if killed == 0 {
		f.t.Fatalf("there is no process with the role %s: %+v", role, f.manifest.Processes)
	}
}

// hearing is what a device has had: messages for the first time, and the last one that was sent again.
type hearing struct{ first, again uint64 }

// hears takes what comes until all messages have: for the first time without a hole, again in order and once. It returns
// how many have come again.
func (c hearing) hears(d *device) (again int) {
	d.t.Helper()
	again = int(c.again)
	for asked := false; ; {
		if c.first == taken && !asked {
			asked = true
			d.say(protocol.Beat{T: protocol.TPing})
		}
		switch m := d.next(); {
		case m.T == protocol.TPong:
			return again
		case m.T == protocol.TMsg && m.Seq == c.first+1:
			c.first++
		case m.T == protocol.TMsg && m.Again && m.Seq > c.again && m.Seq <= c.first:
			c.again = m.Seq
			again++
		default:
			d.t.Fatalf("%.200s came after %d, and %d again", m.raw, c.first, c.again)
		}
	}
}
