// Package doctor looks whether a fabric is well: whether the NATS server maps, keeps and syncs as the services need it,
// whether each partition is worked on, and how what is behind the services answers. It changes nothing.
package doctor

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// quiet is how long nothing may come until everybody has answered who will.
	quiet = 500 * time.Millisecond
	// patience is the same for collects that live and have not answered: one asks its archive and Redis for up to 1.5 s.
	patience = 2500 * time.Millisecond
	// step bounds each of the questions to JetStream.
	step = 5 * time.Second
)

// Durability is what *accepted* has to survive.
type Durability string

// The durabilities. *Archived* survives power whatever is chosen.
const (
	Process Durability = "process" // the death of processes
	Power   Durability = "power"   // a power failure of all machines at once
)

// Level is how serious a finding is.
type Level string

// The levels, the worst last.
const (
	OK      Level = "ok"
	Unknown Level = "unknown" // it could not be looked at
	Warning Level = "warning" // it works, and will not always
	Failure Level = "failure"
)

// Finding is one thing that was looked at.
type Finding struct {
	Area   string `json:"area"` // nats, mapping, streams, consumers, owners, durability, archive, redis, nodes, auth, clocks
	Level  Level  `json:"level"`
	What   string `json:"what"`             // a sentence
	Remedy string `json:"remedy,omitempty"` // what to do; empty where it is well
}

// Options are what is asked for.
type Options struct {
	Durability Durability
	Monitors   []string // http:// URLs of the servers' monitoring, for what they tell nowhere else; may be empty
	HTTP       *http.Client
}

// exam is one examination.
type exam struct {
	Options

	nc       *nats.Conn
	js       jetstream.JetStream
	facts    fabric.Facts
	checks   []admin.CheckAnswer
	collect  int // living, as their heartbeats say; 0 if that can't be seen
	nodes    []admin.NodeAnswer
	asked    time.Time // when checks and nodes were
	heard    time.Time // when the last of them had answered
	clocks   []clock
	findings []Finding
}

// Examine looks at everything and returns what it found, in the order of the areas. It fails only when NATS can't be asked
// at all, or ctx ends.
func Examine(ctx context.Context, nc *nats.Conn, o Options) ([]Finding, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	e := &exam{Options: o, nc: nc, js: js}
	if !e.server(ctx) || !e.gather(ctx) {
		return e.findings, ctx.Err()
	}
	e.mapping(ctx)
	e.streams(ctx)
	e.owners(ctx)
	e.durability(ctx)
	e.collects()
	e.pushNodes()
	e.auth(ctx)
	e.compareClocks()
	return e.findings, ctx.Err()
}

func (e *exam) ok(area, format string, args ...any) { e.note(area, OK, "", format, args...) }

func (e *exam) note(area string, level Level, remedy, format string, args ...any) {
	e.findings = append(e.findings, Finding{Area: area, Level: level, What: fmt.Sprintf(format, args...), Remedy: remedy})
}

// server looks at the server that this connection is to, and says whether going on makes sense.
func (e *exam) server(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, step)
	defer cancel()
	rtt, err := e.nc.RTT()
	if err != nil {
		e.note("nats", Failure, "look whether the server runs, and its log", "the server does not answer: %v", err)
		return false
	}
	account, err := e.js.AccountInfo(ctx)
	if err != nil {
		e.note("nats", Failure, "enable JetStream at the server and for this account", "JetStream does not answer: %v", err)
		return false
	}
	e.ok("nats", "nats-server %s answers in %s", e.nc.ConnectedServerVersion(), rtt.Round(10*time.Microsecond))
	if most := e.nc.MaxPayload(); most < 1<<20 {
		e.note("nats", Failure, "set max_payload: 1MB or more", "max_payload is %d bytes; frames and pages need 1 MiB", most)
	}
	if limit := account.Limits.MaxStore; limit > 0 && account.Store > uint64(limit)/10*8 {
		e.note("nats", Warning, "give the account more, or publish less: at the limit publishers are refused",
			"JetStream holds %d MiB of the account's %d", account.Store>>20, limit>>20)
	}
	return true
}

// gather learns the fabric's facts and what collects and push nodes say of themselves.
func (e *exam) gather(ctx context.Context) bool {
	waiting, cancel := context.WithTimeout(ctx, step)
	defer cancel()
	var err error
	if e.facts, err = fabric.Known(waiting, e.js); err != nil {
		e.note("streams", Failure, "start a collect, or restart one of those that run: it makes the fabric as it starts", "there is no fabric here: %v", err)
		return false
	}
	e.asked = time.Now()
	if e.collect, err = e.living(ctx, "collect"); err != nil {
		e.collect = 0 // owners says so
	}
	e.checks, err = rpc.Gather[admin.CheckAnswer](ctx, e.nc, subject.Admin(admin.Check), struct{}{}, quiet)
	if err == nil && len(e.checks) < e.collect {
		e.asked = time.Now()
		e.checks, err = rpc.Gather[admin.CheckAnswer](ctx, e.nc, subject.Admin(admin.Check), struct{}{}, patience)
	}
	if err != nil {
		e.note("archive", Failure, "", "the collects can't be asked: %v", err)
		return false
	}
	if e.nodes, err = rpc.Gather[admin.NodeAnswer](ctx, e.nc, subject.Admin(admin.Nodes), struct{}{}, quiet); err != nil {
		e.note("nodes", Failure, "", "the push nodes can't be asked: %v", err)
		return false
	}
	e.heard = time.Now()
	return true
}
