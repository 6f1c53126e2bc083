package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// A row that somebody removes with SQLite's own tools is missed by everything that an audit looks at: the head stays.
func TestRowRemovedBehindTheSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.db")
	a := openAll(t, path, archive.Facts{Partitions: 1})[0]
	to := subject.UserAddress("default", "a")
	var batch []*message.Message
	for _, id := range []string{"1", "2", "3"} {
		batch = append(batch, &message.Message{To: to, ID: id, Payload: []byte("x")})
	}
	if _, err := a.Append(t.Context(), 0, batch, nil); err != nil {
		t.Fatal(err)
	}
	w, err := newWriter(t.Context(), path, source(t, path))
	if err != nil {
		t.Fatal(err)
	}
	err = w.begin(t.Context())
	if err == nil {
		_, err = w.conn.ExecContext(t.Context(), "DELETE FROM messages WHERE id IN ('2', '3')")
	}
	if err := errors.Join(w.end(context.WithoutCancel(t.Context()), err), w.close()); err != nil {
		t.Fatal(err)
	}
	standing, err := a.Standing(t.Context(), []subject.Address{to}, "")
	if err != nil || standing[to].Head != 3 {
		t.Errorf("it stands at %+v, %v; want the head 3", standing, err)
	}
	rows, err := a.Rows(t.Context(), to, 1, 10)
	if err != nil || len(rows) != 1 {
		t.Errorf("%d rows, %v; want 1", len(rows), err)
	}
	if rows, _, err = a.Scan(t.Context(), 0, 0, batch[2].Archived+1, "", 10); err != nil || len(rows) != 1 {
		t.Errorf("%d rows scanned, %v; want 1", len(rows), err)
	}
	if rows, err = a.Pending(t.Context(), admin.Filter{}, admin.Place{}, 0, 10); err != nil || len(rows) != 1 {
		t.Errorf("%d rows pending, %v; want 1", len(rows), err)
	}
	fresh := &message.Message{To: to, ID: "2", Payload: []byte("x")}
	if _, err := a.Append(t.Context(), 0, []*message.Message{fresh}, nil); err != nil || fresh.Seq != 4 {
		t.Errorf("published again it is %d, %v; want 4: no sequence is given twice", fresh.Seq, err)
	}
}

func TestWarnings(t *testing.T) {
	if w := warnings(4 << 20); len(w) != 0 {
		t.Errorf("an ordinary log is warned of: %v", w)
	}
	if w := warnings(1 << 30); len(w) != 1 || w[0].What == "" || w[0].Remedy == "" {
		t.Errorf("a log of 1 GB: %v", w)
	}
}
