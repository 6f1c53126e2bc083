// Command chaos judges Weft: it starts Weft as separate processes on this machine, publishes and receives through the
// public doors only, breaks everything that can be broken, and gives a verdict from what it recorded. Valid means that
// nothing acknowledged was lost, doubled, reordered or late at any device, and that the books balance (weft audit). It needs redis-server on PATH, builds
// nats-server if there is none, and as root can fill disks as well.
//
//	go run ./services/weft/cmd/chaos                                     3 minutes on one nats-server
//	go run ./services/weft/cmd/chaos -form long -kills 200 -messages 300000
//	go run ./services/weft/cmd/chaos -drills                             the figures that were promised, nothing random
//	go run ./services/weft/cmd/chaos -faults kill,redis-flush -for 1m -seed 7 -out run
//	go run ./services/weft/cmd/chaos -judge run                          the verdict once more, from the history
//
// Exit codes: 0 valid; 1 invalid, or it could not run; 2 inconclusive, or a wrong command line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weftpush/weft/services/weft/chaos/verdict"
	"github.com/weftpush/weft/services/weft/chaos/world"
	"github.com/weftpush/weft/services/weft/command"
)

// name is how the command is called in what it prints.
const name = "go run ./services/weft/cmd/chaos"

// noFaults is what -faults says for none.
const noFaults = "none"

// options is the command line.
type options struct {
	form     string
	seed     uint64
	length   time.Duration
	kills    int
	messages int
	faults   string
	pause    time.Duration
	rate     float64
	users    int
	crowd    int
	writers  int
	ttl      time.Duration
	late     time.Duration
	archive  string
	out      string
	judge    string
	drills   bool
	json     bool
	env      []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "run" { // the world's processes are this same program
		os.Exit(command.Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	code, err := o.run(ctx, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	os.Exit(code)
}

// parse reads the command line. What is wrong with the flags themselves it has said already.
func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	fs := flag.NewFlagSet("chaos", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.form, "form", string(world.CI), "`size` of the world: ci is one nats-server and two of each service; long is three, three (two dispatches), and three replicas")
	fs.Uint64Var(&o.seed, "seed", 0, "`number` from which everything random is made; 0 for any")
	fs.DurationVar(&o.length, "for", 100*time.Second, "how long faults are injected, unless -kills says how many")
	fs.IntVar(&o.kills, "kills", 0, "inject faults until so many processes were killed by kill -9")
	fs.IntVar(&o.messages, "messages", 0, "go on publishing until so many messages were acknowledged")
	fs.StringVar(&o.faults, "faults", "", "faults to inject, separated by commas, or none; all if it is not given: "+strings.Join(world.Names(), ", "))
	fs.DurationVar(&o.pause, "pause", 3*time.Second, "most time between two faults")
	fs.Float64Var(&o.rate, "rate", 200, "messages a second")
	fs.IntVar(&o.users, "users", 0, "users, each with two devices; 0 for 20, or 40 in the long form")
	fs.IntVar(&o.crowd, "crowd", 0, "light clients besides the users, for storms and drills; 0 for 500, or 2000 in the long form and for drills")
	fs.IntVar(&o.writers, "writers", 8, "writers, each publishing to every user")
	fs.DurationVar(&o.ttl, "ttl", 0, "messages for the last user expire after this; 0 for never")
	fs.DurationVar(&o.late, "late", 15*time.Second, "a message that takes longer although nothing is broken is late")
	fs.StringVar(&o.archive, "archive", "", "MongoDB `URI` with the database's name; SQLite if it is not given")
	fs.StringVar(&o.out, "out", "", "`folder` for history and logs; without it they are kept only after a failure")
	fs.StringVar(&o.judge, "judge", "", "judge the history in this `folder` once more, and run nothing")
	fs.BoolVar(&o.drills, "drills", false, "run the drills with a crowd of 2,000, instead of random faults")
	fs.BoolVar(&o.json, "json", false, "print the result as JSON")
	fs.Func("env", "`NAME=value` for the environment of all services; may be given several times", func(s string) error {
		if !strings.Contains(s, "=") {
			return fmt.Errorf("%q is not NAME=value", s)
		}
		o.env = append(o.env, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q is too much; chaos -h shows the flags", fs.Arg(0))
	}
	for f := range strings.SplitSeq(o.faults, ",") {
		if f != "" && f != noFaults && !slices.Contains(world.Names(), f) {
			return nil, fmt.Errorf("there is no fault %q; there are %s, or %s", f, strings.Join(world.Names(), ", "), noFaults)
		}
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32()) //nolint:gosec // any number does, and it is printed
	}
	o.users = o.size(o.users, 20, 40)
	if o.drills && o.crowd == 0 {
		o.crowd = drillCrowd
	}
	o.crowd = o.size(o.crowd, 500, 2000)
	return &o, nil
}

// size is n, or if that is 0 the size that fits the form.
func (o *options) size(n, small, large int) int {
	switch {
	case n > 0:
		return n
	case o.form == string(world.Long):
		return large
	default:
		return small
	}
}

// run does what was asked for and returns the exit code.
func (o *options) run(ctx context.Context, stdout, stderr io.Writer) (int, error) {
	folder := o.judge
	var broken error // what was promised to the crowd or of the books, which is not in the history
	if folder == "" {
		var err error
		if folder, err = o.folder(); err != nil {
			return 1, err
		}
		if o.drills {
			return o.drill(ctx, folder, stdout, stderr)
		}
		broken = o.play(ctx, folder, stderr)
		if broken != nil && !errors.Is(broken, errCrowd) && !errors.Is(broken, errBooks) {
			return 1, fmt.Errorf("%w; what it left is in %s", broken, folder)
		}
	}
	v, err := verdict.Judge(verdict.Folder(folder), verdict.Options{Faultless: o.faults == noFaults, Again: name + " -judge " + folder})
	if err != nil {
		return 1, err
	}
	if err := errors.Join(o.print(stdout, v), broken); err != nil {
		return 1, err
	}
	if o.out == "" && o.judge == "" && v.Outcome == verdict.Valid {
		return 0, os.RemoveAll(folder) //nolint:gosec // MkdirTemp made it
	}
	return v.Outcome.Exit(), nil
}

// folder makes the folder of a run.
func (o *options) folder() (string, error) {
	if o.out == "" {
		return os.MkdirTemp("", "weft-chaos-")
	}
	return o.out, os.MkdirAll(o.out, 0o700) //nolint:gosec // the user says where
}

func (o *options) print(w io.Writer, v *verdict.Verdict) error {
	if !o.json {
		return v.Table(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
