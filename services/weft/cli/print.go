package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weftpush/weft/shared/client"
)

// The colours of a line, for terminals.
const (
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	green  = "\x1b[32m"
	uncode = "\x1b[0m"
)

// printer is how messages are shown to whoever reads w.
func printer(o output, w io.Writer) func(client.Message, time.Time) error {
	if o == forMachines {
		return func(m client.Message, now time.Time) error { return jsonLine(w, record(m, now)) }
	}
	colour := Terminal(w)
	return func(m client.Message, now time.Time) error { return line(w, "%s", text(m, now, colour)) }
}

// Terminal says whether w is a terminal that wants colours (https://no-color.org).
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// shown is a message as one JSON object. Data is the payload without its white space, where it is JSON; Data64 has
// all other payloads, byte for byte.
type shown struct {
	Address     string          `json:"address"`
	Seq         uint64          `json:"seq"`
	ID          string          `json:"id"`
	Type        string          `json:"type,omitempty"`
	ContentType string          `json:"content_type"`
	At          int64           `json:"at"`         // ms since 1970
	Latency     float64         `json:"latency_ms"` // from acceptance to here, by two clocks
	Again       bool            `json:"re,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	Data64      []byte          `json:"data64,omitempty"`
}

func record(m client.Message, now time.Time) shown {
	s := shown{
		Address: m.Address, Seq: m.Seq, ID: m.ID, Type: m.Type, ContentType: m.ContentType, At: m.At.UnixMilli(), Again: m.Again,
		Latency: float64(now.Sub(m.At).Microseconds()) / 1000,
	}
	if json.Valid(m.Data) {
		s.Data = m.Data
	} else {
		s.Data64 = m.Data
	}
	return s
}

// text is a message as one line for a person.
func text(m client.Message, now time.Time, colour bool) string {
	paint := func(code, s string) string {
		if !colour || s == "" {
			return s
		}
		return code + s + uncode
	}
	parts := []string{paint(bold, fmt.Sprintf("%6d", m.Seq)), paint(green, plain(m.Address))}
	if m.Type != "" {
		parts = append(parts, plain(m.Type))
	}
	if m.Again {
		parts = append(parts, "again")
	}
	latency := now.Sub(m.At).Round(time.Millisecond)
	parts = append(parts, paint(dim, m.At.Format("15:04:05.000")), paint(dim, latency.String()), payload(m))
	return strings.Join(parts, "  ")
}

// payload is a payload on one line: JSON without white space, other text as it is, and of bytes only how many.
func payload(m client.Message) string {
	var compact bytes.Buffer
	if json.Compact(&compact, m.Data) == nil {
		return plain(compact.String())
	}
	if !utf8.Valid(m.Data) {
		return fmt.Sprintf("(%d bytes of %s)", len(m.Data), plain(m.ContentType))
	}
	return plain(string(m.Data))
}

// plain makes text safe to show: what a stranger published must not move the cursor of a terminal or forge a line.
func plain(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }
