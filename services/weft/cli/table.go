package cli

import (
	"maps"
	"slices"
	"strings"
)

// column is one column of a table.
type column struct {
	title string
	right bool // numbers
	cut   bool // may be cut in the middle when the terminal is narrow: ids, types
	last  bool // a sentence: may be cut at its end
	wrap  bool // a sentence that must be read whole: goes on below itself
	spare int  // above 0: left out of a terminal that is too narrow for all, the highest first
	// code is the colour of a cell; nil for none.
	code func(text string) string
}

func (c *column) sentence() bool { return c.last || c.wrap }

// in colours all cells of a column.
func in(code string) func(string) string { return func(string) string { return code } }

// table is rows of text that are aligned when they are written. Cells may hold what strangers wrote.
type table struct {
	columns []column
	rows    [][]string
}

const (
	// leastColumns is what a column is never cut below.
	leastColumns = 8
	// sentence is how much of a sentence is kept while ids can be cut instead.
	sentence = 32
)

func (t *table) row(cells ...string) {
	for i, text := range cells {
		cells[i] = plain(text)
	}
	t.rows = append(t.rows, cells)
}

// write prints the titles and the rows; nothing at all without rows. Columns that are empty everywhere are left out.
func (t *table) write(s *screen) error {
	if len(t.rows) == 0 {
		return nil
	}
	t.dropEmpty()
	widths := t.fit(s.columns())
	for t.dropSpare(s.columns(), widths) {
		widths = t.fit(s.columns())
	}
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	if err := line(s, "%s", t.line(s, titles, widths, true)); err != nil {
		return err
	}
	for _, row := range t.rows {
		for _, part := range t.wrapped(row, widths) {
			if err := line(s, "%s", t.line(s, part, widths, false)); err != nil {
				return err
			}
		}
	}
	return nil
}

// wrapped is a row as one or more, the second and the next with what did not fit of sentences that must be read whole.
func (t *table) wrapped(row []string, widths []int) [][]string {
	rows := [][]string{slices.Clone(row)}
	for i, c := range t.columns {
		if !c.wrap {
			continue
		}
		for n, part := range wrapped(row[i], widths[i]) {
			if n == len(rows) {
				rows = append(rows, make([]string, len(row)))
			}
			rows[n][i] = part
		}
	}
	return rows
}

// wrapped breaks text between words into lines of at most so many columns. A word that is longer stands on a line of its
// own, whole: ids are to be copied.
func wrapped(text string, columns int) []string {
	var lines []string
	now := ""
	for word := range strings.SplitSeq(text, " ") {
		if now != "" && displayed(now)+1+displayed(word) > columns {
			lines = append(lines, now)
			now = word
			continue
		}
		if now != "" {
			now += " "
		}
		now += word
	}
	return append(lines, now)
}

// line is one row, without spaces at its end.
func (t *table) line(s *screen, row []string, widths []int, title bool) string {
	var b strings.Builder
	gap := 0
	for i, c := range t.columns {
		text := row[i]
		if c.cut {
			text = shorten(text, widths[i])
		} else if c.last {
			text = clipped(text, widths[i])
		}
		full := padded(text, widths[i], c.right)
		bare := strings.TrimRight(full, " ")
		if bare != "" {
			b.WriteString(strings.Repeat(" ", gap))
			gap = 0
			code := dim
			if !title {
				code = ""
				if c.code != nil {
					code = c.code(row[i])
				}
			}
			b.WriteString(s.paint(code, bare))
		}
		gap += displayed(full) - displayed(bare) + 2
	}
	return b.String()
}

// fit is the width of each column in a terminal of so many columns; 0: as wide as the text is.
func (t *table) fit(columns int) []int {
	widths := make([]int, len(t.columns))
	total := 2 * (len(t.columns) - 1)
	for i, c := range t.columns {
		widths[i] = displayed(c.title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], displayed(row[i]))
		}
		total += widths[i]
	}
	// A last column of sentences gives way first, to where its beginning can still be read; then ids and types, the widest
	// first; then the rest of the sentence.
	for _, may := range []func(i int) bool{
		func(i int) bool { return t.columns[i].sentence() && widths[i] > sentence },
		func(i int) bool { return t.columns[i].cut && widths[i] > leastColumns },
		func(i int) bool { return t.columns[i].sentence() && widths[i] > leastColumns },
	} {
		for columns > 0 && total > columns {
			widest := -1
			for i := range t.columns {
				if may(i) && (widest < 0 || widths[i] > widths[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				break
			}
			widths[widest]--
			total--
		}
	}
	return widths
}

// dropEmpty removes the columns in which no row has anything.
func (t *table) dropEmpty() {
	for i := range slices.Backward(t.columns) {
		empty := true
		for _, row := range t.rows {
			empty = empty && row[i] == ""
		}
		if empty {
			t.drop(i)
		}
	}
}

// dropSpare removes the column that can best be done without, if the table is too wide for a terminal of so many columns; 0:
// nothing is too wide.
func (t *table) dropSpare(columns int, widths []int) bool {
	total := 2 * (len(widths) - 1)
	for _, width := range widths {
		total += width
	}
	least := -1
	for i, c := range t.columns {
		if c.spare > 0 && (least < 0 || c.spare > t.columns[least].spare) {
			least = i
		}
	}
	if columns == 0 || total <= columns || least < 0 {
		return false
	}
	t.drop(least)
	return true
}

// drop removes a column.
func (t *table) drop(i int) {
	t.columns = append(t.columns[:i:i], t.columns[i+1:]...)
	for n, row := range t.rows {
		t.rows[n] = append(row[:i:i], row[i+1:]...)
	}
}

// clipped cuts text at its end to at most so many columns.
func clipped(text string, columns int) string {
	if displayed(text) <= columns {
		return text
	}
	width := 0
	for i, r := range text {
		if width += runeColumns(r); width > columns-1 {
			return text[:i] + "…"
		}
	}
	return text
}

// sortedKeys are the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
