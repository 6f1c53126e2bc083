package demo_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weftpush/weft/services/push/demo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask sends one request to the handler, with headers in pairs.
func ask(t *testing.T, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	demo.Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, path string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	w := httptest.NewRecorder()
	demo.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d", path, w.Code)
	}
	return w.Body.String()
}

func TestPageIsServedUnderAStrictPolicy(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/demo": "text/html; charset=utf-8", "/demo/": "text/html; charset=utf-8",
		"/demo/weft.js": "text/javascript; charset=utf-8", "/demo/style.css": "text/css; charset=utf-8", "/demo/icon.svg": "image/svg+xml",
	} {
		answer := ask(t, http.MethodGet, path)
		if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != want {
			t.Errorf("GET %s: %d %s, want 200 %s", path, answer.StatusCode, answer.Header.Get("Content-Type"), want)
		}
		policy := answer.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';") || strings.Contains(policy, "unsafe") {
			t.Errorf("GET %s: policy %q", path, policy)
		}
	}
}

func TestOnlyReadingAndOnlyThePage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodHead, "/demo", http.StatusOK},
		{http.MethodPost, "/demo", http.StatusMethodNotAllowed},
		{http.MethodGet, "/demo/nothing.js", http.StatusNotFound},
		{http.MethodGet, "/demo/page/weft.js", http.StatusNotFound},
		{http.MethodGet, "/demo/package.json", http.StatusNotFound},
		{http.MethodGet, "/demo/../demo.go", http.StatusNotFound},
	} {
		if got := ask(t, c.method, c.path).StatusCode; got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
		}
	}
}

func TestUnchangedFileIsNotSentAgain(t *testing.T) {
	t.Parallel()
	etag := ask(t, http.MethodGet, "/demo/app.js").Header.Get("ETag")
	if got := ask(t, http.MethodGet, "/demo/app.js", "If-None-Match", etag).StatusCode; etag == "" || got != http.StatusNotModified {
		t.Errorf("ETag %q: %d, want 304", etag, got)
	}
}

// The policy would refuse inline code and foreign hosts at run time; this says so before.
func TestPageNeedsNothingFromOutside(t *testing.T) {
	t.Parallel()
	page := body(t, "/demo")
	for _, bad := range []string{` style="`, "<style", "<script>", ` onclick=`, "javascript:"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	seen := map[string]bool{}
	reference := regexp.MustCompile(`(?:src=|href=|from |import\()["']([^"'#]+)["']`)
	var follow func(string)
	follow = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		for _, m := range reference.FindAllStringSubmatch(body(t, path), -1) {
			to, _ := strings.CutPrefix(m[1], "./") // the parts of the client lie side by side
			if to != m[1] {
				to = "/demo/" + to
			}
			if !strings.HasPrefix(to, "/demo/") {
				t.Errorf("%s refers to %s", path, to)
				continue
			}
			follow(to)
		}
	}
	follow("/demo")
	for _, path := range []string{"/demo/app.js", "/demo/weft.js", "/demo/weft-tabs.js", "/demo/style.css", "/demo/icon.svg"} {
		if !seen[path] {
			t.Errorf("the page does not load %s: %v", path, seen)
		}
	}
}
