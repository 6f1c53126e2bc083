package mongodb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// report is what a node says of one user.
func report(t *testing.T, a archive.Archive, number uint64, on bool, user subject.Address) {
	t.Helper()
	r := archive.Report{Node: "one", Presence: ledger.Presence{Number: number, Users: []ledger.Seen{{User: user.Tokens(), On: on, At: int64(number)}}}}
	must(t, a.Report(t.Context(), []archive.Report{r}, time.UnixMilli(1000), 0))
}

// What happens between the reads and the writes of one call, and what a server answers that no test peer does.
func TestOnTheWire(t *testing.T) {
	uri := startServer(t)
	alice := subject.UserAddress("default", "alice")
	opened := func(t *testing.T) (*wire, archive.Archive, database) {
		t.Helper()
		w, near := tap(t, uri, nil)
		d := newDatabase(t, uri)
		behind := d
		behind.uri = near
		return w, behind.opened(), d
	}

	t.Run("a report holds although an earlier one comes between", func(t *testing.T) {
		w, slow, d := opened(t)
		other := d.opened()
		report(t, other, 1, true, alice)
		w.set(once("update", "presence", func() change {
			report(t, other, 2, true, alice)
			return nil
		}))
		report(t, slow, 3, false, alice)
		due, err := slow.Due(t.Context(), subject.Partition(alice, 2), time.UnixMilli(2000), 10)
		must(t, err)
		if len(due) != 1 || due[0].On {
			t.Errorf("the last report says that alice is gone; due are %+v", due)
		}
	})

	t.Run("what the majority does not confirm is not stored", func(t *testing.T) {
		w, a, _ := opened(t)
		w.set(once("insert", "messages", notConfirmed))
		m := func() []*message.Message { return []*message.Message{{To: alice, ID: "a", Payload: []byte("1")}} }
		heads := archive.Heads{}
		if _, err := a.Append(t.Context(), subject.Partition(alice, 2), m(), heads); !errors.Is(err, archive.ErrAway) {
			t.Errorf("the error is %v; want one that says that the archive is away", err)
		}
		outcomes, err := a.Append(t.Context(), subject.Partition(alice, 2), m(), heads)
		must(t, err)
		if outcomes[0].Fate != archive.Duplicate || outcomes[0].Message.Seq != 1 {
			t.Errorf("the second time it is %+v", outcomes[0])
		}
	})

	t.Run("nothing is stored behind what the majority does not confirm", func(t *testing.T) {
		w, a, _ := opened(t)
		var inserts atomic.Int64
		w.set(func(c command) change {
			if c.name == "insert" && c.collection == "messages" && inserts.Add(1) == 1 {
				return notConfirmed()
			}
			return nil
		})
		var batch []*message.Message // more than the driver puts into one command
		for i := range 66 {
			batch = append(batch, &message.Message{To: alice, ID: fmt.Sprint(i), Payload: make([]byte, 768<<10)})
		}
		if _, err := a.Append(t.Context(), subject.Partition(alice, 2), batch, nil); !errors.Is(err, archive.ErrAway) {
			t.Errorf("the error is %v; want one that says that the archive is away", err)
		}
		if n := inserts.Load(); n != 1 {
			t.Errorf("%d commands inserted messages; the first was not confirmed", n)
		}
	})

	t.Run("a full disk is to blame on no message", func(t *testing.T) {
		w, a, _ := opened(t)
		w.set(once("insert", "messages", func() change {
			return func(bson.D) bson.D {
				return bson.D{{Key: "ok", Value: 0.0}, {Key: "code", Value: int32(14031)}, {Key: "errmsg", Value: "the disk is full"}}
			}
		}))
		_, err := a.Append(t.Context(), subject.Partition(alice, 2), []*message.Message{{To: alice, ID: "a", Payload: []byte("1")}}, nil)
		if !errors.Is(err, archive.ErrAway) {
			t.Errorf("the error is %v; want one that says that the archive is away", err)
		}
	})

	t.Run("large messages come in small chunks", func(t *testing.T) {
		_, a, _ := opened(t)
		var batch []*message.Message
		for i := range 16 {
			batch = append(batch, &message.Message{To: alice, ID: fmt.Sprint(i), Payload: make([]byte, 768<<10)})
		}
		_, err := a.Append(t.Context(), subject.Partition(alice, 2), batch, nil)
		must(t, err)
		var chunks []int
		must(t, a.Since(t.Context(), subject.Partition(alice, 2), 0, func(some []*message.Message) error {
			chunks = append(chunks, len(some))
			return nil
		}))
		if !slices.Equal(chunks, []int{11, 5}) {
			t.Errorf("16 messages of 768 KiB came in chunks of %d", chunks)
		}
	})

	t.Run("a read ends in time although the server does not answer in the middle of it", func(t *testing.T) {
		w, a, d := opened(t)
		var ids []string
		for i := range 150 { // more than a driver gets at once
			ids = append(ids, fmt.Sprint(i))
		}
		fill(t, d.opened(), alice, ids...)
		silent := make(chan struct{})
		w.set(func(c command) change {
			if c.name == "getMore" || c.name == "killCursors" {
				<-silent
			}
			return nil
		})
		t.Cleanup(func() { close(silent) })
		ended := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		go func() {
			_, err := a.Read(ctx, alice, 0, 0, 1<<20, time.Now())
			ended <- err
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the error is %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("it has not ended after 5 s")
		}
	})

	t.Run("upserts that lose a race are done again", func(t *testing.T) {
		w, a, _ := opened(t)
		w.set(once("update", "attendances", taken))
		report(t, a, 1, true, alice)
		w.set(once("update", "nodes", taken))
		report(t, a, 2, false, alice)
		w.set(once("update", "records", taken))
		must(t, a.Record(t.Context(), admin.Record{ID: "r", At: 1, Action: "drain"}))
	})
}
