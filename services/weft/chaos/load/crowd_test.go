package load

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/protocol"
)

// crowd runs a crowd on a fabric for the time of a test.
func crowd(t *testing.T, size int) *Crowd {
	t.Helper()
	m, key := fabric(t)
	c, err := NewCrowd(CrowdOptions{NATS: m.NATS, Push: m.Push, Key: key, Seed: 7, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	select {
	case <-c.Connected():
	case <-time.After(patienceOfTests):
		t.Fatal("not everybody was welcomed")
	}
	return c
}

// A storm: all connections are reset while messages are on their way.
func TestACrowdComesBackAndMissesNothing(t *testing.T) {
	const size, each = 200, 5
	c := crowd(t, size)
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	if err := c.Send(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Await(ctx); err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	publishing.Go(func() {
		if err := c.Send(ctx, each); err != nil {
			t.Error(err)
		}
	})
	cut := c.Cut()
	publishing.Wait()
	if err := c.Await(ctx); err != nil {
		t.Fatal(err)
	}
	if got := c.Counts(); got != (Counts{}) {
		t.Errorf("counts %+v", got)
	}
	all := c.Delays(cut, nil)
	if all.Messages != size*each || all.P50 <= 0 || all.P99 < all.P50 || all.Max < all.P99 || all.Last.Before(cut) {
		t.Errorf("delays %+v", all)
	}
	if one := c.Delays(cut, func(m int) bool { return m == 3 }); one.Messages != each {
		t.Errorf("%d messages of one member", one.Messages)
	}
	back := 0
	for _, n := range c.Reconnects(cut) {
		back += n
	}
	if back < size { // on a busy machine somebody may have gone round once more
		t.Errorf("%d were welcomed after the cut", back)
	}
	for _, p := range c.Places() {
		if !p.Online || p.Node == "" || p.Since.Before(cut) {
			t.Errorf("place %+v", p)
		}
	}
}

func TestAMemberCountsWhatIsWrong(t *testing.T) {
	c := new(Crowd)
	m := &member{crowd: c, user: "u", notes: make([]note, 5)}
	for i := range m.notes {
		m.notes[i] = note{sent: time.Now(), accepted: true}
	}
	c.members = []*member{m}
	c.owing.Store(5)
	message := func(seq uint64, text string) *object {
		return &object{T: protocol.TMsg, Seq: seq, raw: []byte(`{"t":"msg","data":` + text + `}`)}
	}
	m.got(message(1, `{"user":"u","n":1}`))
	if got := c.Counts(); got != (Counts{Lost: 4}) || c.Owing() != 4 {
		t.Errorf("counts %+v, owing %d", got, c.Owing())
	}
	m.got(message(1, `{"user":"u","n":1}`)) // again
	m.got(message(2, `{"user":"u","n":1}`)) // again, under another sequence
	m.got(message(4, `{"user":"u","n":4}`)) // 3 is missing
	m.got(message(3, `{"user":"u","n":3}`)) // too late
	m.got(message(5, `{"user":"v","n":5}`)) // somebody else's
	m.got(message(6, `{"user":"u","n":9}`)) // never sent
	if got := c.Counts(); got != (Counts{Lost: 3, Doubled: 3, Jumped: 1, Mistaken: 2}) {
		t.Errorf("counts %+v", got)
	}
}
