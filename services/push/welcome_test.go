package push

import (
	"fmt"
	"testing"

	"github.com/weftpush/weft/shared/protocol"
	"github.com/weftpush/weft/shared/route"
	"github.com/weftpush/weft/shared/subject"
)

func numbers(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(i+1))
	}
	return list
}

func (w *world) raise(device string, to subject.Address, seq uint64) {
	w.t.Helper()
	must(w.t, w.table.RaiseCursors(w.t.Context(), []route.Cursor{{User: alice, Device: device, Address: to, Seq: seq}}))
}

// TestWhereASessionBegins holds the rules of cursors at hello.
func TestWhereASessionBegins(t *testing.T) {
	for _, c := range []struct {
		name           string
		redis, archive uint64 // cursors of the device; 0 is unknown
		hello          func(*protocol.FromClient)
		epochGap       bool
		next           uint64
	}{
		{name: "the first device at the beginning", next: 1},
		{name: "Redis is ahead", redis: 5, archive: 3, next: 6},
		{name: "the archive is ahead", redis: 3, archive: 5, next: 6},
		{name: "hello decides, though below", redis: 5, archive: 5, hello: at(map[string]uint64{"user:alice": 2}), next: 3},
		{name: "hello decides, at nothing", redis: 5, archive: 5, hello: at(map[string]uint64{"user:alice": 0}), next: 1},
		{name: "hello decides, above", redis: 5, archive: 5, hello: at(map[string]uint64{"user:alice": 8}), next: 9},
		{name: "hello decides for an unknown device", hello: at(map[string]uint64{"user:alice": 8}), next: 9},
		{name: "hello at the head", hello: at(map[string]uint64{"user:alice": 10}), next: 11},
		{name: "another epoch", archive: 4, epochGap: true, next: 5, hello: func(h *protocol.FromClient) {
			h.Epoch, h.Cursors = "e0", map[string]uint64{"user:alice": 900}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			w.publish(alice, numbers(10)...)
			if c.redis > 0 {
				w.raise("phone", alice, c.redis)
			}
			if c.archive > 0 {
				w.archive.set(func() { w.archive.cursors[cursorKey{alice, "phone", alice}] = c.archive })
			}
			hello := c.hello
			if hello == nil {
				hello = of("")
			}
			d := n.device(t, "alice", "phone", hello)
			if got := d.welcome.Boxes["user:alice"]; got.Next != c.next || got.Head != 10 {
				t.Errorf("welcome says %+v; want next %d, head 10", got, c.next)
			}
			if c.epochGap {
				gap := d.want(protocol.TGap)
				if gap.From != 1 || gap.To != c.next-1 || gap.Why != "epoch" {
					t.Errorf("%s came; want a gap up to %d, epoch", gap.raw, c.next-1)
				}
			}
			d.wants("", c.next, 10)
			d.quiet()
		})
	}
}

// TestAHelloCursorIsAnAcknowledgement holds that it reaches Redis and the archive.
func TestAHelloCursorIsAnAcknowledgement(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, numbers(5)...)
	n.device(t, "alice", "phone", at(map[string]uint64{"user:alice": 4}))
	eventually(t, "the cursor is on WEFT_ACK", func() bool { return w.acked()["alice/phone/default.user.alice"] == 4 })
}

// TestAnAbsentHeadIsUnknown holds that a device is not left waiting when Redis has its cursor but not the head.
func TestAnAbsentHeadIsUnknown(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for _, p := range numbers(3) {
		w.archive.add(alice, p, 0) // Redis has forgotten the head
	}
	w.raise("phone", alice, 2)
	n.device(t, "alice", "phone", at(map[string]uint64{"user:alice": 0})).wants("", 1, 3)
}

// TestAnOrdinaryReconnectAsksNoArchive: Redis knows enough.
func TestAnOrdinaryReconnectAsksNoArchive(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, numbers(3)...)
	w.publish(all, "1")
	w.raise("phone", alice, 3)
	w.raise("phone", all, 1)
	n.device(t, "alice", "phone", at(map[string]uint64{"user:alice": 3, "all": 1})).quiet()
	w.archive.set(func() {
		if len(w.archive.opens) != 0 {
			t.Errorf("the archive was asked %v", w.archive.opens)
		}
	})
}

func TestANewDeviceStartsAfterTheOthers(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.publish(alice, numbers(6)...)
	w.publish(news, numbers(4)...)
	w.raise("phone", alice, 4) // not yet in the archive
	d := n.device(t, "alice", "tablet", topics("news"))
	if next := d.welcome.Boxes["topic:news"].Next; next != 5 {
		t.Errorf("a topic begins at %d; want 5, behind its head", next)
	}
	d.wants("", 5, 6)
	d.quiet()
}

// TestTwoDevices each get everything, in order, at their own pace.
func TestTwoDevices(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	phone, tablet := n.device(t, "alice", "phone"), n.device(t, "alice", "tablet")
	other := n.device(t, "bob", "phone")
	w.push(alice, "1", "2")
	phone.wants("", 1, 2)
	phone.ack("", 2)
	tablet.wants("", 1, 2)
	eventually(t, "the phone's cursor is raised", func() bool { return w.acked()["alice/phone/default.user.alice"] == 2 })
	if seq, ok := w.acked()["alice/tablet/default.user.alice"]; ok {
		t.Errorf("the tablet, which acknowledged nothing, is at %d", seq)
	}
	other.quiet()
}

// TestReconnect: what came meanwhile comes once, in order, then live.
func TestReconnect(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(n *Service) { n.cfg.Window = 4096 })
	d := n.device(t, "alice", "phone")
	w.push(alice, "1")
	d.wants("", 1, 1)
	d.ack("", 1)
	eventually(t, "the cursor is in Redis", func() bool { return w.acked()["alice/phone/default.user.alice"] == 1 })
	d.drop(n)
	var away []string
	for i := range 300 {
		away = append(away, fmt.Sprintf(`"%0100d"`, i))
	}
	w.push(alice, away...)
	d = n.device(t, "alice", "phone")
	w.push(alice, `"live"`)
	for seq := uint64(2); seq <= 302; seq++ {
		d.wants("", seq, seq)
		d.ack("", seq)
	}
	d.quiet()
	d.drop(n)
	eventually(t, "the cursor is in Redis", func() bool { return w.acked()["alice/phone/default.user.alice"] == 302 })
	n.device(t, "alice", "phone").quiet()
}
