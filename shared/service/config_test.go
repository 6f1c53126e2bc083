package service_test

import (
	"errors"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weftpush/weft/shared/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type part struct {
	name  string
	beat  time.Duration
	count int
}

func (p *part) Flags(fs *flag.FlagSet) {
	fs.StringVar(&p.name, "name", "default", "a `name`")
	fs.DurationVar(&p.beat, "heart-beat", time.Second, "a `time`")
	fs.IntVar(&p.count, "count", 1, "a `number`")
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weft.conf")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrecedence gives a value in all three places, and takes one away after the other.
func TestPrecedence(t *testing.T) {
	path := file(t, "# a comment\n\nname file\nheart-beat 3s\n")
	parse := func(args ...string) part {
		t.Helper()
		var p part
		if err := service.Parse("weft-test", args, &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if got, want := parse(), (part{"default", time.Second, 1}); got != want {
		t.Errorf("from nowhere: %+v, want %+v", got, want)
	}
	if got, want := parse("-config", path), (part{"file", 3 * time.Second, 1}); got != want {
		t.Errorf("from the file: %+v, want %+v", got, want)
	}
	t.Setenv("WEFT_NAME", "environment")
	t.Setenv("WEFT_COUNT", "5")
	t.Setenv("WEFT_UNKNOWN", "is nobody's business")
	if got, want := parse("-config", path), (part{"environment", 3 * time.Second, 5}); got != want {
		t.Errorf("from environment and file: %+v, want %+v", got, want)
	}
	if got, want := parse("-config", path, "--name=argument"), (part{"argument", 3 * time.Second, 5}); got != want {
		t.Errorf("from all three: %+v, want %+v", got, want)
	}
	t.Setenv("WEFT_CONFIG", path)
	t.Setenv("WEFT_HEART_BEAT", "7s")
	if got, want := parse("-count", "9"), (part{"environment", 7 * time.Second, 9}); got != want {
		t.Errorf("with the file named by the environment: %+v, want %+v", got, want)
	}
}

// TestParseRefuses holds that an error says where to look, and shows no value, which may be a secret.
func TestParseRefuses(t *testing.T) {
	unknown, bad := file(t, "name x\npasword hunter2\n"), file(t, "count hunter2\n")
	for name, c := range map[string]struct {
		args []string
		env  string
		says []string
	}{
		"unknown in file":      {[]string{"-config", unknown}, "", []string{unknown, "pasword"}},
		"bad value in file":    {[]string{"-config", bad}, "", []string{bad, "count"}},
		"no such file":         {[]string{"-config", "/does/not/exist"}, "", []string{"/does/not/exist"}},
		"bad value in env":     {nil, "hunter2", []string{"WEFT_COUNT", "count"}},
		"unknown argument":     {[]string{"-pasword", "hunter2"}, "", []string{"-pasword"}},
		"bad value, argument":  {[]string{"-count", "x"}, "", []string{"-count"}},
		"argument left behind": {[]string{"-count", "1", "more"}, "", []string{`"more"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("WEFT_COUNT", c.env)
			err := service.Parse("weft-test", c.args, new(part))
			for _, word := range append(c.says, "weft-test") {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("the error is %v, want %q in it", err, word)
				}
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the value: %v", err)
			}
		})
	}
}

func TestBase(t *testing.T) {
	t.Setenv("NATS_URL", "nats://cli:4222") // as the nats command line has it
	t.Setenv("NATS_USER", "cli")
	t.Setenv("WEFT_NATS_USER", "ours")
	var b service.Base
	if err := service.Parse("weft-test", []string{"-admin", ""}, &b); err != nil {
		t.Fatal(err)
	}
	if want := (service.Base{NATS: "nats://cli:4222", User: "ours"}); b != want {
		t.Errorf("the base is %+v, want %+v", b, want)
	}
}

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = service.Listen("http", taken.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "-http "+taken.Addr().String()) {
		t.Errorf("the error is %v, want flag and address in it", err)
	}
}

// TestFaults holds that a storm of failures is a line at once and then one in 5 s, with their number.
func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		faults := service.NewFaults(slog.New(slog.NewTextHandler(&out, nil)))
		for range 10 * 5 { // 10 s, from 0 s to 9.8 s
			faults.Note("read", errors.New("down"))
			<-time.After(200 * time.Millisecond)
		}
		faults.Note("write", errors.New("down"))
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "times=1") || !strings.Contains(lines[1], "times=25") || !strings.Contains(lines[2], "step=write") {
			t.Errorf("logged %q, want the first failure, the 25 after it, and the other step", lines)
		}
	})
}
