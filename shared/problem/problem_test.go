package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/weftpush/weft/shared/problem"
)

func TestFrom(t *testing.T) {
	refused := problem.New(problem.TooLarge, "%d bytes", 7).In("data")
	wrapped := fmt.Errorf("accept: %w", refused)
	if got := problem.From(wrapped); got != refused {
		t.Errorf("From finds %v, want the problem that was wrapped", got)
	}
	if !errors.Is(wrapped, problem.New(problem.TooLarge, "")) || errors.Is(wrapped, problem.New(problem.Empty, "")) {
		t.Error("errors.Is must compare codes and nothing else")
	}
	hidden := problem.From(fmt.Errorf("password hunter2: %w", io.EOF))
	if hidden.Code != problem.InternalFault || hidden.Status() != http.StatusInternalServerError || hidden.Message == "" {
		t.Errorf("an error of ours becomes %+v", hidden)
	}
	if body, err := json.Marshal(hidden); err != nil || string(body) != `{"code":"internal","message":"`+hidden.Message+`"}` {
		t.Errorf("it leaves the process as %s, %v", body, err)
	}
}

func TestRetryAndStatus(t *testing.T) {
	for code, want := range map[problem.Code]struct {
		status int
		retry  bool
	}{
		problem.BadRequest:    {http.StatusBadRequest, false},
		problem.IDTooLong:     {http.StatusUnprocessableEntity, false},
		problem.Conflict:      {http.StatusConflict, false},
		problem.TooLarge:      {http.StatusRequestEntityTooLarge, false},
		problem.TokenExpired:  {http.StatusUnauthorized, false},
		problem.Unavailable:   {http.StatusServiceUnavailable, true},
		problem.Busy:          {http.StatusTooManyRequests, true},
		problem.Poison:        {http.StatusUnprocessableEntity, false},
		problem.Draining:      {http.StatusServiceUnavailable, true},
		problem.Kicked:        {http.StatusServiceUnavailable, true},
		problem.AckAhead:      {http.StatusConflict, false},
		problem.BadFrame:      {http.StatusBadRequest, false},
		problem.InternalFault: {http.StatusInternalServerError, false},
	} {
		if p := problem.New(code, "x"); p.Status() != want.status || p.Retry != want.retry {
			t.Errorf("%s: status %d, retry %t; want %+v", code, p.Status(), p.Retry, want)
		}
	}
	if p := problem.New(problem.Kicked, "x").ForGood(); p.Status() != http.StatusForbidden || p.Retry {
		t.Errorf("kicked for good: %d, retry %t", p.Status(), p.Retry)
	}
}
