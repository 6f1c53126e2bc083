package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/weftpush/weft/services/weft/dev"
	"github.com/weftpush/weft/services/weft/manifest"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/subject"
)

// patience bounds every wait, so that a fault fails a test and does not hang it.
const patience = 20 * time.Second

// signalling closes ready at the first write: `weft dev` prints when everything runs.
type signalling struct {
	once  sync.Once
	ready chan struct{}
}

func (s *signalling) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.ready) })
	return len(b), nil
}

// fabricIn runs the whole of Weft on a data folder until the test ends.
func fabricIn(t *testing.T, data string) manifest.Manifest {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := &signalling{ready: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- dev.Run(ctx, dev.Options{Data: data, Out: out, Started: time.Now(), Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("weft dev: %v", err)
		}
	})
	select {
	case <-out.ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("weft dev ended: %v", err)
	case <-time.After(patience):
		t.Fatal("weft dev is not ready")
	}
	m, err := manifest.Read(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// run runs one command line and returns what it printed.
func run(t *testing.T, c *cobra.Command, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	c.SetArgs(append([]string{}, args...)) // nil would stand for this test program's own
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(io.Discard)
	c.SilenceErrors, c.SilenceUsage = true, true
	err = c.ExecuteContext(ctx)
	return strings.TrimSpace(out.String()), err
}

// listening is a `weft listen` that runs until the test ends, and what it prints.
type listening struct {
	t          *testing.T
	out, notes chan string
	ended      chan error
	stop       context.CancelFunc
}

func listen(t *testing.T, args ...string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &listening{t: t, out: make(chan string, 100), notes: make(chan string, 100), ended: make(chan error, 1), stop: cancel}
	var tasks sync.WaitGroup
	lines := func(to chan<- string) *io.PipeWriter {
		r, w := io.Pipe()
		tasks.Go(func() {
			for s := bufio.NewScanner(r); s.Scan(); {
				to <- s.Text()
			}
		})
		return w
	}
	out, notes := lines(l.out), lines(l.notes)
	c := NewListen()
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(notes)
	c.SilenceErrors, c.SilenceUsage = true, true
	tasks.Go(func() {
		l.ended <- c.ExecuteContext(ctx)
		_, _ = out.Close(), notes.Close()
	})
	t.Cleanup(func() { cancel(); tasks.Wait() })
	return l
}

// line waits for a line with all of these parts.
func (l *listening) line(from <-chan string, parts ...string) string {
	l.t.Helper()
	select {
	case got := <-from:
		for _, part := range parts {
			if !strings.Contains(got, part) {
				l.t.Fatalf("printed %q, want %q in it", got, part)
			}
		}
		return got
	case err := <-l.ended:
		l.t.Fatalf("listen ended: %v", err)
	case <-time.After(patience):
		l.t.Fatalf("nothing printed, want %q", parts)
	}
	return ""
}

func (l *listening) end() error {
	l.t.Helper()
	select {
	case err := <-l.ended:
		return err
	case <-time.After(patience):
		l.t.Fatal("listen goes on")
		return nil
	}
}

// acknowledgements returns a function that waits until everything of an address up to seq is acknowledged.
func acknowledgements(t *testing.T, m manifest.Manifest) func(address string, seq uint64) {
	t.Helper()
	nc, err := nats.Connect(m.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	sub, err := nc.SubscribeSync(subject.AckAll)
	if err = errors.Join(err, nc.Flush()); err != nil {
		t.Fatal(err)
	}
	return func(address string, seq uint64) {
		t.Helper()
		for {
			batch, err := sub.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s was not acknowledged up to %d: %v", address, seq, err)
			}
			var cursors []history.Cursor
			if err := json.Unmarshal(batch.Data, &cursors); err != nil {
				t.Fatal(err)
			}
			for _, c := range cursors {
				if c.Address == address && c.Seq >= seq {
					return
				}
			}
		}
	}
}

func TestPublishAndListen(t *testing.T) {
	data := filepath.Join(t.TempDir(), "weft")
	acked := acknowledgements(t, fabricIn(t, data))
	l := listen(t, "--data", data, "--user", "alice", "--topic", "octokit/webhooks")
	l.line(l.notes, "online: alice on device terminal, listening to all, topic:octokit/webhooks, user:alice")

	got, err := run(t, NewPub(), "", "user:alice", `{"hello": 1}`, "--data", data, "--id", "one", "--type", "greeting")
	if err != nil || got != "user:alice seq 1 id one archived" {
		t.Errorf("pub printed %q, %v", got, err)
	}
	l.line(l.out, "     1  user:alice  greeting  ", `{"hello":1}`)

	got, err = run(t, NewPub(), "", "topic:octokit/webhooks", `1`, "--data", data, "--door", "stream")
	if err != nil || !strings.HasPrefix(got, "topic:octokit/webhooks id 01") || !strings.Contains(got, "accepted by WEFT_IN_") {
		t.Errorf("pub printed %q, %v", got, err)
	}
	l.line(l.out, "     1  topic:octokit/webhooks  ")

	got, err = run(t, NewPub(), "\x00\xff", "user:alice", "--file", "-", "--content-type", "image/png", "--data", data, "--output", "json")
	var receipt struct {
		Seq       uint64
		State, ID string
		To        string
	}
	if err := errors.Join(err, json.Unmarshal([]byte(got), &receipt)); err != nil || receipt.Seq != 2 || receipt.State != "archived" || receipt.To != "user:alice" {
		t.Errorf("pub printed %q, %v", got, err)
	}
	l.line(l.out, "     2  user:alice  ", "(2 bytes of image/png)")
	l.stop()
	if err := l.end(); err != nil {
		t.Errorf("listen returned %v", err)
	}
	acked("default.user.alice", 2) // nodes hand acknowledgements over every 50 ms

	// What came while the device was away comes when it is back, and nothing twice.
	if _, err := run(t, NewPub(), "", "user:alice", `3`, "--data", data); err != nil {
		t.Fatal(err)
	}
	l = listen(t, "--data", data, "--user", "alice", "--output", "json")
	l.line(l.notes, "user:alice (1 to come)")
	l.line(l.out, `"address":"user:alice","seq":3,`, `"latency_ms":`, `"data":3}`)

	// Another program takes the device.
	other := listen(t, "--data", data, "--user", "alice")
	other.line(other.notes, "online")
	if err := l.end(); err == nil || !strings.Contains(err.Error(), "give each its own --device") || ExitCode(err) != ExitFailed {
		t.Errorf("listen returned %v", err)
	}
}

func TestRefusalsBeginWithTheirCode(t *testing.T) {
	data := filepath.Join(t.TempDir(), "weft")
	fabricIn(t, data)
	if _, err := run(t, NewPub(), "", "user:alice", `1`, "--data", data, "--id", "taken"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"bad JSON":  {[]string{"user:alice", `{`}, "bad_json: "},
		"empty":     {[]string{"user:alice", ``}, "empty: "},
		"conflict":  {[]string{"user:alice", `2`, "--id", "taken"}, "conflict: "},
		"too large": {[]string{"user:alice", `"` + strings.Repeat("x", 70_000) + `"`}, "too_large: "},
		"ttl":       {[]string{"user:alice", `1`, "--ttl", "0s"}, "bad_header: "},
	} {
		_, err := run(t, NewPub(), "", append(c.args, "--data", data)...)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || ExitCode(err) != ExitFailed {
			t.Errorf("%s: %v, exit %d", name, err, ExitCode(err))
		}
	}
	t.Run("a token that is refused", func(t *testing.T) {
		t.Setenv("WEFT_TOKEN", "not-a-token")
		l := listen(t, "--data", data)
		if err := l.end(); err == nil || !strings.Contains(err.Error(), "unauthorized: ") || strings.Contains(err.Error(), "not-a-token") {
			t.Errorf("listen returned %v", err)
		}
	})
	t.Run("a topic that the token does not allow", func(t *testing.T) {
		token, err := run(t, NewToken(), "", "alice", "--data", data, "--topic", "news")
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t, "--data", data, "--token", token, "--topic", "secrets")
		if err := l.end(); err == nil || !strings.Contains(err.Error(), "forbidden: ") {
			t.Errorf("listen returned %v", err)
		}
	})
}

// TestListenWhereNothingRunsLeavesNothingBehind: the folder was a slip, most likely.
func TestListenWhereNothingRunsLeavesNothingBehind(t *testing.T) {
	data := filepath.Join(t.TempDir(), "weft")
	if _, err := run(t, NewListen(), "", "--data", data, "--user", "alice"); err == nil || !strings.Contains(err.Error(), "no fabric runs") {
		t.Errorf("listen returned %v", err)
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("it made %s: %v", data, err)
	}
}

func TestTokenIsWhatItWasAskedFor(t *testing.T) {
	data := filepath.Join(t.TempDir(), "weft")
	token, err := run(t, NewToken(), "", "dependabot[bot]", "--data", data, "--device", "phone", "--publish", "user:*", "--ttl", "90m", "--tenant", "acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, "keys", "dev.hs256")); err != nil {
		t.Errorf("no key was made: %v", err)
	}
	// The fabric that starts later takes the key that was made.
	m := fabricIn(t, data)
	nc, err := nats.Connect(m.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	who, err := identity.Verify(t.Context(), nc, token)
	if err != nil {
		t.Fatal(err)
	}
	left := time.Until(time.UnixMilli(who.Expires))
	if who.Tenant != "acme" || who.User != "dependabot[bot]" || who.Device != "phone" || !who.MayRead("x") || len(who.Publish) != 1 ||
		left > 90*time.Minute || left < 89*time.Minute {
		t.Errorf("the token says %+v", who)
	}
}

func TestUsageErrorsAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		command *cobra.Command
		args    []string
		want    string
	}{
		"trace of nothing":    {NewTrace(), nil, "ID is missing: "},
		"trace at nowhere":    {NewTrace(), []string{"x", "--to", "alice"}, "bad_address: "},
		"user with a space":   {NewUser(), []string{"a", "b"}, "one USER is taken, not 2"},
		"kick of an unset":    {NewKick(), []string{""}, "USER is missing"},
		"unset device":        {NewKick(), []string{"alice", "--device", ""}, "--device is empty"},
		"unset user":          {NewReplay(), []string{"--user", "", "--since", "1h", "--yes"}, "--user is empty"},
		"unset server":        {NewNodes(), []string{"--nats", ""}, "--nats is empty"},
		"another command":     {NewQuarantine(), []string{"lst"}, "is `quarantine ls` meant?"},
		"token of nobody":     {NewToken(), nil, "accepts 1 arg"},
		"unknown flag":        {NewToken(), []string{"alice", "--tll", "1h"}, "unknown flag: --tll; `token --help` shows how"},
		"pub to nobody":       {NewPub(), nil, "ADDRESS is missing"},
		"pub nothing":         {NewPub(), []string{"user:alice"}, "--file"},
		"pub twice":           {NewPub(), []string{"user:alice", "1", "--file", "x"}, "--file"},
		"unknown door":        {NewPub(), []string{"user:alice", "1", "--door", "back"}, "--door is request or stream"},
		"unknown kind":        {NewPub(), []string{"group:alice", "1"}, "bad_address: "},
		"unknown output":      {NewPub(), []string{"user:alice", "1", "--output", "xml"}, "--output is text or json"},
		"listen as nobody":    {NewListen(), nil, "--user"},
		"listen with a word":  {NewListen(), []string{"alice"}, `there is no argument "alice" to take; `},
		"unknown output, too": {NewListen(), []string{"--user", "alice", "--output", "xml"}, "--output is text or json"},
	} {
		_, err := run(t, c.command, "", c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || ExitCode(err) != ExitUsage {
			t.Errorf("%s: %v, exit %d; want %q", name, err, ExitCode(err), c.want)
		}
	}
}

func TestWithoutAFabricTheRemedyIsTold(t *testing.T) {
	data := t.TempDir()
	for _, c := range []struct {
		command *cobra.Command
		args    []string
		want    string
	}{
		{NewPub(), []string{"user:alice", "1", "--data", data}, "start one with `weft dev`"},
		{NewPub(), []string{"user:alice", "1", "--nats", "nats://127.0.0.1:1"}, "is the fabric running?"},
		{NewListen(), []string{"--user", "alice", "--data", data}, "start one with `weft dev`"},
		{NewListen(), []string{"--user", "alice", "--data", data, "--url", "ws://127.0.0.1:1"}, "connect: "},
		{NewPub(), []string{"user:alice", "--data", data, "--file", data + "/none"}, "read the payload"},
	} {
		_, err := run(t, c.command, "", c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || ExitCode(err) != ExitFailed {
			t.Errorf("%v: %v, exit %d; want %q", c.args, err, ExitCode(err), c.want)
		}
	}
}
