package collect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/embed"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// bulky is a payload that makes a disk full soon.
var bulky = `"` + strings.Repeat("x", 60_000) + `"`

// tries publishes at the stream door and says what the publisher got, and when.
func (w *world) tries(id string) (time.Duration, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	begun := time.Now()
	_, err := w.js.PublishMsg(ctx, &nats.Msg{Subject: subject.In(alice), Header: header("Weft-Id", id), Data: []byte(bulky)}, jetstream.WithRetryAttempts(0))
	return time.Since(begun), err
}

// once checks that the log holds each of these messages of alice once, and nothing else of her, without a hole.
func (w *world) once(ids map[string]bool) {
	w.t.Helper()
	seen, high := map[string]bool{}, uint64(0)
	for _, m := range w.logEntries() {
		if m.To != alice {
			continue
		}
		if seen[m.ID] {
			w.t.Errorf("%s is in the log twice", m.ID)
		}
		seen[m.ID], high = true, max(high, m.Seq)
	}
	for id := range ids {
		if !seen[id] {
			w.t.Errorf("%s is not in the log", id)
		}
	}
	if high != uint64(len(seen)) {
		w.t.Errorf("%d messages up to %d", len(seen), high)
	}
}

// TestJetStreamIsFull: the streams have reached the server's own limit, max_file_store.
func TestJetStreamIsFull(t *testing.T) {
	w := newWorldOn(t, embed.NATSOptions{Dir: t.TempDir(), Partitions: 1, MaxStore: 16 << 20})
	w.start()
	accepted := map[string]bool{w.archived(subject.Publish(alice), `0`).ID: true}
	if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILLER", Subjects: []string{"filler"}, Storage: jetstream.FileStorage}); err != nil {
		t.Fatal(err)
	}
	for full := false; !full; {
		_, err := w.js.Publish(t.Context(), "filler", []byte(bulky), jetstream.WithRetryAttempts(0))
		full = err != nil
	}
	for i := range 3 {
		took, err := w.tries(fmt.Sprint("s", i))
		said, ok := errors.AsType[*jetstream.APIError](err)
		if !ok || took > soon {
			t.Errorf("the stream door: %v after %s", err, took)
		} else {
			t.Logf("the stream door said after %s: %d %s", took, said.ErrorCode, said.Description)
		}
		begun := time.Now()
		_, p := w.request(subject.Publish(alice), bulky, "Weft-Id", fmt.Sprint("r", i))
		if p == nil || p.Code != problem.Unavailable || !strings.Contains(p.Message, "the log: insufficient") || time.Since(begun) > soon {
			t.Errorf("the request door: %v after %s", p, time.Since(begun))
		}
		t.Logf("the request door said after %s: %v", time.Since(begun), p)
	}
	if err := w.js.DeleteStream(t.Context(), "FILLER"); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for i := range 3 {
		for _, id := range []string{fmt.Sprint("s", i), fmt.Sprint("r", i)} {
			accepted[w.archived(subject.Publish(alice), bulky, "Weft-Id", id).ID] = true
		}
	}
	t.Logf("all archived %s after there was room", time.Since(begun))
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("all archived after %s only", took)
	}
	w.once(accepted)
}
