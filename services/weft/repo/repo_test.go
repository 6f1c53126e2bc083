// Package repo tests the repository itself: what its pages promise about its layout, its files and its commands. It
// looks at what git tracks, as a clone would have it.
package repo

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the folder that holds go.work. The tests run outside the workspace too, so they look for it.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.work above the working directory")
		}
		dir = parent
	}
}

// tracked lists the files that git tracks and that are there, relative to the root and with slashes. A clone may belong
// to another user: git would refuse it without safe.directory.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "-c", "safe.directory=*", "-C", root(t), "ls-files", "-z")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v: %s", err, complaint.Bytes())
	}
	files := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	files = slices.DeleteFunc(files, func(f string) bool {
		_, err := os.Lstat(filepath.Join(root(t), f))
		return os.IsNotExist(err)
	})
	if len(files) < 50 {
		t.Fatalf("git tracks %d files: this is not the repository", len(files))
	}
	return files
}

// folders lists every folder that holds a tracked file, the root (".") included.
func folders(t *testing.T) map[string]bool {
	t.Helper()
	dirs := map[string]bool{}
	for _, file := range tracked(t) {
		for dir := path.Dir(file); !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	return dirs
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// withSuffix lists the tracked files whose names end in one of the suffixes.
func withSuffix(t *testing.T, suffixes ...string) []string {
	t.Helper()
	files := slices.DeleteFunc(tracked(t), func(f string) bool {
		return !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(f, s) })
	})
	if len(files) == 0 {
		t.Fatalf("no file ends in %v", suffixes)
	}
	return files
}
