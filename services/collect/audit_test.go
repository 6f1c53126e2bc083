package collect

import (
	"database/sql"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/subject"
)

// aged makes all that is archived older by so much, behind the archive's back.
func (w *world) aged(by time.Duration) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+w.file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(w.t.Context(), `UPDATE messages SET archived = archived - ?`, by.Milliseconds()); err != nil {
		w.t.Fatal(err)
	}
}

// While the log takes nothing, for however long, what is archived is under way to it and no break. A message that is not
// in the log when all is written is named.
func TestAuditWhileTheLogStalls(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.archived(subject.Publish(alice), `1`, "Weft-Id", "before")
	free := w.fillLog()
	w.publish(subject.In(alice), `2`, "Weft-Id", "stuck")
	w.eventually("archived, and not logged", func() bool {
		rows, err := w.archive.Rows(t.Context(), alice, 2, 1)
		return err == nil && len(rows) == 1
	})
	w.aged(time.Minute)
	since := admin.AuditRequest{Since: time.Now().Add(-time.Hour).UnixMilli()}
	if page := operator[admin.AuditPage](w, admin.Audit, since); page.Broken != 0 || page.UnderWay != 1 || page.Balance.Accepted != 2 || page.Balance.Pending != 2 {
		t.Errorf("while the log takes nothing: %+v", page)
	}
	free()
	w.drained()
	if page := operator[admin.AuditPage](w, admin.Audit, since); page.Broken != 0 || page.UnderWay != 0 || page.Logged != 2 {
		t.Errorf("when it has taken all: %+v", page)
	}
	stream, err := w.js.Stream(t.Context(), fabric.MsgStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), stream.CachedInfo().State.LastSeq); err != nil {
		t.Fatal(err)
	}
	if page := operator[admin.AuditPage](w, admin.Audit, since); page.Broken != 1 || page.Breaks[0].ID != "stuck" || page.UnderWay != 0 {
		t.Errorf("when one was deleted: %+v", page)
	}
}
