package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weftpush/weft/shared/identity"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// natsServer starts a server on a free port and returns a connection to it.
func natsServer(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// run starts a service that is ended, and must end well, with the test. It returns what the service logs.
func run(t *testing.T, cfg Config, nc *nats.Conn) *bytes.Buffer {
	t.Helper()
	log := new(bytes.Buffer)
	s, err := New(cfg, nc, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("auth is not ready")
	}
	return log
}

func TestVerifyOverNATS(t *testing.T) {
	nc := natsServer(t)
	dir := t.TempDir()
	key, err := LoadOrCreateKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := run(t, Config{Keys: dir}, nc)
	token, err := Sign(key, identity.Identity{User: "alice", Topics: []string{"octokit/*"}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}

	who, err := identity.Verify(t.Context(), nc, token)
	if err != nil {
		t.Fatal(err)
	}
	if who.User != "alice" || who.Tenant != subject.DefaultTenant || !who.MayRead("octokit/webhooks") || who.Expired(time.Now()) {
		t.Errorf("got %+v", who)
	}
	if _, err := identity.Verify(t.Context(), nc, token+"x"); !errors.Is(err, problem.New(problem.Unauthorized, "")) {
		t.Errorf("a broken token: %v, want unauthorized", err)
	}
	_, err = rpc.Send(t.Context(), nc, &nats.Msg{Subject: subject.AuthVerify, Data: []byte("not JSON")})
	if !errors.Is(err, problem.New(problem.BadRequest, "")) {
		t.Errorf("a question that is no JSON: %v, want bad_request", err)
	}
	_, err = rpc.SendJSON(t.Context(), nc, subject.AuthIssue, IssueRequest{User: "alice"})
	if !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("issue is off: %v, want nobody to answer", err)
	}
	if signature := token[strings.LastIndex(token, ".")+1:]; strings.Contains(log.String(), signature) {
		t.Error("the log has a token in it")
	}
}

func TestShowsItselfAsAMicroService(t *testing.T) {
	nc := natsServer(t)
	dir := t.TempDir()
	if _, err := LoadOrCreateKey(dir); err != nil {
		t.Fatal(err)
	}
	run(t, Config{Keys: dir}, nc)
	run(t, Config{Keys: dir}, nc)
	for range 3 {
		if _, err := identity.Verify(t.Context(), nc, "x"); err == nil {
			t.Fatal("x passed")
		}
	}
	// Two instances answer, and each question was asked of one.
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("$SRV.STATS."+serviceName, inbox.Subject, nil); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for range 2 {
		m, err := inbox.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var stats micro.Stats
		if err := json.Unmarshal(m.Data, &stats); err != nil {
			t.Fatal(err)
		}
		if len(stats.Endpoints) != 1 || stats.Endpoints[0].Subject != subject.AuthVerify {
			t.Fatalf("endpoints %+v", stats.Endpoints)
		}
		asked += stats.Endpoints[0].NumRequests
	}
	if asked != 3 {
		t.Errorf("%d questions counted, want 3", asked)
	}
}

func TestIssue(t *testing.T) {
	nc := natsServer(t)
	dir := t.TempDir()
	if _, err := LoadOrCreateKey(dir); err != nil {
		t.Fatal(err)
	}
	log := run(t, Config{Keys: dir, Issue: true}, nc)
	if !strings.Contains(log.String(), "level=WARN") {
		t.Error("giving out tokens is not warned of")
	}
	var answer IssueAnswer
	if err := rpc.Ask(t.Context(), nc, subject.AuthIssue, IssueRequest{User: "dependabot[bot]"}, &answer); err != nil {
		t.Fatal(err)
	}
	who, err := identity.Verify(t.Context(), nc, answer.Token)
	if err != nil {
		t.Fatal(err)
	}
	if who.User != "dependabot[bot]" || !who.MayRead("a/b") || who.MayPublish(subject.UserAddress("default", "x")) || who.Role != "" {
		t.Errorf("got %+v", who)
	}
	if off := who.Expires - answer.Expires; off < 0 || off > 1000 {
		t.Errorf("the answer says %d, the token %d", answer.Expires, who.Expires)
	}
	err = rpc.Ask(t.Context(), nc, subject.AuthIssue, IssueRequest{}, &answer)
	if !errors.Is(err, problem.New(problem.BadAddress, "")) {
		t.Errorf("nobody's token: %v, want bad_address", err)
	}
}

func TestNewRefusesASlipInTheConfiguration(t *testing.T) {
	public := t.TempDir()
	_, pem := edFiles(t)
	write(t, public, "a.ed25519.pub", pem)
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"not set":       {Config{}, "-auth-keys is not set"},
		"no such path":  {Config{Keys: public + "/none"}, "none"},
		"empty folder":  {Config{Keys: t.TempDir()}, "openssl rand"},
		"can't issue":   {Config{Keys: public, Issue: true}, "-auth-issue"},
		"not one's own": {Config{Keys: os.DevNull}, "the name must be"},
	} {
		if _, err := New(c.cfg, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestRunEndsWhenTheConnectionIsClosed(t *testing.T) {
	nc := natsServer(t)
	dir := t.TempDir()
	if _, err := LoadOrCreateKey(dir); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Keys: dir}, nc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Run(t.Context()) }()
	<-s.Ready()
	nc.Close()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("Run returned nil though nobody had told it to end")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run goes on without a connection")
	}
}
