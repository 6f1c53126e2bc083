package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftpush/weft/services/weft/command"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/protocol"
)

const (
	// questions is how often `weft undelivered` is asked; the median counts.
	questions = 5
	// sampling is how often the memory of the collects is looked at.
	sampling = 20 * time.Millisecond
	// promptly and grown are what the run promises: an answer, and the growth of all collects' resident memory.
	promptly = time.Second
	grown    = 64 << 20
)

// operators measures what operators see of a large archive: everything but o.undelivered messages is acknowledged by its
// devices; the rest is taken and never acknowledged. Then `weft undelivered` is timed, and `weft replay` run while the
// memory of the collects is watched.
func operators(ctx context.Context, o options, m manifest.Manifest) error {
	handled := o
	handled.messages -= o.undelivered
	if err := measure(ctx, handled, m); err != nil {
		return err
	}
	deaf, err := o.hang(ctx, m)
	if err != nil {
		return err
	}
	defer deaf.stop()
	asked, total, one, err := askUndelivered(ctx, o.undelivered, m)
	if err != nil {
		return err
	}
	fmt.Printf("  %-34s %10.0f ms, median of %d, counting %d of %d messages\n", "weft undelivered", asked.Seconds()*1000, questions, total, o.messages)
	traced, err := askTrace(ctx, m, one)
	if err != nil {
		return err
	}
	fmt.Printf("  %-34s %10.0f ms, median of %d\n", "weft trace", traced.Seconds()*1000, questions)
	watch := watchMemory(m)
	began := time.Now()
	var done admin.ReplayCount
	err = weft(ctx, m, &done, "replay", "--everything", "--yes")
	took, growth := time.Since(began), watch.stop()
	if err != nil {
		return err
	}
	if err := await(ctx, &deaf.again, int64(o.undelivered)); err != nil {
		return err
	}
	fmt.Printf("  %-34s %10.1f s, %d of %d read sent once more, %d waiting\n", "weft replay", took.Seconds(), done.Sent, done.Read, done.Waiting)
	fmt.Printf("  %-34s %10.1f MiB, from %.0f MiB of both\n", "memory that the collects grew by", float64(growth)/(1<<20), float64(watch.before)/(1<<20))
	switch {
	case total != o.undelivered || done.Sent != o.undelivered || deaf.again.Load() != int64(o.undelivered) || deaf.unordered.Load() > 0:
		return fmt.Errorf("%d undelivered were expected; %d were counted, %d sent, %d came, %d of them out of order",
			o.undelivered, total, done.Sent, deaf.again.Load(), deaf.unordered.Load())
	case asked > promptly || traced > promptly || growth > grown:
		return errors.New("it took too long, or too much memory")
	}
	return nil
}

// deafness is devices that take everything and acknowledge nothing.
type deafness struct {
	receivers    []*receiver
	first, again atomic.Int64 // messages that came, and that came again
	unordered    atomic.Int64 // that came again in another order
	readers      sync.WaitGroup
}

func (d *deafness) stop() {
	for _, r := range d.receivers {
		_ = r.conn.Close()
	}
	d.readers.Wait()
}

// hang connects a deaf device of each of some more users and publishes to them.
func (o options) hang(ctx context.Context, m manifest.Manifest) (*deafness, error) {
	o.messages, o.prefix = o.undelivered, "deaf"
	o.users = min(o.users, o.undelivered)
	receivers, err := connectAll(ctx, o, m)
	if err != nil {
		return nil, err
	}
	d := &deafness{receivers: receivers}
	for _, r := range receivers {
		d.readers.Go(func() { d.read(r) })
	}
	if _, err := publishAll(ctx, o, m, receivers); err != nil {
		return d, err
	}
	return d, await(ctx, &d.first, int64(o.messages))
}

