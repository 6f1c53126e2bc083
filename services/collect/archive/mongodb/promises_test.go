package mongodb_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// report is what a node says of one user.
func report(a archive.Archive, number uint64, on bool, user subject.Address, t *testing.T) {
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
		report(other, 1, true, alice, t)
		w.set(once("update", "presence", func() change {
			report(other, 2, true, alice, t)
			return nil
		}))
		report(slow, 3, false, alice, t)
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

	t.Run("upserts that lose a race are done again", func(t *testing.T) {
		w, a, _ := opened(t)
		w.set(once("update", "attendances", taken))
		report(a, 1, true, alice, t)
		w.set(once("update", "nodes", taken))
		report(a, 2, false, alice, t)
		w.set(once("update", "records", taken))
		must(t, a.Record(t.Context(), admin.Record{ID: "r", At: 1, Action: "drain"}))
	})
}
