package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type taskfile struct {
	Tasks map[string]struct {
		Desc string
		Deps []string
		Cmds []command
	}
}

// command is a line of shell, or a loop over one.
type command struct {
	Cmd string
	For []string
}

func (c *command) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&c.Cmd)
	}
	type loop command
	return node.Decode((*loop)(c))
}

// lines are the commands that the loop runs.
func (c *command) lines() []string {
	if len(c.For) == 0 {
		return []string{c.Cmd}
	}
	var lines []string
	for _, item := range c.For {
		lines = append(lines, strings.ReplaceAll(c.Cmd, "{{.ITEM}}", item))
	}
	return lines
}

func TestTaskfileRunsWhatExists(t *testing.T) {
	var file taskfile
	if err := yaml.Unmarshal([]byte(read(t, "Taskfile.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dev", "test", "demo", "up", "bench", "lint", "fmt", "fuzz", "tidy", "build"} {
		if _, ok := file.Tasks[name]; !ok {
			t.Errorf("no target %s", name)
		}
	}
	for name, task := range file.Tasks {
		if task.Desc == "" {
			t.Errorf("%s has no desc", name)
		}
		for _, dep := range task.Deps {
			if _, ok := file.Tasks[dep]; !ok {
				t.Errorf("%s needs %s, which is no target", name, dep)
			}
		}
		for _, c := range task.Cmds {
			for _, line := range c.lines() {
				checkCommand(t, name, line)
			}
		}
	}
}

// checkCommand checks the program and every path of a command: a word that holds a slash, or follows -C or --prefix.
func checkCommand(t *testing.T, target, line string) {
	t.Helper()
	words := strings.Fields(line)
	for len(words) > 0 && strings.Contains(words[0], "=") { // variables for the command
		words = words[1:]
	}
	if len(words) == 0 {
		t.Errorf("%s: %q runs nothing", target, line)
		return
	}
	programs := []string{"go", "bash", "npm", "task", built}
	if !slices.Contains(programs, words[0]) {
		t.Errorf("%s: %q runs a program that nobody was told to have", target, line)
	}
	for i, word := range words[1:] {
		folder := words[i] == "-C" || words[i] == "--prefix"
		if !folder && !strings.Contains(word, "/") || word == "dist/" || strings.Contains(word, "{{") {
			continue
		}
		if _, err := os.Stat(filepath.Join(root(t), word)); err != nil {
			t.Errorf("%s: %q names %s, which is not there", target, line, word)
		}
	}
}

const (
	source = "./services/weft/cmd/weft"
	built  = "dist/weft" // what the target build makes of it
)

// A target that runs weft names a command that weft has.
func TestTaskfileNamesCommandsOfWeft(t *testing.T) {
	weft := filepath.Join(t.TempDir(), "weft")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", weft, "./cmd/weft")
	build.Dir = filepath.Join(root(t), "services/weft")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	named := regexp.MustCompile(`(?:go run `+source+`|`+built+`) (\w+)`).FindAllStringSubmatch(read(t, "Taskfile.yml"), -1)
	if len(named) < 3 {
		t.Fatalf("Taskfile.yml runs weft %d times; dev, demo and up should", len(named))
	}
	for _, match := range named {
		// Asked for the help of a command that it does not have, weft answers with its own.
		out, err := exec.Command(weft, match[1], "--help").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "weft "+match[1]) {
			t.Errorf("weft has no command %s: %v: %s", match[1], err, out)
		}
	}
}
