package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/weft/doctor"
)

// examination bounds all that the doctor looks at.
const examination = 2 * time.Minute

// errUnwell is that something does not work; what has been printed.
var errUnwell = errors.New("something does not work; what to do is written above")

// NewDoctor is `weft doctor`: is the fabric well?
func NewDoctor() *cobra.Command {
	options := doctor.Options{Durability: doctor.Process}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check NATS, streams, owners, archive, Redis, nodes and clocks, and say what to do",
		Long: `Check what a fabric needs, and say what to do: the server's mapping of the stream door, each stream and consumer, whether a
living collect and dispatch has each partition, the archive and Redis as each collect sees them, push nodes, auth, clocks. It
changes nothing.

--durability says what *accepted* has to survive. How often the servers sync they tell only on their monitoring port.

The exit code is 1 if something does not work. Warnings do not change it.`,
		Example: `  weft doctor
  weft doctor --durability power --monitor http://127.0.0.1:8222
  weft doctor --output json | jq '.[] | select(.level != "ok")'`,
		Args: cobra.NoArgs,
	}
	k := newConsole(c)
	c.Flags().StringVar((*string)(&options.Durability), "durability", string(doctor.Process), "what accepted messages have to survive: `process` or power")
	c.Flags().StringArrayVar(&options.Monitors, "monitor", nil, "`URL` of a server's monitoring; may be given again")
	complete(c, "durability", func() []string {
		return []string{"process\tthe death of processes", "power\ta power failure of all machines at once"}
	})
	c.RunE = func(c *cobra.Command, _ []string) error {
		if options.Durability != doctor.Process && options.Durability != doctor.Power {
			return usagef("--durability is process or power, not %q", string(options.Durability))
		}
		if err := k.open(); err != nil {
			return err
		}
		defer k.close()
		ctx, cancel := context.WithTimeout(c.Context(), examination)
		defer cancel()
		findings, err := doctor.Examine(ctx, k.nc, options)
		if err != nil {
			return err
		}
		return k.showFindings(findings)
	}
	return Usage(c)
}

// showFindings prints what was found; its error says that something does not work.
func (k *console) showFindings(findings []doctor.Finding) error {
	counts := map[doctor.Level]int{}
	for _, f := range findings {
		counts[f.Level]++
	}
	err := k.eachFinding(findings)
	if err == nil && !k.json() {
		err = line(k.out, "\n%d ok, %s, %d unknown, %s", counts[doctor.OK], many(counts[doctor.Warning], "warning"), counts[doctor.Unknown], many(counts[doctor.Failure], "failure"))
	}
	if err == nil && counts[doctor.Failure] > 0 {
		return errUnwell
	}
	return err
}

func (k *console) eachFinding(findings []doctor.Finding) error {
	if k.json() {
		return jsonLine(k.out, findings)
	}
	colours := map[doctor.Level]string{doctor.OK: green, doctor.Unknown: yellow, doctor.Warning: yellow, doctor.Failure: red}
	for _, f := range findings {
		start := fmt.Sprintf("%s  %-10s  ", k.out.paint(colours[f.Level], fmt.Sprintf("%-7s", f.Level)), f.Area)
		if err := k.hanging(start, plain(f.What)); err != nil {
			return err
		}
		if f.Remedy == "" {
			continue
		}
		if err := k.hanging(strings.Repeat(" ", whatColumn-2)+k.out.paint(bold, "→")+" ", plain(f.Remedy)); err != nil {
			return err
		}
	}
	return nil
}

// whatColumn is where the sentences begin.
const whatColumn = 21

// hanging prints start, which takes whatColumn columns, and text after it, that goes on below itself.
func (k *console) hanging(start, text string) error {
	columns := k.out.columns() - whatColumn
	if columns < leastColumns {
		return line(k.out, "%s%s", start, text)
	}
	for _, part := range wrapped(text, columns) {
		if err := line(k.out, "%s%s", start, part); err != nil {
			return err
		}
		start = strings.Repeat(" ", whatColumn)
	}
	return nil
}
