package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The demo page in Chromium: away and back, all 329 payloads byte for byte and in order. The tests are in browser/; they
// need its npm packages and Chromium, which .ci/test installs.
func TestBrowser(t *testing.T) {
	if _, err := os.Stat("browser/node_modules"); err != nil {
		t.Fatal("the npm packages of the browser tests are missing; run `npm ci` in services/weft/e2e/browser, or bash .ci/test")
	}
	everywhere(t, func(t *testing.T, f *fabric) {
		cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", "fabric.test.mjs")
		cmd.Dir = "browser"
		cmd.Env = append(os.Environ(), "WEFT_MANIFEST="+filepath.Join(f.data, "manifest.json"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
	})
}
