package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The demo page in Chromium: away and back, all 329 payloads byte for byte and in order.
func TestBrowser(t *testing.T) {
	everywhere(t, func(t *testing.T, f *fabric) {
		out, err := browserTests(t, f, "fabric.test.mjs").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
	})
}

// browserTests runs tests of browser/ against a fabric, with more of an environment. They need npm packages and Chromium,
// which .ci/test installs.
func browserTests(t *testing.T, f *fabric, file string, env ...string) *exec.Cmd {
	t.Helper()
	if _, err := os.Stat("browser/node_modules"); err != nil {
		t.Fatal("the npm packages of the browser tests are missing; run `npm ci` in services/weft/e2e/browser, or bash .ci/test")
	}
	cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", file)
	cmd.Dir = "browser"
	cmd.Env = append(append(os.Environ(), "WEFT_MANIFEST="+filepath.Join(f.data, "manifest.json")), env...)
	return cmd
}
