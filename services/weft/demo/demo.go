// Package demo publishes real messages into a running fabric: 329 GitHub webhooks, the examples of the npm package
// @octokit/webhooks-examples (MIT), addressed to their own senders and repositories. It publishes as any business
// system would, with plain NATS requests and nothing of Weft.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// folder is where the payloads' npm package is a development dependency, below the top of the repository.
	folder = "services/weft/e2e/browser"
	// lineMost is the longest line of the payloads' list, in bytes.
	lineMost = 1 << 20
	// ackTimeout is how long a publish may take to be accepted.
	ackTimeout = 5 * time.Second
)

// line is one message to publish, as payloads.mjs prints it.
type line struct {
	To      string `json:"to"`
	ID      string `json:"id"`
	Type    string `json:"type"`
	Payload string `json:"payload"`
}

// Payloads returns the list of messages, one JSON object a line. It installs the npm package when it is not there yet.
func Payloads(ctx context.Context, out io.Writer) ([]byte, error) {
	if _, err := os.Stat(filepath.Join(folder, "payloads.mjs")); err != nil {
		return nil, fmt.Errorf("%s is not here; run `weft demo` at the top of Weft's repository, or give it a list with --payloads", folder)
	}
	if _, err := exec.LookPath("node"); err != nil {
		return nil, errors.New("the demo's payloads come from an npm package; install Node 20 or later, or give a list with --payloads")
	}
	if _, err := os.Stat(filepath.Join(folder, "node_modules")); err != nil {
		_, _ = fmt.Fprintln(out, "  fetching the demo's payloads with npm …")
		install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
		install.Dir = folder
		if said, err := install.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("npm ci in %s: %w\n%s", folder, err, said)
		}
	}
	list := exec.CommandContext(ctx, "node", "payloads.mjs")
	list.Dir, list.Stderr = folder, os.Stderr
	said, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("node payloads.mjs: %w", err)
	}
	return said, nil
}

// Publish publishes a list, pausing between two messages so that a person sees them come, and on a terminal says
// how far it is. It returns how many were accepted.
func Publish(ctx context.Context, url string, list []byte, pause time.Duration, out io.Writer, terminal bool) (int, error) {
	nc, err := nats.Connect(url, nats.Name("weft-demo"))
	if err != nil {
		return 0, fmt.Errorf("connect to NATS at %s: %w", url, err)
	}
	defer nc.Close()
	lines := bufio.NewScanner(bytes.NewReader(list))
	lines.Buffer(nil, lineMost)
	n := 0
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return n, fmt.Errorf("line %d of the payloads: %w", n+1, err)
		}
		if err := publish(ctx, nc, l); err != nil {
			return n, err
		}
		n++
		if terminal {
			_, _ = fmt.Fprintf(out, "\r\x1b[K  published %d: %s to %s", n, l.Type, l.To)
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(pause):
		}
	}
	if terminal {
		_, _ = fmt.Fprint(out, "\r\x1b[K")
	}
	_, _ = fmt.Fprintf(out, "  published %d messages of GitHub; log in as one of their senders, such as Codertocat\n", n)
	return n, lines.Err()
}

// publish sends one message through the stream door and waits for its PubAck.
func publish(ctx context.Context, nc *nats.Conn, l line) error {
	to, err := subject.ParseAddress(subject.DefaultTenant, l.To)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	_, err = nc.RequestMsgWithContext(ctx, &nats.Msg{
		Subject: subject.In(to), Data: []byte(l.Payload),
		Header: nats.Header{message.HeaderID: {l.ID}, message.HeaderType: {l.Type}},
	})
	if err != nil {
		return fmt.Errorf("publish %s to %s: %w", l.ID, l.To, err)
	}
	return nil
}
