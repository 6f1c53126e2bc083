package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

const (
	// recordsUsual and recordsMost are how many records an answer has.
	recordsUsual = 50
	recordsMost  = 1000
)

// records answers with what operators changed.
func (d *Desk) records(ctx context.Context, q admin.RecordsRequest) (*admin.RecordsAnswer, error) {
	if q.Limit <= 0 {
		q.Limit = recordsUsual
	}
	q.Limit = min(q.Limit, recordsMost)
	records, err := d.Archive.Records(ctx, q)
	if err != nil {
		return nil, err
	}
	size := 0
	for i, r := range records { // the answer must fit a NATS message
		if len(r.Filter) > pageBytes {
			r.Filter = json.RawMessage(`{"left_out":"it is too large to be shown"}`)
			records[i] = r
		}
		if size += len(r.Filter) + 6*(len(r.By.Who)+len(r.By.Note)+len(r.Detail)) + 200; i > 0 && size > pageBytes {
			return &admin.RecordsAnswer{Records: records[:i]}, nil
		}
	}
	if records == nil {
		records = []admin.Record{}
	}
	return &admin.RecordsAnswer{Records: records}, nil
}

// noteMost is the most bytes of who asks for a change, and of his note.
const noteMost = 1024

// checkBy refuses a change that nobody asks for.
func checkBy(by admin.By) error {
	if by.Who == "" || len(by.Who) > noteMost || len(by.Note) > noteMost {
		return problem.New(problem.BadRequest, "every change is recorded: say who asks for it, in at most %d bytes, with a note of at most as many", noteMost).In("by")
	}
	return nil
}

// begin records a change before it is made, with a count of 0: none is made that nobody can find out about.
func (d *Desk) begin(ctx context.Context, action string, by admin.By, what any) (admin.Record, error) {
	if err := checkBy(by); err != nil {
		return admin.Record{}, err
	}
	filter, err := json.Marshal(what)
	if err != nil {
		return admin.Record{}, fmt.Errorf("encode what was asked for: %w", err)
	}
	r := admin.Record{ID: rand.Text(), At: time.Now().UnixMilli(), By: by, Action: action, Filter: filter}
	return r, d.Archive.Record(ctx, r)
}

// end records how much of it was done. The change is made by then: a failure is only logged, and leaves the record that
// it was begun.
func (d *Desk) end(ctx context.Context, r admin.Record, count int, detail string) {
	r.Count, r.Detail = count, detail
	if err := d.Archive.Record(ctx, r); err != nil {
		d.Log.Warn("how a change ended is not recorded", "action", r.Action, "record", r.ID, "count", count, "detail", detail, "err", err)
	}
}
