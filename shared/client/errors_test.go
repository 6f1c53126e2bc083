package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

func TestClosedIsFoundByItsParts(t *testing.T) {
	said := problem.New(problem.Replaced, "a newer connection of the device exists").In("device")
	err := fmt.Errorf("listen: %w", &Closed{Code: protocol.CloseReplaced, Problem: said, RetryAfter: time.Second})
	closed, ok := errors.AsType[*Closed](err)
	if !ok || closed.Code != protocol.CloseReplaced || !closed.Code.Fatal() || closed.RetryAfter != time.Second {
		t.Errorf("as a *Closed it is %+v", closed)
	}
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p != said {
		t.Errorf("as a *Problem it is %+v", p)
	}
	if !errors.Is(err, problem.New(problem.Replaced, "")) || errors.Is(err, problem.New(problem.Draining, "")) {
		t.Error("its reason is compared by more or less than its code")
	}
	if !strings.Contains(err.Error(), "4409") || !strings.Contains(err.Error(), said.Message) {
		t.Errorf("it says %q", err)
	}
	wordless := &Closed{Code: protocol.CloseSlow}
	if _, ok := errors.AsType[*problem.Problem](error(wordless)); ok || wordless.Error() != "the server closed the connection (4408)" {
		t.Errorf("without a word of the server it says %q", wordless)
	}
}

func TestWhatIsFatal(t *testing.T) {
	for err, want := range map[error]bool{
		io.EOF: false, errDrained: false, ErrProtocol: false, fmt.Errorf("%w: disk full", ErrStore): true,
		&Closed{Code: protocol.CloseProtocol}: true, &Closed{Code: protocol.CloseForbidden}: true, &Closed{Code: protocol.CloseReplaced}: true,
		&Closed{Code: protocol.CloseTooLarge}: true, &Closed{Code: protocol.CloseToken}: false, &Closed{Code: protocol.CloseSlow}: false,
		&Closed{Code: protocol.CloseBackOff}: false, &Closed{Code: protocol.CloseDraining}: false, &Closed{Code: protocol.CloseNormal}: false,
	} {
		if fatal(err) != want {
			t.Errorf("%v is fatal: %t", err, !want)
		}
	}
}

// Each error of a publish is one of two kinds, whatever else is in its chain.
func TestErrorsOfAPublishAreTold(t *testing.T) {
	unknown := (&failure{Problem: problem.New(problem.Unavailable, "no answer")}).err(true)
	if !errors.Is(unknown, ErrUnknown) || !problem.From(unknown).Retry {
		t.Errorf("%v is not known to be unknown and worth a retry", unknown)
	}
	refused := (&failure{Problem: problem.New(problem.TooLarge, "")}).err(false)
	if errors.Is(refused, ErrUnknown) || !errors.Is(refused, problem.New(problem.TooLarge, "")) {
		t.Errorf("%v is a refusal", refused)
	}
	for _, sentinel := range []error{ErrUnknown, ErrNotSent, ErrReceiptsGone, ErrProtocol, ErrStore, ErrEnded} {
		if !strings.HasPrefix(sentinel.Error(), "client: ") {
			t.Errorf("%q does not say whose it is", sentinel)
		}
	}
}

// A refusal that speaks for itself is repeated, also where its status says less.
func TestAHandshakeThatIsRefused(t *testing.T) {
	for body, want := range map[string]*problem.Problem{
		`{"code":"token_expired","message":"get a fresh one"}`: problem.New(problem.TokenExpired, ""),
		`<html>`:          problem.New(problem.Unauthorized, ""),
		`{"message":"x"}`: problem.New(problem.Unauthorized, ""),
	} {
		response := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Retry-After": {"3"}}}
		closed := refusedHTTP(response, body, time.Now())
		if closed.Code != protocol.CloseToken || !errors.Is(closed, want) || closed.RetryAfter != 3*time.Second {
			t.Errorf("%s: %+v", body, closed)
		}
	}
}