// read counts what comes to one device until its connection is closed.
func (d *deafness) read(r *receiver) {
	last := r.start
	for {
		_, text, err := r.conn.ReadMessage()
		if err != nil {
			return
		}
		for object := range bytes.SplitSeq(text, []byte("\n")) {
			var msg protocol.Msg
			if json.Unmarshal(object, &msg) != nil || msg.T != protocol.TMsg {
				continue
			}
			if !msg.Again {
				d.first.Add(1)
				continue
			}
			d.again.Add(1)
			if msg.Seq != last+1 {
				d.unordered.Add(1)
			}
			last = msg.Seq
		}
		if r.conn.WriteJSON(protocol.FromClient{T: protocol.TPong}) != nil {
			return
		}
	}
}

// askUndelivered runs `weft undelivered` until it counts what is expected (acknowledgements are on their way to the archive for
// a moment), then some times more; it returns the median time, the count and the id of one of them.
func askUndelivered(ctx context.Context, expected int, m manifest.Manifest) (median time.Duration, total int, id string, err error) {
	var page admin.UndeliveredPage
	ask := func() (time.Duration, error) {
		began := time.Now()
		page = admin.UndeliveredPage{}
		err := weft(ctx, m, &page, "undelivered")
		if err == nil && (page.Total == nil || len(page.Messages) == 0) {
			err = errors.New("weft undelivered told no total, or no message")
		}
		return time.Since(began), err
	}
	for settled := time.Now().Add(quiet); ; {
		if _, err := ask(); err != nil {
			return 0, 0, "", err
		}
		if page.Total.Messages == expected || time.Now().After(settled) {
			break
		}
	}
	if median, err = repeatedly(ask); err != nil {
		return 0, 0, "", err
	}
	return median, page.Total.Messages, page.Messages[0].ID, nil
}

// repeatedly is the median time of some questions.
func repeatedly(ask func() (time.Duration, error)) (time.Duration, error) {
	times := make([]time.Duration, questions)
	for i := range times {
		var err error
		if times[i], err = ask(); err != nil {
			return 0, err
		}
	}
	slices.Sort(times)
	return times[questions/2], nil
}

// askTrace runs `weft trace` for a message.
func askTrace(ctx context.Context, m manifest.Manifest, id string) (time.Duration, error) {
	return repeatedly(func() (time.Duration, error) {
		var answer admin.TraceAnswer
		began := time.Now()
		err := weft(ctx, m, &answer, "trace", id)
		if err == nil && len(answer.Traces) != 1 {
			err = fmt.Errorf("weft trace told %d traces of %s", len(answer.Traces), id)
		}
		return time.Since(began), err
	})
}

// weft runs a command line as an operator would and decodes what it prints.
func weft(ctx context.Context, m manifest.Manifest, into any, args ...string) error {
	var out, said bytes.Buffer
	args = append(args, "--nats", m.NATS, "--output", "json")
	if code := command.Run(ctx, args, &out, &said); code != 0 {
		return fmt.Errorf("weft %s: exit %d: %s", strings.Join(args, " "), code, said.String())
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("weft %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// memory watches how much resident memory the collects have.
type memory struct {
	pids   []int
	before int
	most   int
	done   chan struct{}
	ended  sync.WaitGroup
}

func watchMemory(m manifest.Manifest) *memory {
	w := &memory{done: make(chan struct{})}
	for _, p := range m.Processes {
		if p.Role == "collect" {
			w.pids = append(w.pids, p.PID)
		}
	}
	w.before = w.resident()
	w.most = w.before
	w.ended.Go(func() {
		ticker := time.NewTicker(sampling)
		defer ticker.Stop()
		for {
			select {
			case <-w.done:
				return
			case <-ticker.C:
				w.most = max(w.most, w.resident())
			}
		}
	})
	return w
}

// stop ends the watching and returns the growth in bytes.
func (w *memory) stop() int {
	close(w.done)
	w.ended.Wait()
	return max(w.most, w.resident()) - w.before
}

// resident is the resident memory of all, in bytes, from /proc.
func (w *memory) resident() (sum int) {
	for _, pid := range w.pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		if fields := strings.Fields(rest); len(fields) > 0 {
			kilobytes, _ := strconv.Atoi(fields[0])
			sum += kilobytes << 10
		}
	}
	return sum
}
