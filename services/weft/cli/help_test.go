package cli

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestHelpOfACommandThatIsNot(t *testing.T) {
	for want, args := range map[string][]string{
		"weft nix":            {"nix"},
		"weft quarantine nix": {"quarantine", "nix"},
	} {
		got := operateBeside(t, NewHelp(), NewQuarantine(), args...)
		if got.code != ExitUsage || !strings.Contains(got.err.Error(), `there is no command "`+want+`"`) {
			t.Errorf("%v: exit %d, %v", args, got.code, got.err)
		}
	}
	got := operateBeside(t, NewHelp(), NewQuarantine(), "quarantine", "drop")
	if got.code != ExitDone {
		t.Errorf("%+v", got)
	}
	has(t, got.out, "Remove messages from quarantine for good", "Usage:")
}

// operateBeside runs a command line of a command that stands beside another.
func operateBeside(t *testing.T, c, other *cobra.Command, args ...string) ran {
	t.Helper()
	root := &cobra.Command{Use: "weft", SilenceErrors: true, SilenceUsage: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }}
	var out strings.Builder
	Usage(root)
	root.AddCommand(other)
	root.SetHelpCommand(c)
	root.SetOut(&out)
	root.SetArgs(append([]string{"help"}, args...))
	err := root.ExecuteContext(t.Context())
	return ran{out: out.String(), err: err, code: ExitCode(err)}
}

func TestVersion(t *testing.T) {
	for want, info := range map[string]*debug.BuildInfo{
		"v1.2.3 go1.26": {GoVersion: "go1.26", Main: debug.Module{Version: "v1.2.3"}},
		"(devel) (0123abcd, changed) go1.26": {GoVersion: "go1.26", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123abcdef"}, {Key: "vcs.modified", Value: "true"},
		}},
		"(devel) go1.26": {GoVersion: "go1.26"},
	} {
		if got := version(info); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !strings.Contains(Version(), "go1.") {
		t.Errorf("%q", Version())
	}
}
