package mongodb

import (
	"testing"
	"time"
)

// A process that has seen a time of tomorrow in the archive gives no earlier one.
func TestClockNeverDecreases(t *testing.T) {
	var c clock
	if got := c.now(); time.Since(time.UnixMilli(got)) > time.Minute {
		t.Errorf("the clock begins at %d", got)
	}
	tomorrow := time.Now().Add(24 * time.Hour).UnixMilli()
	c.seen(tomorrow)
	c.seen(1)
	if got := c.now(); got != tomorrow {
		t.Errorf("the clock says %d after it has seen %d", got, tomorrow)
	}
}
