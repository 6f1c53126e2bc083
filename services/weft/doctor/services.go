package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// collects looks at what collects say of the archive and of Redis, and whether they agree.
func (e *exam) collects() {
	if len(e.checks) == 0 {
		e.note("archive", Failure, "start a collect, or look into the logs of those that run", "no collect answers: nothing is archived, and no operator's question is answered")
		return
	}
	if silent := e.collect - len(e.checks); silent > 0 {
		e.note("archive", Warning, "look into the logs of those that do not; one that was killed just now is forgotten within seconds", "%d of %d living collects answer", len(e.checks), e.collect)
	}
	for _, c := range e.checks {
		if c.Epoch != e.facts.Epoch || c.Partitions != e.facts.Partitions {
			e.note("archive", Failure, "start it with the archive that belongs to this NATS", "collect %s at %s has an archive of epoch %s with %d partitions; the streams are of %s with %d",
				short(c.Instance), c.Host, c.Epoch, c.Partitions, e.facts.Epoch, e.facts.Partitions)
		}
		for _, part := range []struct {
			area   string
			health admin.Health
		}{{"archive", c.Archive}, {"redis", c.Redis}} {
			h := part.health
			if h.Problem != "" {
				e.note(part.area, Failure, "look at it, and at the network to it", "%s, as collect %s at %s sees it: %s", h.Kind, short(c.Instance), c.Host, h.Problem)
				continue
			}
			e.ok(part.area, "%s takes a small write of collect %s in %.1f ms", strings.TrimSpace(h.Kind+" "+h.Version), short(c.Instance), h.Millis)
			for _, w := range h.Warnings {
				e.note(part.area, Warning, w.Remedy, "%s", w.What)
			}
		}
	}
}

// pushNodes looks whether clients can connect.
func (e *exam) pushNodes() {
	open, sessions := 0, 0
	for _, n := range e.nodes {
		sessions += n.Sessions
		if !n.Draining {
			open++
		}
	}
	switch {
	case open == 0 && len(e.nodes) > 0:
		e.note("nodes", Failure, "start a push node", "all %d push nodes are draining: nobody can connect", len(e.nodes))
	case open == 0:
		e.note("nodes", Failure, "start a push node", "no push node answers: nobody can connect")
	case open == 1:
		e.ok("nodes", "1 push node takes connections; open: %s", counted(sessions, "session"))
		what := "there is only one push node"
		if draining := len(e.nodes) - 1; draining > 0 {
			what = fmt.Sprintf("only one push node takes connections; draining: %d", draining)
		}
		e.note("nodes", Warning, "start another one: clients go there when this one dies", "%s", what)
	default:
		e.ok("nodes", "%d push nodes take connections; open: %s", open, counted(sessions, "session"))
	}
}

// auth asks about a token that nobody gave out; the right answer is no.
func (e *exam) auth(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, step)
	defer cancel()
	_, err := rpc.SendJSON(ctx, e.nc, subject.AuthVerify, map[string]string{"token": "doctor"})
	switch p := problem.From(err); {
	case err == nil:
		e.note("auth", Failure, "stop it: it lets everybody in", "auth takes a token that nobody gave out")
	case p.Code == problem.Unavailable:
		e.note("auth", Failure, "start auth", "auth does not answer: nobody can connect")
	default:
		e.ok("auth", "auth answers, and refuses a token that nobody gave out")
	}
}

// short is the beginning of an id.
func short(id string) string { return id[:min(8, len(id))] }
