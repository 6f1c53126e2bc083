package collect

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
)

// absentMinded is an archive that can't store reports of presence.
type absentMinded struct{ archive.Archive }

func (absentMinded) Report(context.Context, []archive.Report, time.Time, time.Duration) error {
	return errors.New("no presence here")
}

// TestReportsThatFailLeaveRoomForOthers: however many reports of presence come again and again, acknowledgements are
// taken in.
func TestReportsThatFailLeaveRoomForOthers(t *testing.T) {
	w := newWorld(t)
	w.archive.Archive = absentMinded{w.archive.Archive}
	w.open(bob, "phone")
	r := w.start()
	r.stop()
	n := w.standIn("one")
	for range 1000 {
		n.says(true, alice)
	}
	w.start()
	last := w.archived("weft.publish.default.user.bob", `1`).Seq
	w.ack(upTo(bob, "phone", last))
	w.eventually("the acknowledgement is taken in", func() bool { return w.cursorOf(bob, "phone") == last })
}
