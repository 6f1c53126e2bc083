package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// clock is a time of the API (ms since 1970) for a person: local time of day, with the date if that is not today. 0 is
// nothing.
func clock(ms int64, now time.Time) string {
	if ms == 0 {
		return ""
	}
	t := time.UnixMilli(ms).In(now.Location())
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// age is how long ago a time of the API was: 850ms, 12s, 3m12s, 4h07m, 3d05h. 0 is nothing.
func age(ms int64, now time.Time) string {
	if ms == 0 {
		return ""
	}
	return lasting(now.Sub(time.UnixMilli(ms)))
}

// lasting is a duration in at most two units. Clocks differ a little: less than nothing is nothing.
func lasting(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// moment is a flag that takes a time: how long ago (90s, 1h30m, 3d, 2w), a day, a day with a time, or RFC 3339.
type moment struct {
	ms  int64 // since 1970; 0 if it was not given
	now func() time.Time
}

// Set reads it, in local time where no zone is said.
func (m *moment) Set(text string) error {
	t, err := readMoment(text, m.now())
	m.ms = t.UnixMilli()
	return err
}

// String is the time as Set reads it again, exactly.
func (m *moment) String() string {
	if m.ms == 0 {
		return ""
	}
	return time.UnixMilli(m.ms).UTC().Format("2006-01-02T15:04:05.999Z07:00")
}

// Type is what the help calls it.
func (m *moment) Type() string { return "time" }

func readMoment(text string, now time.Time) (time.Time, error) {
	if ago, ok := readAgo(text); ok {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write how long ago (90s, 1h30m, 3d), 15:04, \"2006-01-02 15:04\", or 2006-01-02T15:04:05Z", text)
}

// readAgo reads a duration that may begin with weeks and days.
func readAgo(text string) (time.Duration, bool) {
	parts := regexp.MustCompile(`^(?:(\d{1,4})w)?(?:(\d{1,5})d)?(.*)$`).FindStringSubmatch(text)
	if parts == nil || text == "" {
		return 0, false
	}
	var sum time.Duration
	for i, unit := range []time.Duration{7 * 24 * time.Hour, 24 * time.Hour} {
		n, err := strconv.Atoi(parts[i+1])
		if err == nil {
			sum += time.Duration(n) * unit
		}
	}
	if parts[3] == "" {
		return sum, true
	}
	rest, err := time.ParseDuration(parts[3])
	if err != nil || strings.HasPrefix(parts[3], "-") || strings.HasPrefix(parts[3], "+") {
		return 0, false
	}
	return sum + rest, true
}

// sized1000 is a size for a person: 312, 4.1k, 2.5M.
func sized1000(n int) string {
	for _, unit := range []struct {
		size   int
		letter string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= unit.size {
			return strings.TrimSuffix(strconv.FormatFloat(float64(n)/float64(unit.size), 'f', 1, 64), ".0") + unit.letter
		}
	}
	return strconv.Itoa(n)
}

// many is a count with its noun: 1 message, 12,345 messages.
func many(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	for _, es := range []string{"ss", "s", "x", "ch"} {
		if strings.HasSuffix(one, es) {
			return thousands(n) + " " + one + "es"
		}
	}
	return thousands(n) + " " + one + "s"
}

// thousands writes a number with commas.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
