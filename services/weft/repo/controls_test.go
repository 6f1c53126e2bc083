package repo

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// A control that does not apply or compile any more would be judged by nobody: whoever changes what it breaks makes it
// anew. That the judge sees each of them, `bash .ci/controls/run` shows.
func TestControlsApplyAndCompile(t *testing.T) {
	controls, err := filepath.Glob(filepath.Join(root(t), ".ci/controls/*.patch"))
	if err != nil {
		t.Fatal(err)
	}
	if len(controls) != 6 {
		t.Errorf("there are %d controls, not 6: %v", len(controls), controls)
	}
	for _, control := range controls {
		t.Run(path.Base(control), func(t *testing.T) {
			text := read(t, ".ci/controls/"+path.Base(control))
			if !regexp.MustCompile(`\A# (.*\n)+# chaos: -.+\n`).MatchString(text) {
				t.Error("it does not begin with what it breaks and `# chaos:` with the flags of the judge")
			}
			var touched []string
			for _, match := range regexp.MustCompile(`(?m)^\+\+\+ b/(.+)$`).FindAllStringSubmatch(text, -1) {
				touched = append(touched, match[1])
			}
			compile(t, touched, apply(t, control, touched))
		})
	}
}

// apply applies a patch to copies of the files that it touches and returns the folder of the copies.
func apply(t *testing.T, patch string, touched []string) string {
	t.Helper()
	copies := t.TempDir()
	for _, file := range touched {
		to := filepath.Join(copies, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(read(t, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, copies, "git", "apply", patch)
	return copies
}

// compile compiles the packages of the files with the copies in their place.
func compile(t *testing.T, touched []string, copies string) {
	t.Helper()
	replace := map[string]string{}
	var packages []string
	for _, file := range touched {
		replace[filepath.Join(root(t), file)] = filepath.Join(copies, file)
		packages = append(packages, "./"+path.Dir(file))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(copies, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	slices.Sort(packages)
	run(t, root(t), "go", append([]string{"build", "-buildvcs=false", "-overlay", file}, slices.Compact(packages)...)...)
}

// run runs a command in a folder, which belongs to no repository above it, and to the workspace if it is the root.
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "GOWORK="+filepath.Join(root(t), "go.work"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
}
