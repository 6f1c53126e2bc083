package collect

import (
	"slices"
	"testing"

	"github.com/weftpush/weft/shared/history"
)

func TestABatchAdvancesEachDeviceOnce(t *testing.T) {
	c := func(device, address string, seq uint64, at int64) history.Cursor {
		return history.Cursor{Tenant: "t", User: "u", Device: device, Address: address, Seq: seq, At: at}
	}
	got := highest([]history.Cursor{c("a", "x", 2, 20), c("b", "x", 1, 10), c("a", "x", 5, 50), c("a", "y", 1, 11), c("a", "x", 3, 60)})
	if want := []history.Cursor{c("a", "x", 5, 50), c("b", "x", 1, 10), c("a", "y", 1, 11)}; !slices.Equal(got, want) {
		t.Errorf("%+v; want %+v", got, want)
	}
}
