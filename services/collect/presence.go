package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/fabric"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// probeEvery is how often nodes that may have users are asked whether they are alive, probeWait how long they have to
	// answer, and probesAtOnce how many are asked at once: so many that a round is short also when all of a rack hang.
	probeEvery   = 2 * time.Second
	probeWait    = time.Second
	probesAtOnce = 256
	// deadAfter is for how long nobody may listen on a node's subject until its users count as gone, and silentAfter for
	// how long a node that listens may not answer: it is the lease.
	deadAfter   = 5 * time.Second
	silentAfter = 10 * time.Second
	// forgetEvery is how often what is known of users is tidied up, and reportsFor how long the report of an absence is
	// kept, at least: far longer than one can be under way.
	forgetEvery = 10 * time.Minute
	reportsFor  = time.Hour
)

// takePresence stores what nodes reported of their users.
func (s *Service) takePresence(ctx context.Context, msgs []report) error {
	var reports []archive.Report
	for _, msg := range msgs {
		r := archive.Report{Node: strings.TrimPrefix(msg.Subject(), subject.Presence(""))}
		if !s.ofThisEpoch(msg) || !s.readReport(msg, &r.Presence) {
			continue
		}
		r.Users = s.legal(r.Users)
		reports = append(reports, r)
	}
	if len(reports) == 0 {
		return nil
	}
	return s.withArchive(ctx, func(ctx context.Context) error {
		return s.archive.Report(ctx, reports, time.Now(), s.cfg.OfflineAfter)
	})
}

// legal are the users whose tokens can be read: one that can't must not keep the others up for ever.
func (s *Service) legal(users []ledger.Seen) []ledger.Seen {
	kept := users[:0]
	for _, seen := range users {
		if _, err := subject.ParseTokens(seen.User); err != nil {
			s.faults.Note("read a report of presence", err)
			continue
		}
		kept = append(kept, seen)
	}
	return kept
}

// reportedUntil is a moment from before which no report of some subjects is under way any more: all that came earlier than
// the oldest one in WEFT_ACK has had its effect. Whoever concludes something from what was not reported asks it first:
// collects may have been away for long.
func (s *Service) reportedUntil(ctx context.Context, subjects string, now time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	reports, err := s.js.Stream(ctx, fabric.AckStream)
	if err != nil {
		return time.Time{}, fmt.Errorf("look into %s: %w", fabric.AckStream, err)
	}
	// What a restart of the server left behind (orphans.go) is waited for, too: it is taken in soon.
	oldest, err := reports.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subjects))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return now, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("look for the oldest of %s: %w", subjects, err)
	case oldest.Time.Before(now):
		return oldest.Time, nil
	default:
		return now, nil
	}
}

// prober looks whether the nodes that have users are alive. One of all collects does it: the owner of partition 0. All of
// it belongs to one goroutine.
type prober struct {
	*Service
	heard     map[string]time.Time // when a node answered last, or was first looked at
	unasked   map[string]bool      // nodes that were given up and have not been asked since whom they have
	looked    time.Time            // when the last round ended
	connects  uint64               // how often NATS had reconnected by then
	forgotten time.Time
}

// probeNodes probes until ctx ends.
func (s *Service) probeNodes(ctx context.Context) error {
	p := &prober{Service: s, heard: map[string]time.Time{}, unasked: map[string]bool{}, forgotten: time.Now()}
	look := time.NewTicker(probeEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if err := p.round(ctx); err != nil && ctx.Err() == nil {
			p.faults.Note("look for nodes that are gone", err)
		}
		if time.Since(p.forgotten) >= forgetEvery {
			p.forget(ctx)
		}
	}
}

// forget removes what is known of users who went long ago.
func (p *prober) forget(ctx context.Context) {
	p.forgotten = time.Now()
	reports, users := p.forgotten.Add(-max(reportsFor, 2*p.cfg.OfflineAfter)), p.forgotten.Add(-p.cfg.Policy.Retention)
	if err := p.archive.Forget(ctx, reports, users); err != nil && ctx.Err() == nil {
		p.faults.Note("forget users who went", err)
	}
}

// round asks every node once. Nobody is judged while NATS is away, or by a collect that was itself away: then everybody
// counts as heard just now.
func (p *prober) round(ctx context.Context) error {
	begun := time.Now()
	nodes, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	answers := p.probe(ctx, nodes)
	ended := time.Now()
	if p.wasAway(begun, ended) {
		clear(p.heard)
	}
	known, unasked := make(map[string]time.Time, len(nodes)), make(map[string]bool)
	gone := make(map[string]time.Time)
	for i, n := range nodes {
		last, ok := p.heard[n.ID]
		if answers[i] == nil || !ok {
			last = ended
		}
		known[n.ID] = last
		if p.unasked[n.ID] && answers[i] != nil {
			unasked[n.ID] = true
		}
		if limit := patienceWith(answers[i]); !n.Silent && ended.Sub(last) >= limit {
			gone[n.ID], unasked[n.ID] = last, true
		}
	}
	p.heard, p.unasked, p.looked = known, unasked, time.Now()
	return p.giveUp(ctx, gone, ended)
}

// giveUp stores that nodes can't be reached since some time, unless it is this collect that reaches nobody: the part of the
// NATS cluster that it is connected to may have no majority, and JetStream does not answer there.
func (p *prober) giveUp(ctx context.Context, gone map[string]time.Time, now time.Time) error {
	if len(gone) == 0 {
		return nil
	}
	if _, err := p.reportedUntil(ctx, subject.PresenceAll, now); err != nil {
		return err
	}
	var failed []error
	for id, last := range gone {
		p.log.Warn("a node can't be reached; its users count as gone", "node", id, "since", last)
		failed = append(failed, p.withArchive(ctx, func(ctx context.Context) error {
			return p.archive.Silence(ctx, id, last.UnixMilli(), now, p.cfg.OfflineAfter)
		}))
	}
	return errors.Join(failed...)
}

// patienceWith is how long a node may fail like that.
func patienceWith(answer error) time.Duration {
	if errors.Is(answer, nats.ErrNoResponders) {
		return deadAfter
	}
	return silentAfter
}

// wasAway says whether this collect or its NATS did not work since the last round ended, or in this one.
func (p *prober) wasAway(begun, ended time.Time) bool {
	connects := p.nc.Stats().Reconnects
	away := !p.nc.IsConnected() || connects != p.connects ||
		begun.Sub(p.looked) > 2*probeEvery || ended.Sub(begun) > silentAfter/2
	p.connects = connects
	return away
}

func (p *prober) nodes(ctx context.Context) ([]archive.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	return p.archive.Nodes(ctx)
}

// probe asks nodes whether they are alive. One that was given up and answers has to tell whom it has, also where it has
// reported some of them meanwhile.
func (p *prober) probe(ctx context.Context, nodes []archive.Node) []error {
	answers := make([]error, len(nodes))
	var group errgroup.Group
	group.SetLimit(probesAtOnce)
	for i, n := range nodes {
		order := node.Order{Op: node.Probe}
		if n.Silent || p.unasked[n.ID] {
			order.Op = node.Report
		}
		group.Go(func() error {
			answers[i] = p.order(ctx, n.ID, order)
			return nil
		})
	}
	_ = group.Wait() // none fails
	return answers
}

func (p *prober) order(ctx context.Context, id string, order node.Order) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	_, err = p.nc.RequestWithContext(ctx, subject.NodeControl(id), body)
	return err
}
