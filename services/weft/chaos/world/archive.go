package world

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the judge takes the archive's lock as another process would

	"github.com/weftpush/weft/services/weft/chaos/world/proxy"
)

// holdArchive makes the archive take nothing: of SQLite this process holds the lock, before MongoDB the proxies go
// dark.
func holdArchive(ctx context.Context, w *World, _ *Plan, _ Step) (undo, error) {
	if w.o.Archive == "" {
		return w.lockArchive(ctx)
	}
	var proxies []*proxy.Proxy
	for _, name := range w.shape.services {
		if strings.HasPrefix(name, "collect-") {
			proxies = append(proxies, w.along(name, "mongodb")...)
		}
	}
	return shatter(proxies, (*proxy.Proxy).Hole)
}

func (w *World) lockArchive(ctx context.Context) (undo, error) {
	file := url.URL{Path: filepath.Join(w.o.Data, "archive.db")}
	db, err := sql.Open("sqlite", "file:"+file.EscapedPath()+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open the archive: %w", err)
	}
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil) // the end of ctx would end it
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take the archive's lock: %w", err), db.Close())
	}
	return func(context.Context) (string, error) {
		return "", errors.Join(tx.Rollback(), db.Close())
	}, nil
}
