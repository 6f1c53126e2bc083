package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// NewQuarantine is `weft quarantine`: the messages that could not be processed.
func NewQuarantine() *cobra.Command {
	c := &cobra.Command{
		Use:   "quarantine",
		Short: "List, show, send again or drop the messages that could not be processed",
		Long: `Messages that can't be processed are set aside with the reason and their original bytes, for 30 days. Each has a number,
which names it in the other commands.`,
		Example: `  weft quarantine ls
  weft quarantine show 17
  weft quarantine replay 17 --set 'Content-Type: text/plain'
  weft quarantine drop 17`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return usagef("say what to do: ls, show, replay or drop; `%s --help` shows how", c.CommandPath())
		},
	}
	c.AddCommand(newQuarantineLs(), newQuarantineShow(), newQuarantineReplay(), newQuarantineDrop())
	return Usage(c)
}

// heap is the flags that choose among quarantined messages.
type heap struct {
	tenant, to, reason string
	since, until       moment
}

// heapFlags are the names of its flags.
var heapFlags = [...]string{"tenant", "of", "reason", "since", "until"}

func (h *heap) flags(k *console) {
	h.since.now = sync.OnceValue(k.now)
	h.until.now = h.since.now
	f := k.command.Flags()
	f.StringVar(&h.tenant, "tenant", "", "only of this `tenant`")
	f.StringVar(&h.to, "of", "", "only messages to this `address`, such as user:alice")
	f.StringVar(&h.reason, "reason", "", "only with this `code`, such as bad_json")
	f.Var(&h.since, "since", "only what was set aside since then: 1h, 3d, 15:04, \"2006-01-02 15:04\" or RFC 3339")
	f.Var(&h.until, "until", "only what was set aside before then")
	complete(k.command, "reason", func() []string {
		return []string{
			string(problem.BadJSON), string(problem.BadHeader), string(problem.BadAddress), string(problem.BadEncoding), string(problem.Conflict),
			string(problem.Empty), string(problem.IDTooLong), string(problem.Poison), string(problem.TooLarge), string(problem.Unsupported),
		}
	})
}

// request is what was chosen, checked.
func (h *heap) request() (admin.QuarantineRequest, error) {
	if h.to != "" {
		if _, err := subject.ParseAddress(subject.DefaultTenant, h.to); err != nil {
			return admin.QuarantineRequest{}, usageError{err}
		}
	}
	if h.since.ms != 0 && h.until.ms != 0 && h.since.ms >= h.until.ms {
		return admin.QuarantineRequest{}, usagef("--since is not before --until: nothing can lie between")
	}
	return admin.QuarantineRequest{Tenant: h.tenant, To: h.to, Reason: problem.Code(h.reason), Since: h.since.ms, Until: h.until.ms}, nil
}

func newQuarantineLs() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List what is in quarantine, the oldest first",
		Long: `List what is in quarantine, the oldest first. Rows come in pages of --limit; the last line says how to see the next one.
With --output json it is one object {entries, next, total}.`,
		Example: `  weft quarantine ls
  weft quarantine ls --reason bad_json --since 1d
  weft quarantine ls --output json | jq -r '.entries[].number'`,
		Args: cobra.NoArgs,
	}
	k := newConsole(c)
	var h heap
	h.flags(k)
	limit := c.Flags().Int("limit", 20, "most `rows`, up to 1000")
	after := c.Flags().Uint64("after", 0, "go on after this `number`")
	c.RunE = func(c *cobra.Command, _ []string) error {
		q, err := h.request()
		if err != nil {
			return err
		}
		if *limit < 1 || *limit > mostRows {
			return usagef("--limit is 1 to %d", mostRows)
		}
		if err := k.open(); err != nil {
			return err
		}
		defer k.close()
		q.Limit, q.After = *limit, *after
		var page admin.QuarantinePage
		if err := k.ask(c.Context(), admin.QuarantineList, q, &page); err != nil {
			return err
		}
		if k.json() {
			return jsonLine(k.out, page)
		}
		return k.quarantineTable(page, *after == 0)
	}
	return Usage(c)
}

func (k *console) quarantineTable(page admin.QuarantinePage, first bool) error {
	if len(page.Entries) == 0 && page.Next == 0 {
		return line(k.out, "Nothing is in quarantine that matches.")
	}
	if first && page.Total > 0 {
		if err := line(k.out, "%s in quarantine", k.out.paint(bold, many(page.Total, "message"))); err != nil {
			return err
		}
	}
	now := k.now()
	t := &table{columns: []column{
		{title: "NUMBER", right: true, code: in(bold)},
		{title: "SET ASIDE", code: in(dim)},
		{title: "TENANT", cut: true},
		{title: "TO", cut: true, code: in(green)},
		{title: "ID", cut: true},
		{title: "BYTES", right: true, code: in(dim)},
		{title: "REASON", code: in(yellow)},
		{title: "WHAT WAS WRONG", last: true},
	}}
	foreign := slices.ContainsFunc(page.Entries, func(e admin.Quarantined) bool { return e.Tenant != subject.DefaultTenant })
	for _, e := range page.Entries {
		tenant, to := "", e.To
		if foreign {
			tenant = e.Tenant
		}
		if to == "" {
			to = e.Subject
		}
		t.row(strconv.FormatUint(e.Number, 10), clock(e.At, now), tenant, to, e.ID, sized1000(e.Size), string(e.Reason), e.Message)
	}
	if err := t.write(k.out); err != nil {
		return err
	}
	if page.Next != 0 {
		k.say("next page: %s", again(k.command, []string{"after"}, "--after", strconv.FormatUint(page.Next, 10)))
	}
	return nil
}

func newQuarantineShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show NUMBER",
		Short: "Show a message in quarantine as it came, with its headers and its payload",
		Long: `Show a message in quarantine as it came, with its headers and its payload. With --output json the payload is base64;
--raw prints nothing but its bytes.`,
		Example: `  weft quarantine show 17
  weft quarantine show 17 --raw > payload.bin`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	k := newConsole(c)
	raw := c.Flags().Bool("raw", false, "only the payload, byte for byte")
	c.RunE = func(c *cobra.Command, args []string) error {
		numbers, err := readNumbers(args)
		if err != nil {
			return err
		}
		if err := k.open(); err != nil {
			return err
		}
		defer k.close()
		var entry admin.Quarantined
		if err := k.ask(c.Context(), admin.QuarantineShow, admin.QuarantineOne{Number: numbers[0]}, &entry); err != nil {
			return err
		}
		switch {
		case *raw:
			if _, err := k.out.Write(entry.Payload); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			return nil
		case k.json():
			return jsonLine(k.out, entry)
		}
		return k.quarantined(entry)
	}
	return Usage(c)
}

// quarantined prints one message for a person.
func (k *console) quarantined(e admin.Quarantined) error {
	now := k.now()
	facts := [][2]string{
		{"number", strconv.FormatUint(e.Number, 10)},
		{"set aside", clock(e.At, now) + ", " + age(e.At, now) + " ago"},
		{"reason", string(e.Reason)},
		{"", e.Message},
		{"field", e.Field},
		{"tenant", e.Tenant},
		{"to", e.To},
		{"subject", e.Subject},
		{"id", e.ID},
	}
	for _, fact := range facts {
		if fact[1] == "" {
			continue
		}
		if err := line(k.out, "%s  %s", k.out.paint(dim, fmt.Sprintf("%-9s", fact[0])), plain(fact[1])); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		for _, value := range e.Header[name] {
			if err := line(k.out, "%s  %s: %s", k.out.paint(dim, fmt.Sprintf("%-9s", "header")), plain(name), plain(value)); err != nil {
				return err
			}
		}
	}
	if err := line(k.out, "%s  %s", k.out.paint(dim, fmt.Sprintf("%-9s", "payload")), many(e.Size, "byte")); err != nil {
		return err
	}
	return k.payload(e.Payload)
}

// payload prints a payload: JSON indented, other text as it is, of bytes the beginning in hexadecimal.
func (k *console) payload(data []byte) error {
	var pretty bytes.Buffer
	text := string(data)
	switch {
	case len(data) == 0:
		return nil
	case json.Indent(&pretty, data, "", "  ") == nil:
		text = pretty.String()
	case !utf8.Valid(data):
		return line(k.out, "%s", strings.TrimRight(dump(data), "\n"))
	}
	for l := range strings.Lines(text) {
		if err := line(k.out, "%s", plain(strings.TrimRight(l, "\r\n"))); err != nil {
			return err
		}
	}
	return nil
}

// dumped is the most bytes that are shown in hexadecimal.
const dumped = 512

func dump(data []byte) string {
	var b strings.Builder
	for at := 0; at < min(len(data), dumped); at += 16 {
		row := data[at:min(at+16, len(data), dumped)]
		letters := bytes.Map(func(r rune) rune {
			if r < 0x20 || r > 0x7e {
				return '.'
			}
			return r
		}, bytes.ToValidUTF8(row, []byte(".")))
		fmt.Fprintf(&b, "%06x  %-47s  %s\n", at, fmt.Sprintf("% x", row), letters)
	}
	if len(data) > dumped {
		fmt.Fprintf(&b, "… and %s more; --raw prints all", many(len(data)-dumped, "byte"))
	}
	return b.String()
}

// readNumbers reads the numbers of messages.
func readNumbers(args []string) ([]uint64, error) {
	numbers := make([]uint64, len(args))
	for i, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || n == 0 {
			return nil, usagef("%q is no number of a message in quarantine; `weft quarantine ls` shows them", arg)
		}
		numbers[i] = n
	}
	return numbers, nil
}

// total is how many messages in quarantine match.
func (k *console) total(ctx context.Context, q admin.QuarantineRequest) (int, error) {
	q.Limit = 1
	var page admin.QuarantinePage
	err := k.ask(ctx, admin.QuarantineList, q, &page)
	return page.Total, err
}
