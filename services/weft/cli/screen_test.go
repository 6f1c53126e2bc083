package cli

import (
	"bytes"
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestShortenKeepsBothEnds(t *testing.T) {
	for _, c := range []struct {
		text    string
		columns int
		want    string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc…fg"},
		{"abcdefg", 1, "…"},
		{"abcdefg", 0, ""},
		{"日本語日本語", 7, "日…語"},
		{"e\u0301e\u0301e\u0301e\u0301", 3, "e\u0301…e\u0301"},
	} {
		got := shorten(c.text, c.columns)
		if got != c.want || displayed(got) > c.columns {
			t.Errorf("%q in %d columns is %q (%d), want %q", c.text, c.columns, got, displayed(got), c.want)
		}
	}
}

func TestWhatATableDoesWhereItIsTooNarrow(t *testing.T) {
	wide := &table{columns: []column{
		{title: "NAME"}, {title: "LEAST", spare: 2}, {title: "LESS", spare: 1}, {title: "WHAT", wrap: true}, {title: "NOTE"},
	}}
	wide.row("a", "1", "2", "one sentence that must be read to its end", "n")
	wide.row("b", "1", "2", "short", "")
	for width, want := range map[int]string{
		0:  "NAME  LEAST  LESS  WHAT                                       NOTE\na     1      2     one sentence that must be read to its end  n\nb     1      2     short\n",
		44: "NAME  LEAST  LESS  WHAT                 NOTE\na     1      2     one sentence that    n\n                   must be read to its\n                   end\nb     1      2     short\n",
		30: "NAME  LESS  WHAT          NOTE\na     2     one sentence  n\n            that must be\n            read to its\n            end\nb     2     short\n",
		20: "NAME  WHAT      NOTE\na     one       n\n      sentence\n      that\n      must be\n      read to\n      its end\nb     short\n",
	} {
		var b bytes.Buffer
		one := &table{columns: slices.Clone(wide.columns)}
		for _, row := range wide.rows {
			one.row(slices.Clone(row)...)
		}
		if err := one.write(&screen{Writer: &b, columns: func() int { return width }}); err != nil || b.String() != want {
			t.Errorf("%v, at %d columns:\n%s\nwant\n%s", err, width, &b, want)
		}
	}
}

func TestTimesForPeople(t *testing.T) {
	now := time.Date(2026, 11, 23, 2, 30, 0, 0, time.Local)
	for ago, want := range map[time.Duration]string{
		850 * time.Millisecond: "850ms", 12 * time.Second: "12s", 192 * time.Second: "3m12s", 247 * time.Minute: "4h07m", 77 * time.Hour: "3d05h", -time.Second: "0s",
	} {
		if got := age(now.Add(-ago).UnixMilli(), now); got != want {
			t.Errorf("%s ago is %s, want %s", ago, got, want)
		}
	}
	if got := clock(now.Add(-time.Hour).UnixMilli(), now); got != "01:30:00" {
		t.Errorf("today is %s", got)
	}
	if got := clock(now.Add(-3*time.Hour).UnixMilli(), now); got != "2026-11-22 23:30:00" {
		t.Errorf("yesterday is %s", got)
	}
	if clock(0, now)+age(0, now) != "" {
		t.Error("no time is shown")
	}
}

func TestTimesFromPeople(t *testing.T) {
	now := time.Date(2026, 11, 23, 2, 30, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"1h": now.Add(-time.Hour), "3d": now.Add(-72 * time.Hour), "1w2d": now.Add(-9 * 24 * time.Hour), "1d12h": now.Add(-36 * time.Hour), "90s": now.Add(-90 * time.Second),
		"2026-11-23 01:00":         now.Add(-90 * time.Minute),
		"2026-11-23":               now.Add(-150 * time.Minute),
		"01:00":                    now.Add(-90 * time.Minute),
		"2026-11-23T02:30:00.5Z":   time.Date(2026, 11, 23, 2, 30, 0, 5e8, time.UTC),
		"2026-11-23T02:30:00+01:0": {},
		"-1h":                      {}, "": {}, "soon": {}, "5": {}, "1d-1h": {},
	} {
		m := moment{now: func() time.Time { return now }}
		err := m.Set(text)
		if want.IsZero() != (err != nil) || err == nil && m.ms != want.UnixMilli() {
			t.Errorf("%q is %d, %v; want %s", text, m.ms, err, want)
		}
		if again := (moment{now: m.now}); err == nil && (again.Set(m.String()) != nil || again.ms != m.ms) {
			t.Errorf("%q is written as %s", text, m.String())
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int]string{1: "1 message", 0: "0 messages", 1234567: "1,234,567 messages", 999: "999 messages", -1000: "-1,000 messages"} {
		if got := many(n, "message"); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
	if many(2, "mailbox") != "2 mailboxes" || many(2, "address") != "2 addresses" {
		t.Error(many(2, "mailbox"), many(2, "address"))
	}
	for n, want := range map[int]string{312: "312", 4096: "4.1k", 2_500_000: "2.5M", 1000: "1k"} {
		if got := sized1000(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
}

// A line to copy means the same to a shell, whatever is in it.
func TestALineToCopyIsReadBackByAShell(t *testing.T) {
	words := []string{"plain-1.2:/x@y", "", "two words", "it's", `back\slash "quoted" $HOME $(id)`, "tab\tand\nline", "grüße 日本", "\x1b[2J", "=x", "-y", "*", "~"}
	var line []string
	for _, word := range words {
		line = append(line, quoted(word))
	}
	out, err := exec.CommandContext(t.Context(), "bash", "-c", `printf '%s\0' `+strings.Join(line, " ")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); strings.Join(got, "|") != strings.Join(words, "|") {
		t.Errorf("got %q\nfrom %s", got, line)
	}
	if strings.ContainsAny(strings.Join(line, " "), "\x1b\n\t") {
		t.Errorf("%q moves the cursor", line)
	}
}

func TestALineToCopyHasTheFlagsThatWereGiven(t *testing.T) {
	c := &cobra.Command{Use: "x"}
	f := c.Flags()
	f.Bool("yes", false, "")
	f.Bool("no", true, "")
	f.StringArray("set", nil, "")
	f.String("user", "", "")
	f.Int("limit", 5, "")
	if err := c.ParseFlags([]string{"--set", "a: b", "--set", "c", "--yes", "--no=false", "--user", "o'x"}); err != nil {
		t.Fatal(err)
	}
	if got, want := again(c, []string{"user"}, "--more", "1"), "x --no=false --set 'a: b' --set c --yes --more 1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// still is a progress whose clock is set by hand.
func still(s *screen) (p *progress, pass func(time.Duration)) {
	now := time.Unix(1e9, 0)
	k := &console{said: s, now: func() time.Time { return now }}
	return k.progress(0), func(d time.Duration) { now = now.Add(d) }
}

func TestProgressAtATerminal(t *testing.T) {
	to := &tty{width: 60}
	p, pass := still(newScreen(to))
	p.at(0, 0, "0 sent")
	has(t, to.String(), strings.Repeat("░", barColumns), "  0%  0 sent")
	pass(10 * time.Second)
	p.at(2500, 10000, "2,500 sent")
	has(t, to.String(), "\r\x1b[K██████░░", " 25%  2,500 sent  250/s  ETA 30s")
	drawn := len(to.String())
	p.at(2501, 10000, "2,501 sent")
	if len(to.String()) != drawn {
		t.Error("it is drawn more than 10 times a second")
	}
	for l := range strings.SplitSeq(to.String(), "\r\x1b[K") {
		if displayed(l) >= 60 {
			t.Errorf("%d columns would wrap: %s", displayed(l), l)
		}
	}
	to.width = 20
	pass(time.Second)
	p.at(5000, 10000, "5,000 sent")
	has(t, to.String(), "\r\x1b[K████████████░░░░░░…")
	p.end()
	p.end()
	if got := to.String(); strings.HasSuffix(got, "\r\x1b[K\r\x1b[K") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("it leaves %q", got)
	}
}

func TestProgressWithoutATerminal(t *testing.T) {
	var to bytes.Buffer
	p, pass := still(newScreen(&to))
	for n := range 12 {
		p.at(n*100, 10000, "x")
		pass(time.Second)
	}
	p.end()
	if got := strings.Count(to.String(), "\n"); got != 2 || strings.Contains(to.String(), "\r") || strings.Contains(to.String(), "█") {
		t.Errorf("%d lines in 12 s:\n%q", got, to.String())
	}
	has(t, to.String(), "%  x  ", "/s  ETA ")
}

func TestColoursAreForTerminalsThatWantThem(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	s := newScreen(&tty{})
	if s.paint(red, "x") != red+"x"+uncode || !s.terminal {
		t.Error("no colour at a terminal")
	}
	if newScreen(&bytes.Buffer{}).paint(red, "x") != "x" {
		t.Error("colour where no terminal is")
	}
	t.Setenv("NO_COLOR", "1")
	if newScreen(&tty{}).paint(red, "x") != "x" {
		t.Error("colour in spite of NO_COLOR")
	}
}

func TestAQuestionEndsWithTheCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	typed := make(chan struct{})
	in := reader(func([]byte) (int, error) { <-typed; return 0, context.Canceled })
	if _, err := readLine(ctx, in); err == nil {
		t.Error("a question that was left is answered")
	}
	close(typed)
}

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }
