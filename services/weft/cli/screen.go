package cli

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// More colours of a line, for terminals.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
)

// screen is where a command prints, and what is known of it. What is no terminal has no width: nothing is cut for it.
type screen struct {
	io.Writer
	terminal bool
	colour   bool
	columns  func() int // the terminal's width right now; 0 if it is not known
	drawn    bool       // a progress bar is on the last line
}

// sized is a terminal that is no file: tests have one.
type sized interface{ Columns() int }

func newScreen(w io.Writer) *screen {
	s := &screen{Writer: w, columns: func() int { return 0 }}
	if t, ok := w.(sized); ok {
		s.terminal, s.columns = true, t.Columns
		s.colour = os.Getenv("NO_COLOR") == ""
		return s
	}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.terminal, s.colour = true, Terminal(w) && os.Getenv("TERM") != "dumb"
	s.columns = func() int {
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0
		}
		return width
	}
	return s
}

// terminal says whether somebody sits at r.
func terminal(r io.Reader) bool {
	if _, ok := r.(sized); ok {
		return true
	}
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// paint colours text where that is wanted.
func (s *screen) paint(code, text string) string {
	if !s.colour || code == "" || text == "" {
		return text
	}
	return code + text + uncode
}

// clear removes a progress bar from the last line, so that a line can be written there.
func (s *screen) clear() {
	if s.drawn {
		_, _ = io.WriteString(s.Writer, "\r\x1b[K")
		s.drawn = false
	}
}

// displayed is how many columns of a terminal text takes, which has gone through plain.
func displayed(text string) (columns int) {
	for _, r := range text {
		columns += runeColumns(r)
	}
	return columns
}

func runeColumns(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && unicode.Is(wide, r):
		return 2
	}
	return 1
}

// wide are the characters that take two columns, but for rare ones.
var wide = &unicode.RangeTable{ //nolint:gochecknoglobals // a table
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1},
		{0x2e80, 0x303e, 1},
		{0x3041, 0x4dbf, 1},
		{0x4e00, 0xa4cf, 1},
		{0xa960, 0xa97c, 1},
		{0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1},
		{0xfe30, 0xfe6f, 1},
		{0xff00, 0xff60, 1},
		{0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x1f300, 0x1f64f, 1}, {0x1f680, 0x1f6ff, 1}, {0x1f900, 0x1f9ff, 1}, {0x20000, 0x3fffd, 1}},
}

// shorten cuts text in the middle to at most so many columns: the ends of an id tell more than its middle.
func shorten(text string, columns int) string {
	if displayed(text) <= columns {
		return text
	}
	if columns < 1 {
		return ""
	}
	runes := []rune(text)
	tail := (columns - 1) / 2
	head := columns - 1 - tail
	from, to := 0, len(runes)
	for w := 0; from < to && w+runeColumns(runes[from]) <= head; from++ {
		w += runeColumns(runes[from])
	}
	for w := 0; to > from && w+runeColumns(runes[to-1]) <= tail; to-- {
		w += runeColumns(runes[to-1])
	}
	for to < len(runes) && runeColumns(runes[to]) == 0 { // a mark without its letter
		to++
	}
	return string(runes[:from]) + "…" + string(runes[to:])
}

// padded fills text up with spaces to so many columns.
func padded(text string, columns int, right bool) string {
	fill := strings.Repeat(" ", max(columns-displayed(text), 0))
	if right {
		return fill + text
	}
	return text + fill
}
