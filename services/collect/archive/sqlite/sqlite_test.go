package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/archivetest"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestArchive(t *testing.T) {
	archivetest.Run(t, func(t *testing.T) archivetest.Store {
		t.Helper()
		path := filepath.Join(t.TempDir(), "a folder %41?#", "weft.db")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		return archivetest.Store{Open: func(ctx context.Context, partitions int) (archive.Archive, error) {
			a, err := sqlite.Open(ctx, path, archive.Facts{Partitions: partitions})
			if err != nil {
				return nil, err // not a, which would be an Archive that is not nil
			}
			return a, nil
		}}
	})
}
