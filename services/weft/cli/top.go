package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	streams "github.com/weftpush/weft/shared/fabric"
)

// What moves a terminal's cursor to its first place, and removes all, what is right of it, and what is below.
const (
	clearAll   = "\x1b[2J"
	home       = "\x1b[H"
	clearRight = "\x1b[K"
	clearBelow = "\x1b[J"
)

// leastEvery is the shortest time between two looks.
const leastEvery = 500 * time.Millisecond

// watcher is what `weft top` was told.
type watcher struct {
	*console

	every time.Duration
	times int
}

// NewTop is `weft top`: what runs, live.
func NewTop() *cobra.Command {
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the load of push nodes and streams, live",
		Long: `Watch the load of push nodes and streams, live; rates are of the last interval. On a terminal the tables are drawn anew
each time, elsewhere one below the other; with --output json one object a line. Ctrl-C ends it.`,
		Example: `  weft top
  weft top --every 5s --times 12 --output json > minute.ndjson`,
		Args: cobra.NoArgs,
	}
	w := &watcher{console: newConsole(c)}
	c.Flags().DurationVar(&w.every, "every", time.Second, "`time` between two looks, 500ms or more")
	c.Flags().IntVar(&w.times, "times", 0, "so many looks; 0: until Ctrl-C")
	c.RunE = func(*cobra.Command, []string) error { return w.run() }
	return Usage(c)
}

// look is what one look saw.
type look struct {
	At      int64                  `json:"at"`
	Nodes   []admin.NodeAnswer     `json:"nodes"`
	Rates   map[string]nodeRates   `json:"rates"`   // by node
	Streams map[string]*streamLook `json:"streams"` // by name, without the partition
}

// nodeRates are a second's, of the last interval.
type nodeRates struct {
	Opened float64 `json:"opened"`
	Sent   float64 `json:"sent"`
	Acked  float64 `json:"acked"`
	Frames float64 `json:"frames"`
	Filled float64 `json:"filled"`
}

// streamLook is a kind of stream, its partitions added up.
type streamLook struct {
	Messages uint64  `json:"messages"`   // in it now
	Last     uint64  `json:"last"`       // sequences given so far
	Rate     float64 `json:"per_second"` // that came
}

func (w *watcher) run() error {
	if w.every < leastEvery {
		return usagef("--every is %s or more", leastEvery)
	}
	if err := w.open(); err != nil {
		return err
	}
	defer w.close()
	js, err := jetstream.New(w.nc)
	if err != nil {
		return fmt.Errorf("look at the streams: %w", err)
	}
	ctx := w.command.Context()
	before, err := takeLook(ctx, w.nc, js)
	if err != nil {
		return err
	}
	if err := w.begin(); err != nil {
		return err
	}
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	for n := 0; w.times == 0 || n < w.times; n++ {
		select {
		case <-ctx.Done():
			return nil // that is how it is ended
		case <-ticker.C:
		}
		now, err := takeLook(ctx, w.nc, js)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			w.say("%v", err) // it goes on when the services do
			continue
		}
		now.compare(before)
		before = now
		if err := w.draw(now); err != nil {
			return err
		}
	}
	return nil
}

// begin clears a terminal.
func (w *watcher) begin() error {
	if w.json() || !w.out.terminal {
		return nil
	}
	_, err := io.WriteString(w.out, clearAll)
	return err
}

// takeLook asks the nodes and the streams.
func takeLook(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) (look, error) {
	seen := look{At: time.Now().UnixMilli(), Streams: map[string]*streamLook{}}
	var err error
	if seen.Nodes, err = gatherNodes(ctx, nc); err != nil {
		return seen, err
	}
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		kind := kindOf(info.Config.Name)
		if kind == "" {
			continue
		}
		s := seen.Streams[kind]
		if s == nil {
			s = new(streamLook)
			seen.Streams[kind] = s
		}
		s.Messages += info.State.Msgs
		s.Last += info.State.LastSeq
	}
	if err := list.Err(); err != nil {
		return seen, fmt.Errorf("look at the streams: %w", err)
	}
	return seen, nil
}

// The kinds of stream that have partitions.
var (
	inStreams  = strings.TrimSuffix(streams.InStream(0), "_0")  //nolint:gochecknoglobals // names
	msgStreams = strings.TrimSuffix(streams.MsgStream(0), "_0") //nolint:gochecknoglobals // names
)

