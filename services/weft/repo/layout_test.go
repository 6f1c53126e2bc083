package repo

import (
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTopLevelHoldsWhatItShouldAndNothingElse(t *testing.T) {
	want := []string{
		"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md",
		"Taskfile.yml", "go.work", "go.work.sum", "k8s", "nats", "services", "shared",
	}
	var got []string
	for _, file := range tracked(t) {
		top, _, _ := strings.Cut(file, "/")
		if !strings.HasPrefix(top, ".") {
			got = append(got, top)
		}
	}
	slices.Sort(got)
	got = slices.Compact(got)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s is missing at the top level", name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("%s does not belong at the top level", name)
		}
	}
}

func TestModules(t *testing.T) {
	want := []string{
		".tools/go.mod", "services/auth/go.mod", "services/collect/go.mod", "services/dispatch/go.mod",
		"services/push/go.mod", "services/weft/go.mod", "shared/embed/go.mod", "shared/go.mod",
	}
	if got := withSuffix(t, "go.mod"); !slices.Equal(got, want) {
		t.Errorf("modules are\n%v, want\n%v", got, want)
	}
	for _, mod := range want {
		if !strings.Contains(read(t, mod), "\ngo 1.26.0\n") {
			t.Errorf("%s does not say go 1.26.0", mod)
		}
	}
}

func TestPackagesAreNamedForWhatTheyGive(t *testing.T) {
	empty := []string{"util", "utils", "common", "pkg", "models", "helpers", "helper", "manager", "misc", "base"}
	for dir := range folders(t) {
		if slices.Contains(empty, path.Base(dir)) {
			t.Errorf("%s: the name does not say what is in it", dir)
		}
	}
}

// Every package says in one place what it is; a package of tests only says it in a test file. Of one that is generated, its
// source says it.
func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{} // by folder
	for _, file := range withSuffix(t, ".go") {
		if generated(read(t, file)) {
			continue
		}
		dir := path.Dir(file)
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), file), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		documented[dir] = documented[dir] || f.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a comment above its package clause", dir)
		}
	}
}
