package collect

import (
	"context"

	"github.com/weftpush/weft/shared/ledger"
)

// takeRouted hands the archive what dispatches report: how far they have routed, and to which nodes.
func (s *Service) takeRouted(ctx context.Context, msgs []report) error {
	var reports []ledger.Routed
	for _, msg := range msgs {
		var some []ledger.Routed
		if s.ofThisEpoch(msg) && s.readReport(msg, &some) {
			reports = append(reports, some...)
		}
	}
	if len(reports) == 0 {
		return nil
	}
	return s.withArchive(ctx, func(ctx context.Context) error { return s.archive.Route(ctx, reports) })
}
