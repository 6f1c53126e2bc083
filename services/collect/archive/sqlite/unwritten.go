package sqlite

import (
	"context"
	"errors"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/subject"
)

var errUnwritten = errors.New("unwritten")

func (a *Archive) Asked(context.Context, []history.Cursor) ([]archive.Settled, error) {
	return nil, nil
}
func (a *Archive) Settle(context.Context, []archive.Settled) ([]archive.Settled, error) {
	return nil, errUnwritten
}
func (a *Archive) Lapsed(context.Context, int, int64, int64, int) ([]archive.Lapsed, error) {
	return nil, nil
}
func (a *Archive) CloseAsked(context.Context, []archive.Lapsed) error { return errUnwritten }
func (a *Archive) Route(context.Context, []ledger.Routed) error       { return nil }
func (a *Archive) Pending(context.Context, admin.Filter, admin.Place, int64, int) ([]archive.Row, error) {
	return nil, errUnwritten
}
func (a *Archive) Standing(context.Context, []subject.Address, string) (map[subject.Address]archive.Standing, error) {
	return nil, errUnwritten
}
func (a *Archive) Devices(context.Context, string, string) ([]archive.Device, error) {
	return nil, errUnwritten
}
func (a *Archive) Find(context.Context, string, string, int) (found, copies []archive.Row, err error) {
	return nil, nil, errUnwritten
}
func (a *Archive) Steps(context.Context, subject.Address, uint64) (archive.Steps, error) {
	return archive.Steps{}, errUnwritten
}
func (a *Archive) Rows(context.Context, subject.Address, uint64, int) ([]archive.Row, error) {
	return nil, errUnwritten
}
func (a *Archive) Scan(context.Context, int, int64, int64, string, int) ([]archive.Row, string, error) {
	return nil, "", errUnwritten
}
func (a *Archive) SettledOf(context.Context, subject.Address, uint64, uint64) ([]archive.Settled, error) {
	return nil, errUnwritten
}
func (a *Archive) Health(context.Context) (admin.Health, error) { return admin.Health{}, errUnwritten }
func (a *Archive) Record(context.Context, admin.Record) error   { return errUnwritten }
func (a *Archive) Records(context.Context, admin.RecordsRequest) ([]admin.Record, error) {
	return nil, errUnwritten
}
