package admin

import (
	"context"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

func unwritten() error { return problem.New(problem.Unsupported, "this version does not do it yet") }

func (d *Desk) undelivered(context.Context, admin.UndeliveredRequest) (*admin.UndeliveredPage, error) {
	return nil, unwritten()
}

func (d *Desk) replay(context.Context, admin.ReplayRequest) (*admin.ReplayPage, error) {
	return nil, unwritten()
}

func (d *Desk) trace(context.Context, admin.TraceRequest) (*admin.TraceAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) user(context.Context, admin.UserRequest) (*admin.UserAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) kick(context.Context, admin.KickRequest) (*admin.KickAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) drain(context.Context, admin.DrainRequest) (*admin.DrainAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) audit(context.Context, admin.AuditRequest) (*admin.AuditPage, error) {
	return nil, unwritten()
}

func (d *Desk) records(context.Context, admin.RecordsRequest) (*admin.RecordsAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) listQuarantine(context.Context, admin.QuarantineRequest) (*admin.QuarantinePage, error) {
	return nil, unwritten()
}

func (d *Desk) showQuarantined(context.Context, admin.QuarantineOne) (*admin.Quarantined, error) {
	return nil, unwritten()
}

func (d *Desk) replayQuarantined(context.Context, admin.QuarantineOne) (*admin.QuarantineDone, error) {
	return nil, unwritten()
}

func (d *Desk) dropQuarantined(context.Context, admin.QuarantineOne) (*admin.QuarantineDone, error) {
	return nil, unwritten()
}

func (d *Desk) check(context.Context, struct{}) (*admin.CheckAnswer, error) {
	return nil, unwritten()
}
