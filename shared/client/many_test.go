package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// mail is n messages to each of so many users, user by user in turn, with ids that say both.
func mail(users, n int) []Outgoing {
	var all []Outgoing
	for i := range n {
		for u := range users {
			all = append(all, Outgoing{
				To:      subject.UserAddress("default", fmt.Sprint("u", u)),
				Payload: []byte("1"), Options: []Option{WithID(fmt.Sprintf("%d-%04d", u, i))},
			})
		}
	}
	return all
}

// door answers the stream door as respond says, and collects what came to each subject, in order.
type door struct {
	marked chan struct{} // closed when the message with the id "mark" has come

	mu    sync.Mutex // protects what follows
	came  map[string][]string
	tries map[string]int
}

func newDoor(t *testing.T, nc *nats.Conn, respond func(id string, try int) string) *door {
	t.Helper()
	d := &door{marked: make(chan struct{}), came: make(map[string][]string), tries: make(map[string]int)}
	var answering sync.WaitGroup
	sub, err := nc.Subscribe(subject.In(subject.UserAddress("default", "x"))[:len("weft.in.default.user.")]+"*", func(m *nats.Msg) {
		id := m.Header[message.HeaderID][0]
		if id == "mark" {
			close(d.marked)
			return
		}
		d.mu.Lock()
		d.came[m.Subject] = append(d.came[m.Subject], id)
		d.tries[id]++
		try := d.tries[id]
		d.mu.Unlock()
		answering.Go(func() {
			if answer := respond(id, try); answer != "" {
				_ = m.Respond([]byte(answer))
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe(); answering.Wait() })
	return d
}

const taken = `{"stream":"IN","seq":7}`

func TestManyArePublishedInTheOrderOfTheirAddress(t *testing.T) {
	nc := natsServer(t)
	in := stream(t, nc, jetstream.StreamConfig{})
	const users, each = 20, 25
	batch := mail(users, each)
	for i, r := range NewPublisher(nc).PublishMany(t.Context(), 8, batch) {
		if want := fmt.Sprintf("%d-%04d", i%users, i/users); r.Err != nil || r.Ack.ID != want || r.Ack.Tries != 1 {
			t.Fatalf("result %d is %+v, want that of %s", i, r, want)
		}
	}
	last := make(map[string]string)
	for seq := uint64(1); seq <= users*each; seq++ {
		m, err := in.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		id := m.Header.Get(message.HeaderID)
		if id <= last[m.Subject] {
			t.Errorf("%s: %s came behind %s", m.Subject, id, last[m.Subject])
		}
		last[m.Subject] = id
	}
}

// Answers are lost, at random places: what is tried again must not be overtaken in its address.
func TestRetriesOfManyDoNotReorder(t *testing.T) {
	nc := natsServer(t)
	d := newDoor(t, nc, func(id string, try int) string {
		if try == 1 && id[len(id)-1]%3 == 0 {
			return ""
		}
		return taken
	})
	p := NewPublisher(nc)
	p.attempt = 20 * time.Millisecond
	for i, r := range p.PublishMany(t.Context(), 0, mail(10, 10)) {
		if r.Err != nil {
			t.Errorf("%d: %v", i, r.Err)
		}
	}
	for subj, ids := range d.came {
		if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 10 {
			t.Errorf("%s got %v", subj, ids)
		}
	}
}

func TestSoManyAreOutstanding(t *testing.T) {
	for _, c := range []struct{ outstanding, users, want int }{{3, 10, 3}, {100, 10, 10}, {0, 300, outstandingDefault}} {
		nc := natsServer(t)
		waiting, release := make(chan struct{}, c.users), make(chan struct{})
		d := newDoor(t, nc, func(string, int) string { waiting <- struct{}{}; <-release; return taken })
		p := NewPublisher(nc)
		p.attempt = patienceOfTests
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for _, r := range p.PublishMany(t.Context(), c.outstanding, mail(c.users, 1)) {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
		})
		for range c.want {
			receive(t, waiting)
		}
		mark := nats.NewMsg("weft.in.default.user.mark")
		mark.Header[message.HeaderID] = []string{"mark"}
		if err := nc.PublishMsg(mark); err != nil {
			t.Error(err)
		}
		receive(t, d.marked) // and with it all that was sent before it
		d.mu.Lock()
		if len(d.tries) != c.want {
			t.Errorf("%d are outstanding, want %d", len(d.tries), c.want)
		}
		d.mu.Unlock()
		close(release)
		publishing.Wait()
	}
}

func TestNothingOvertakesWhatHasToComeAgain(t *testing.T) {
	nc := natsServer(t)
	d := newDoor(t, nc, func(id string, _ int) string {
		switch id {
		case "0-0001":
			return `{"error":{"code":503,"err_code":10008,"description":"no leader"}}`
		case "1-0001":
			return `{"error":{"code":400,"err_code":10060,"description":"never"}}`
		}
		return taken
	})
	batch := mail(2, 4)
	batch[6].Payload = []byte("no JSON") // the last of user 0
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	results := NewPublisher(nc).PublishMany(ctx, 0, batch)
	// In turn: user 0's, user 1's.
	for i, want := range []error{nil, nil, ErrUnknown, problem.New(problem.BadRequest, ""), ErrNotSent, nil, problem.New(problem.BadJSON, ""), nil} {
		if err := results[i].Err; !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%d: %v, want %v", i, err, want)
		}
	}
	behind := results[4]
	if errors.Is(behind.Err, ErrUnknown) || !problem.From(behind.Err).Retry || behind.Ack.ID != "0-0002" || behind.Ack.Tries != 0 {
		t.Errorf("what was not sent is %+v", behind)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ids := slices.Compact(d.came["weft.in.default.user.u0"]); !slices.Equal(ids, []string{"0-0000", "0-0001"}) {
		t.Errorf("user 0 was sent %v", ids)
	}
}

func TestManyEndWithTheContext(t *testing.T) {
	nc := natsServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	newDoor(t, nc, func(id string, _ int) string {
		if id == "0-0001" {
			cancel()
			return ""
		}
		return taken
	})
	results := NewPublisher(nc).PublishMany(ctx, 1, mail(1, 4))
	for i, want := range []error{nil, ErrUnknown, ErrNotSent, ErrNotSent} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("%d: %v, want %v", i, results[i].Err, want)
		}
	}
	for i, r := range NewPublisher(nc).PublishMany(ctx, 1, mail(2, 1)) {
		if !errors.Is(r.Err, ErrNotSent) || !errors.Is(r.Err, context.Canceled) {
			t.Errorf("%d after the end: %v", i, r.Err)
		}
	}
	if results := NewPublisher(nc).PublishMany(t.Context(), 1, nil); len(results) != 0 {
		t.Errorf("no messages have the results %v", results)
	}
}

