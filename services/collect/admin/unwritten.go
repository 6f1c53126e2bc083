package admin

import (
	"context"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
)

func unwritten() error { return problem.New(problem.Unsupported, "this version does not do it yet") }

func (d *Desk) replay(context.Context, admin.ReplayRequest) (*admin.ReplayPage, error) {
	return nil, unwritten()
}

func (d *Desk) trace(context.Context, admin.TraceRequest) (*admin.TraceAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) user(context.Context, admin.UserRequest) (*admin.UserAnswer, error) {
	return nil, unwritten()
}

func (d *Desk) audit(context.Context, admin.AuditRequest) (*admin.AuditPage, error) {
	return nil, unwritten()
}

func (d *Desk) check(context.Context, struct{}) (*admin.CheckAnswer, error) {
	return nil, unwritten()
}
