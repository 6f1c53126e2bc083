// Package cli is the commands for people: token, pub and listen for those who use a fabric, and the operators'. Each finds
// the fabric that runs on this machine through its manifest, and takes flags for one that runs elsewhere.
//
// Results go to standard output, everything else to standard error. An error that the fabric answered with begins
// with its stable code.
//
// An operators' command is a function NewX() *cobra.Command on this frame:
//
//   - newConsole(c) puts --nats, --context, --data, --timeout and --output on the command; changes() adds --note to one that
//     changes something. In RunE: open() checks them and connects, close() ends it.
//   - ask and askPatiently (again for 30 s while services move) put a question to shared/admin's endpoints that any collect
//     answers; errors say what is missing. rpc.Gather asks all (nodes, check). by() is who asks, for admin.By.
//   - out and said are the screens of standard output and error: terminal or not, width, colours. line(out, …) and jsonLine
//     write results; say(…) writes to the person. json() chooses.
//   - table aligns columns and cuts what is marked so for narrow terminals; clock, age, lasting, sized1000, many and thousands
//     write times and numbers; plain makes what strangers wrote safe.
//   - moment is a flag that takes a time; selection the filter's flags; complete gives a flag its values.
//   - confirmed asks at a terminal, progress shows a bar, again is the command line to copy, and a *partlyError that holds it
//     ends with exit code 3.
package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/manifest"
)

// Exit codes.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
	ExitPartly = 3 // the error says how to go on
)

// usageError is an error of the command line itself: nothing was tried.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// ExitCode is the exit code that goes with a command's error.
func ExitCode(err error) int {
	var usage usageError
	var partly *partlyError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &partly):
		return ExitPartly
	default:
		return ExitFailed
	}
}

// Usage makes the errors that cobra finds in arguments and flags usage errors, with the way to the help.
func Usage(c *cobra.Command) *cobra.Command {
	hint := func(err error) error { return usagef("%w; `%s --help` shows how", err, c.CommandPath()) }
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return hint(err) })
	c.SuggestionsMinimumDistance = 2
	check := c.Args
	if c.ValidArgsFunction == nil && !c.HasSubCommands() && check(c, nil) == nil {
		c.ValidArgsFunction = cobra.NoFileCompletions // it takes none
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err == nil {
			return nil
		}
		if len(args) > 0 && check(c, nil) == nil { // it takes none
			err = fmt.Errorf("there is no argument %q to take", args[0])
			if c.HasSubCommands() {
				err = fmt.Errorf("there is no command %q", c.CommandPath()+" "+args[0])
				if like := c.SuggestionsFor(args[0]); len(like) > 0 {
					err = fmt.Errorf("%w; is `%s %s` meant?", err, c.CommandPath(), strings.Join(like, "` or `"+c.CommandPath()+" "))
				}
			}
		}
		return hint(err)
	}
	return c
}

// one is the check of a command that takes one argument: what it is called, and what it is.
func one(name, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || args[0] == "":
			return fmt.Errorf("%s is missing: %s", name, what)
		case len(args) > 1:
			return fmt.Errorf("one %s is taken, not %d; quote one that has spaces", name, len(args))
		}
		return nil
	}
}

// fabric is the flags by which a command finds a fabric.
type fabric struct{ data string }

func (f *fabric) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.data, "data", ".weft", "data `folder` of the fabric on this machine")
}

// running is the manifest of the fabric; instead is the flag that does without one.
func (f *fabric) running(instead string) (manifest.Manifest, error) {
	m, err := manifest.Read(f.data)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("no fabric runs in %s; start one with `weft dev`, name its folder with --data, or use %s", f.data, instead)
	}
	return m, err
}

// key is a key of the fabric that can sign; where there is none yet it makes one.
func (f *fabric) key() (auth.Key, error) {
	keys := filepath.Join(f.data, "keys")
	if m, err := manifest.Read(f.data); err == nil && m.Keys != "" {
		keys = m.Keys
	}
	return auth.LoadOrCreateKey(keys)
}

// output is the flag that chooses between people and machines.
type output string

const (
	forPeople   output = "text"
	forMachines output = "json"
)

func (o *output) flags(c *cobra.Command) {
	*o = forPeople
	c.Flags().StringVar((*string)(o), "output", string(forPeople), "`text` for people or json for programs")
	complete(c, "output", func() []string { return []string{string(forPeople), string(forMachines)} })
}

func (o *output) check() error {
	if *o != forPeople && *o != forMachines {
		return usagef("--output is text or json, not %q", string(*o))
	}
	return nil
}

// line writes one line; a standard output that nobody reads any more ends the command.
func line(w io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(w, format+"\n", args...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
