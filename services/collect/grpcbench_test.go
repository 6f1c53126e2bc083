package collect

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/subject"
)

// BenchmarkDoors is each request door on a collect that owns its partition, with everything in this process, publisher,
// NATS and the SQLite archive included: 256 bytes each, to 1,000 users. What differs between the doors is theirs.
func BenchmarkDoors(b *testing.B) {
	for _, door := range []struct {
		name    string
		publish func(c *counter, from, upTo int) error
	}{
		{"nats=64", byNATS},
		{"post=1000", byPost},
		{"stream", byStream},
		{"call=64", byCall},
	} {
		b.Run(door.name, func(b *testing.B) {
			c := newCounter(b)
			cpu := cpuTime()
			b.ResetTimer()
			for from := 0; from < b.N; from += postMost {
				if err := door.publish(c, from, min(from+postMost, b.N)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/msg")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
			b.StopTimer()
			c.logged(b.N + 1)
		})
	}
}

var benchPayload = fmt.Appendf(nil, `{"n":%q}`, strings.Repeat("x", 248))

func benchUser(i int) subject.Address { return subject.UserAddress("default", fmt.Sprint(i%1000)) }

// byNATS has as many requests under way as a stream has.
func byNATS(c *counter, from, upTo int) error {
	var group errgroup.Group
	group.SetLimit(streamAtOnce)
	for i := from; i < upTo; i++ {
		group.Go(func() error {
			reply, err := c.nc.RequestMsg(&nats.Msg{Subject: subject.Publish(benchUser(i)), Data: benchPayload}, patience)
			if err == nil && !bytes.Contains(reply.Data, []byte("archived")) {
				err = fmt.Errorf("%s", reply.Data)
			}
			return err
		})
	}
	return group.Wait()
}

func byPost(c *counter, from, upTo int) error {
	body := []byte("[")
	for i := from; i < upTo; i++ {
		body = fmt.Appendf(body, `{"to":%q,"data":%s},`, benchUser(i).String(), benchPayload)
	}
	body[len(body)-1] = ']'
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.url+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer good")
	answer, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	said, err := io.ReadAll(answer.Body)
	if err == nil && (answer.StatusCode != http.StatusOK || bytes.Contains(said, []byte("error"))) {
		err = fmt.Errorf("%s", said)
	}
	return err
}

func byStream(c *counter, from, upTo int) error {
	s := c.stream("good")
	for i := from; i < upTo; i++ {
		if err := s.Send(&weftv1.PublishStreamRequest{Message: &weftv1.PublishRequest{To: benchUser(i).String(), Data: benchPayload}}); err != nil {
			break
		}
	}
	_, err := s.receipts()
	return err
}

func byCall(c *counter, from, upTo int) error {
	publisher := c.publisher("good")
	var group errgroup.Group
	group.SetLimit(streamAtOnce)
	for i := from; i < upTo; i++ {
		group.Go(func() error {
			_, err := publisher.Publish(c.t.Context(), &weftv1.PublishRequest{To: benchUser(i).String(), Data: benchPayload})
			return err
		})
	}
	return group.Wait()
}

// cpuTime is what this process has used, in user and in kernel mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
