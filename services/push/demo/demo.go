// Package demo is a page on which a person logs in as a user and watches messages arrive: plain HTML, CSS and JavaScript
// modules around the TypeScript client, carried inside the binary. The client is page/weft*.js, made by bundle.mjs from
// shared/client/ts and committed, since `go run` has no Node.
//
// The page asks POST /demo/token (JSON {user, topics}, answered with {token, expires}) for a token. That door is the
// server's: where it answers 404 the page asks the person for a token.
package demo

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// Path is where the page is served; its assets are below it.
const Path = "/demo"

// policy lets the page load its own files and talk to its own server, and nothing else: a payload that is shown can
// never run, and a token can't be sent anywhere else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed page/*.html page/*.css page/*.js page/*.svg
var page embed.FS

// types are the content types of the page's files, by their ending. They are written down because the standard
// library asks the machine's own tables first, and those differ.
func types(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return "text/javascript; charset=utf-8"
	}
}

// asset is one file of the page.
type asset struct {
	contentType string
	etag        string
	body        []byte
}

// Handler serves the page at Path and its assets below, to GET and HEAD. It is to be mounted at Path and at Path + "/".
func Handler() http.Handler {
	assets := load()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the demo page can only be read", http.StatusMethodNotAllowed)
			return
		}
		a, ok := assets[strings.TrimSuffix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		a.serve(w, r)
	})
}

// serve lets browsers keep the file but ask each time whether it is still the one: a page and a script of two
// releases must not meet.
func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}

// load reads the embedded files, by the path that they are served at.
func load() map[string]*asset {
	assets := make(map[string]*asset)
	err := fs.WalkDir(page, "page", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := page.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		at := Path + "/" + path.Base(name)
		if path.Base(name) == "index.html" {
			at = Path
		}
		assets[at] = &asset{contentType: types(name), etag: `"` + hex.EncodeToString(sum[:8]) + `"`, body: body}
		return nil
	})
	if err != nil { // the files are part of the binary
		panic(fmt.Errorf("demo: read the embedded page: %w", err))
	}
	return assets
}
