package rpc_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
)

func TestGather(t *testing.T) {
	nc := connect(t)
	began := time.Now()
	nobody, err := rpc.Gather[question](limit(t), nc, "all", question{}, time.Minute)
	must(t, err)
	if len(nobody) != 0 || time.Since(began) > 10*time.Second {
		t.Errorf("nobody answered %v after %s", nobody, time.Since(began))
	}
	for _, answer := range []string{`{"say":"a"}`, `no JSON`, `{"say":"b"}`} {
		_, err := nc.Subscribe("all", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) })
		must(t, err)
	}
	_, err = nc.Subscribe("all", func(m *nats.Msg) { _ = m.RespondMsg(rpc.Refusal(problem.New(problem.Busy, "not now"))) })
	must(t, err)
	must(t, nc.Flush())
	answers, err := rpc.Gather[question](limit(t), nc, "all", question{}, 500*time.Millisecond)
	must(t, err)
	slices.SortFunc(answers, func(a, b question) int { return int(a.Say[0]) - int(b.Say[0]) })
	if !slices.Equal(answers, []question{{"a"}, {"b"}}) {
		t.Errorf("gathered %v", answers)
	}
	nc.Close()
	if _, err := rpc.Gather[question](limit(t), nc, "all", question{}, time.Second); err == nil {
		t.Error("a closed connection is no error")
	}
}