// far is a connection whose other end is some way off: what is written arrives later.
type far struct {
	net.Conn

	way  time.Duration
	sent chan parcel
}

type parcel struct {
	due  time.Time
	data []byte
}

// Dial opens such a connection; it makes far a nats.CustomDialer.
func (f *far) Dial(network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	there := &far{Conn: c, sent: make(chan parcel, 1<<16)}
	there.way = f.way
	go there.carry()
	return there, nil
}

func (f *far) carry() {
	for p := range f.sent {
		<-time.After(time.Until(p.due))
		if _, err := f.Conn.Write(p.data); err != nil {
			return
		}
	}
}

func (f *far) Write(b []byte) (int, error) {
	f.sent <- parcel{time.Now().Add(f.way), slices.Clone(b)}
	return len(b), nil
}

// BenchmarkPublish compares one by one with many at once, on a stream in a file, on loopback and 1 ms away: 1,000 users'
// messages of 256 bytes.
func BenchmarkPublish(b *testing.B) {
	near := natsServer(b)
	stream(b, near, jetstream.StreamConfig{Storage: jetstream.FileStorage, MaxMsgs: 100_000})
	away, err := nats.Connect(near.ConnectedUrl(), nats.SetCustomDialer(&far{way: time.Millisecond}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(away.Close)
	payload := fmt.Appendf(nil, `"%0254d"`, 0)
	batch, one := make([]Outgoing, 10_000), make([]Outgoing, 10_000)
	for i := range batch {
		batch[i] = Outgoing{To: subject.UserAddress("default", fmt.Sprint("u", i%1000)), Payload: payload}
		one[i] = Outgoing{To: alice(), Payload: payload}
	}
	for where, p := range map[string]*Publisher{"loopback": NewPublisher(near), "1ms": NewPublisher(away)} {
		b.Run(where+"/one-by-one", func(b *testing.B) {
			for i := range b.N {
				if _, err := p.Publish(b.Context(), batch[i%len(batch)].To, payload); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
		for _, outstanding := range []int{16, 64, 256, 1024} {
			b.Run(fmt.Sprint(where, "/many-", outstanding), func(b *testing.B) { publishMany(b, p, outstanding, batch) })
		}
		b.Run(where+"/many-to-one-address", func(b *testing.B) { publishMany(b, p, 0, one) })
	}
}

func publishMany(b *testing.B, p *Publisher, outstanding int, batch []Outgoing) {
	for sent := 0; sent < b.N; sent += len(batch) {
		for _, r := range p.PublishMany(b.Context(), outstanding, batch[:min(len(batch), b.N-sent)]) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
