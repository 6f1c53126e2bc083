package archive

import (
	"context"
	"math"
	"time"

	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

// Presence is which users are connected, by the reports of nodes, and what was said of each.
type Presence interface {
	// Report stores what nodes said. Reports commute and can be stored twice: for each user and node the highest number
	// holds. Users who came are due at now, users who went at now + grace, unless they are due earlier.
	Report(ctx context.Context, reports []Report, now time.Time, grace time.Duration) error

	// Silence stores that a node can't be reached since at (ms since 1970): until it reports again, with higher numbers,
	// nobody is there. Its users are due at now + grace.
	Silence(ctx context.Context, node string, at int64, now time.Time, grace time.Duration) error

	// Nodes returns the nodes that may have users: all that reported and did not leave.
	Nodes(ctx context.Context) ([]Node, error)

	Attendances
	Marks
}

// Attendances are what was said of users.
type Attendances interface {
	// Due returns users of a partition that are due by now, the longest first, at most limit.
	Due(ctx context.Context, partition int, now time.Time, limit int) ([]Attendance, error)

	// Attend stores Told, Turn, At, Open and Due of each whose Revision is still the stored one, raises that by 1, and says
	// which those were. Of several who do it at once for one Revision, one succeeds.
	Attend(ctx context.Context, some []Attendance) (held []bool, err error)

	// Said stores that the event of the Turn is published. It changes nothing else, and nothing where the turn is another.
	Said(ctx context.Context, some []Attendance) error

	// Forget removes what is of no use any more: reports of absence, and nodes that left or are silent, noted before one
	// time; and users told offline before another.
	Forget(ctx context.Context, reports, users time.Time) error
}

// Report is one report of a node.
type Report struct {
	Node string
	ledger.Presence
}

// Node is a push node by its reports.
type Node struct {
	ID     string
	Silent bool // it could not be reached, and has not reported since
}

// NotDue is the Due of a user of whom there is nothing to say.
const NotDue = math.MaxInt64

// Attendance is what is known of one user.
type Attendance struct {
	User subject.Address

	// What nodes said.
	On    bool  // some node has a session
	Since int64 // On: since when the first node has; else when the last one had, ms since 1970
	Noted int64 // when the archive heard of the last change of a node, ms since 1970 on collect's clock

	// What was told, as it was stored by Attend; the zero values before.
	Told bool   // online
	Turn uint64 // of the event told last; 0: none
	At   int64  // that event's
	Open bool   // it may not have been published yet

	Due      int64  // ms since 1970, when somebody has to look
	Revision uint64 // one more with each report about the user, and each Attend
}

// Marks say how far a partition's messages were looked at for those that are undelivered.
type Marks interface {
	// Mark returns the mark of a partition; where there is none, first is stored.
	Mark(ctx context.Context, partition int, first Mark) (Mark, error)

	// MoveMark replaces a mark if it is still the one given, and says whether it was.
	MoveMark(ctx context.Context, partition int, from, to Mark) (bool, error)
}

// Mark is a place in the walk over a partition in the order of archiving: as Inquiry.Scan takes it.
type Mark struct {
	Since int64 // ms since 1970
	After string
}
