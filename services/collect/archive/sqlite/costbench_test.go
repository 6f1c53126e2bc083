package sqlite_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/sqlite"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// way is what BenchmarkWay does: a fabric of two collects gives messages to users who acknowledge each.
type way struct {
	b      *testing.B
	owners [2]*sqlite.Archive
	to     []subject.Address
	tokens []string
	spent  map[string]time.Duration // CPU time, by what was done
	round  int
}

func newWay(b *testing.B, users int) *way {
	b.Helper()
	path := filepath.Join(b.TempDir(), "weft.db")
	w := &way{b: b, spent: map[string]time.Duration{}}
	w.owners[0], w.owners[1] = open(b, path), open(b, path)
	for i := range users {
		to := subject.UserAddress("default", fmt.Sprint("user-", i))
		request := history.OpenRequest{Tenant: "default", User: to.ID, Device: "phone", Addresses: []string{to.Tokens()}}
		if _, err := w.owners[0].Open(b.Context(), request); err != nil {
			b.Fatal(err)
		}
		w.to, w.tokens = append(w.to, to), append(w.tokens, to.Tokens())
	}
	return w
}

// cost adds the CPU time of the process while do runs. Unlike the time it takes, that bears neighbours.
func (w *way) cost(what string, do func() error) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			w.b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	if err := do(); err != nil {
		w.b.Fatal(err)
	}
	w.spent[what] += used() - before
}

// step gives each user a message, in four partitions, with ids that grow with time as those of collect do.
func (w *way) step() {
	const partitions = 4
	w.round++
	now, node := time.Now().UnixMilli(), "01JNODEAAAAAAAAAAAAAAAAAAA"
	for p := range partitions {
		var messages []*message.Message
		for u := p; u < len(w.to); u += partitions {
			id := fmt.Sprintf("01J%07d%016x", w.round, uint64(u)*0x9E3779B97F4A7C15)
			messages = append(messages, &message.Message{
				To: w.to[u], ID: id, ContentType: message.JSON, At: 1, Payload: bytes.Repeat([]byte("x"), payloadSize),
			})
		}
		w.cost("append", func() error {
			_, err := w.owners[p%2].Append(w.b.Context(), p, messages, archive.Heads{})
			return err
		})
	}
	cursors, reports := make([]history.Cursor, len(w.to)), make([]ledger.Routed, len(w.to))
	for u, to := range w.to {
		seq := uint64(w.round)
		cursors[u] = history.Cursor{Tenant: "default", User: to.ID, Device: "phone", Address: w.tokens[u], Seq: seq, At: now, Node: node}
		reports[u] = ledger.Routed{Address: w.tokens[u], From: seq, To: seq, At: now, Nodes: []string{node}}
	}
	for i, half := range [][]history.Cursor{cursors[:len(cursors)/2], cursors[len(cursors)/2:]} {
		w.cost("advance", func() error { return w.owners[i].Advance(w.b.Context(), half) })
	}
	w.cost("route", func() error { return w.owners[0].Route(w.b.Context(), reports) })
}

// BenchmarkWay tells the CPU time of what a message of 256 bytes costs the archive in the fabric's way: to be appended,
// acknowledged and told to be routed, by itself; collect merges the latter two. -benchtime 400x makes a file of 400,000
// messages, as that costs more than a small one.
func BenchmarkWay(b *testing.B) {
	w := newWay(b, 1000)
	for b.Loop() {
		w.step()
	}
	for what, spent := range w.spent {
		b.ReportMetric(spent.Seconds()*1e6/float64(w.round*len(w.to)), what+"-cpu-µs")
	}
}
