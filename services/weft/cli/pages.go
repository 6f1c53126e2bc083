package cli

import (
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftpush/weft/shared/admin"
)

// partlyError is a change that was made in part; next is the command line that goes on, empty if nothing more can be done.
type partlyError struct {
	err  error
	next string
}

func (p *partlyError) Error() string {
	if p.next == "" {
		return p.err.Error()
	}
	return fmt.Sprintf("%v; go on with:\n  %s", p.err, p.next)
}

func (p *partlyError) Unwrap() error { return p.err }

// again is a command line for people to copy: the command with the flags that it was given, but for those in without, and
// then more.
func again(c *cobra.Command, without []string, more ...string) string {
	words := []string{c.CommandPath()}
	skip := map[string]bool{}
	for _, name := range without {
		skip[name] = true
	}
	c.Flags().Visit(func(f *pflag.Flag) {
		if skip[f.Name] {
			return
		}
		switch v := f.Value.(type) {
		case pflag.SliceValue:
			for _, one := range v.GetSlice() {
				words = append(words, "--"+f.Name, quoted(one))
			}
		default:
			switch {
			case f.Value.Type() != "bool":
				words = append(words, "--"+f.Name, quoted(v.String()))
			case v.String() == "true":
				words = append(words, "--"+f.Name)
			default:
				words = append(words, "--"+f.Name+"="+v.String())
			}
		}
	})
	for _, word := range more {
		words = append(words, quoted(word))
	}
	return strings.Join(words, " ")
}

// quoted is a word as a shell reads it. What can't be shown is written as bash's $'…' reads it.
func quoted(word string) string {
	bare := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("-_.:/@%+,=", r)
	}
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return !bare(r) }) {
		return word
	}
	if !strings.ContainsFunc(word, hidden) {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for i := range len(word) {
		if c := word[i]; c < 0x20 || c >= 0x7f || c == '\'' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return "$'" + b.String() + "'"
}

// selection is the flags of commands that choose messages.
type selection struct {
	admin.Filter

	since, until moment
}

func (s *selection) flags(k *console) {
	s.since.now = sync.OnceValue(k.now)
	s.until.now = s.since.now
	f := k.command.Flags()
	f.StringVar(&s.Tenant, "tenant", "", "only this `tenant`; all if it is not given")
	f.StringVar(&s.User, "user", "", "only this `user`")
	f.StringVar(&s.Topic, "topic", "", "this `topic` instead of users' mailboxes")
	f.StringVar(&s.Device, "device", "", "of --user: what this `device` has not acknowledged, whatever the others did")
	f.StringVar(&s.Type, "type", "", "only messages of this `type`, such as order.shipped")
	f.Var(&s.since, "since", "only what was archived since then: 1h, 3d, 15:04, \"2006-01-02 15:04\" or RFC 3339")
	f.Var(&s.until, "until", "only what was archived before then")
	f.StringVar((*string)(&s.Reason), "reason", "", "only messages that wait for this `reason`: away, held or nobody")
	complete(k.command, "reason", func() []string {
		return []string{
			"away\tno device of the user is connected",
			"held\ta device is connected and has not acknowledged it",
			"nobody\tthe user never had a device",
		}
	})
}

// filter is what was chosen, checked.
func (s *selection) filter() (admin.Filter, error) {
	s.Since, s.Until = s.since.ms, s.until.ms
	switch s.Reason {
	case "", admin.ReasonAway, admin.ReasonHeld, admin.ReasonNobody:
	default:
		return s.Filter, usagef("--reason is away, held or nobody, not %q", string(s.Reason))
	}
	switch {
	case s.Device != "" && s.User == "":
		return s.Filter, usagef("--device means a device of a user: say which with --user")
	case s.User != "" && s.Topic != "":
		return s.Filter, usagef("--user and --topic are two kinds of mailbox: give one of them")
	case s.Topic != "" && s.Reason != "":
		return s.Filter, usagef("--reason is about users: a topic has none")
	case s.Since != 0 && s.Until != 0 && s.Since >= s.Until:
		return s.Filter, usagef("--since is not before --until: nothing can lie between")
	}
	return s.Filter, nil
}

// complete gives a flag its values for shell completion; a tab parts a value from what it means.
func complete(c *cobra.Command, flag string, values func() []string) {
	// The only error is that there is no such flag, or that it has values already.
	_ = c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	})
}