// kindOf is a stream's name without its partition; empty for streams that are not Weft's.
func kindOf(name string) string {
	for _, kind := range []string{inStreams, msgStreams} {
		if strings.HasPrefix(name, kind+"_") {
			return kind
		}
	}
	switch name {
	case streams.AckStream, streams.QuarantineStream, streams.ReceiptStream, streams.EventStream:
		return name
	}
	return ""
}

// compare makes rates of what was counted since the look before. What began anew counts from 0.
func (l *look) compare(before look) {
	seconds := max(float64(l.At-before.At)/1000, 0.001)
	per := func(now, then uint64) float64 {
		if now < then {
			then = 0
		}
		return float64(now-then) / seconds
	}
	for kind, s := range l.Streams {
		if b := before.Streams[kind]; b != nil {
			s.Rate = per(s.Last, b.Last)
		}
	}
	l.Rates = make(map[string]nodeRates, len(l.Nodes))
	for _, n := range l.Nodes {
		i, there := slices.BinarySearchFunc(before.Nodes, n.Node, func(a admin.NodeAnswer, id string) int { return cmp.Compare(a.Node, id) })
		if !there {
			continue
		}
		b := before.Nodes[i]
		l.Rates[n.Node] = nodeRates{
			Opened: per(n.Opened, b.Opened), Sent: per(n.Sent, b.Sent), Acked: per(n.Acked, b.Acked),
			Frames: per(n.Frames, b.Frames), Filled: per(n.Filled, b.Filled),
		}
	}
}

// draw shows a look. On a terminal each line is written over the old one, so that nothing flickers.
func (w *watcher) draw(l look) error {
	if w.json() {
		return jsonLine(w.out, l)
	}
	var text strings.Builder
	if err := l.show(&screen{Writer: &text, colour: w.out.colour, columns: w.out.columns}, w.now()); err != nil {
		return err
	}
	if !w.out.terminal {
		return line(w.out, "%s", text.String())
	}
	_, err := io.WriteString(w.out, home+strings.ReplaceAll(text.String(), "\n", clearRight+"\n")+clearBelow)
	return err
}

func (l *look) show(s *screen, now time.Time) error {
	sessions := 0
	for _, n := range l.Nodes {
		sessions += n.Sessions
	}
	if err := line(s, "%s  %s, %s\n", s.paint(bold, clock(l.At, now)), many(len(l.Nodes), "push node"), many(sessions, "session")); err != nil {
		return err
	}
	nodes := table{columns: []column{
		{title: "NODE"},
		{title: "HOST", cut: true},
		{title: "SESSIONS", right: true},
		{title: "USERS", right: true, spare: 1},
		{title: "NEW/S", right: true},
		{title: "SENT/S", right: true},
		{title: "ACKS/S", right: true},
		{title: "FRAMES/S", right: true, spare: 2},
		{title: "FILLS/S", right: true, spare: 3},
		{title: "UNACKED", right: true},
		{title: "MEMORY", right: true},
		{title: "", last: true, code: stateColour},
	}}
	for _, n := range l.Nodes {
		r := l.Rates[n.Node]
		nodes.row(short(n.Node), n.Host, thousands(n.Sessions), thousands(n.Users), perSecond(r.Opened), perSecond(r.Sent), perSecond(r.Acked),
			perSecond(r.Frames), perSecond(r.Filled), sized1000(int(n.Unacked))+"B", mebibytes(n.Memory), draining(n))
	}
	if err := nodes.write(s); err != nil {
		return err
	}
	if err := line(s, ""); err != nil {
		return err
	}
	list := table{columns: []column{{title: "STREAM"}, {title: "IN/S", right: true}, {title: "HOLDS", right: true}, {title: "", last: true, code: in(dim)}}}
	for _, of := range []struct{ name, what string }{
		{inStreams, "accepted; what it holds waits for collect"},
		{msgStreams, "archived, on the way to the devices"},
		{streams.AckStream, "acknowledged and reported; what it holds waits for collect"},
		{streams.ReceiptStream, "receipts"},
		{streams.EventStream, "users that came and went, messages that wait for long"},
		{streams.QuarantineStream, "set aside; see weft quarantine ls"},
	} {
		if seen := l.Streams[of.name]; seen != nil {
			list.row(of.name, perSecond(seen.Rate), thousands(int(seen.Messages)), of.what) //nolint:gosec // a count
		}
	}
	return list.write(s)
}

// perSecond writes a rate: with a decimal below ten.
func perSecond(r float64) string {
	if r > 0 && r < 10 {
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return thousands(int(r))
}
