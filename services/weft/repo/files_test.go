package repo

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const maxLines = 500

func TestFilesAreShort(t *testing.T) {
	for _, file := range withSuffix(t, ".go", ".ts", ".js", ".mjs", ".html", ".css") {
		text := read(t, file)
		if lines := strings.Count(text, "\n"); lines > maxLines && !generated(text) {
			t.Errorf("%s has %d lines; the most is %d", file, lines, maxLines)
		}
	}
}

// generated looks for the mark that Go's tools agreed on, at the start of a line.
func generated(text string) bool {
	return regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`).MatchString(text)
}

// A test that sleeps is slow or flaky, and one that skips itself looks like one that passed. What a machine does not let
// be broken is said so: `not injected: …`.
func TestTestsNeitherSleepNorSkip(t *testing.T) {
	rules := map[string]*regexp.Regexp{
		"_test.go":  regexp.MustCompile(`\btime\.Sleep\(|\b[tbf]\.Skip(Now|f)?\(`),
		".test.ts":  regexp.MustCompile(`\b(test|it|describe)\.(skip|todo|only)\b|\b(skip|todo|only): *(true|['"])`),
		".test.mjs": regexp.MustCompile(`\b(test|it|describe)\.(skip|todo|only)\b|\b(skip|todo|only): *(true|['"])|\bt\.(skip|todo)\(|\bwaitForTimeout\(`),
	}
	for suffix, forbidden := range rules {
		for _, file := range withSuffix(t, suffix) {
			for n, line := range strings.Split(read(t, file), "\n") {
				if forbidden.MatchString(line) && !strings.Contains(line, `"not injected: `) {
					t.Errorf("%s:%d: %s", file, n+1, strings.TrimSpace(line))
				}
			}
		}
	}
}

func TestLinksPointSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	for _, file := range withSuffix(t, ".md") {
		for _, match := range link.FindAllStringSubmatch(read(t, file), -1) {
			target, _, _ := strings.Cut(match[1], "#")
			if target == "" || strings.Contains(target, ":") { // a heading of the same page, or another site
				continue
			}
			if _, err := os.Stat(filepath.Join(root(t), path.Dir(file), target)); err != nil {
				t.Errorf("%s links to %s, which is not there", file, match[1])
			}
		}
	}
}

func TestScriptsRunAnywhere(t *testing.T) {
	for _, script := range []string{"test", "lint", "run", "fuzz", "controls/run"} {
		info, err := os.Stat(filepath.Join(root(t), ".ci", script))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode()&0o111 == 0 {
			t.Errorf(".ci/%s is not executable", script)
		}
		if !strings.HasPrefix(read(t, ".ci/"+script), "#!/usr/bin/env bash\n") {
			t.Errorf(".ci/%s does not begin with #!/usr/bin/env bash", script)
		}
	}
}
