package refusal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
)

// final is what a client reads from the code alone.
func final(code connect.Code) bool {
	return code == connect.CodeInvalidArgument || code == connect.CodePermissionDenied || code == connect.CodeFailedPrecondition
}

func TestClose(t *testing.T) {
	for with, want := range map[protocol.CloseCode]connect.Code{
		protocol.CloseNormal:    connect.CodeUnavailable,
		protocol.CloseProtocol:  connect.CodeInvalidArgument,
		protocol.CloseToken:     connect.CodeUnauthenticated,
		protocol.CloseForbidden: connect.CodePermissionDenied,
		protocol.CloseSlow:      connect.CodeDeadlineExceeded,
		protocol.CloseReplaced:  connect.CodeFailedPrecondition,
		protocol.CloseTooLarge:  connect.CodeInvalidArgument,
		protocol.CloseBackOff:   connect.CodeResourceExhausted,
		protocol.CloseDraining:  connect.CodeUnavailable,
	} {
		err := refusal.Close(with, problem.New(problem.TooSlow, "read").In("x"))
		p, ok := refusal.Detail[*weftv1.Problem](err)
		if !ok || err.Code() != want || final(want) != with.Fatal() || p.GetRetry() == with.Fatal() ||
			p.GetClose() != uint32(with) || p.GetCode() != "too_slow" || p.GetMessage() != "read" || p.GetField() != "x" {
			t.Errorf("%d is %v with %v", with, err, p)
		}
	}
	if p, ok := refusal.Detail[*weftv1.Problem](refusal.Close(protocol.CloseNormal, nil)); !ok || !p.GetRetry() || p.GetMessage() == "" {
		t.Errorf("without a problem: %v", p)
	}
}

// A code never says the opposite of the problem: what is worth a retry is not final.
func TestOf(t *testing.T) {
	for why, want := range map[problem.Code]connect.Code{
		problem.BadHeader: connect.CodeInvalidArgument, problem.TooLarge: connect.CodeInvalidArgument, problem.AckAhead: connect.CodeInvalidArgument,
		problem.Unauthorized: connect.CodeUnauthenticated, problem.TokenExpired: connect.CodeUnauthenticated,
		problem.Forbidden: connect.CodePermissionDenied, problem.Conflict: connect.CodeFailedPrecondition, problem.Replaced: connect.CodeFailedPrecondition,
		problem.Unavailable: connect.CodeUnavailable, problem.Draining: connect.CodeUnavailable, problem.Busy: connect.CodeResourceExhausted,
		problem.Kicked: connect.CodeUnavailable, problem.TooSlow: connect.CodeDeadlineExceeded, problem.Silent: connect.CodeDeadlineExceeded, problem.InternalFault: connect.CodeInternal,
	} {
		p := problem.New(why, "no")
		err := refusal.Of(fmt.Errorf("wrapped: %w", p), &weftv1.PublishStreamFailure{Index: 7})
		got, _ := refusal.Detail[*weftv1.Problem](err)
		if err.Code() != want || got.GetCode() != string(why) || got.GetRetry() != p.Retry || got.GetClose() != 0 || (p.Retry && final(want)) {
			t.Errorf("%s is %v with %v", why, err, got)
		}
		if f, ok := refusal.Detail[*weftv1.PublishStreamFailure](err); !ok || f.GetIndex() != 7 {
			t.Errorf("%s: the second detail is %v", why, f)
		}
	}
	if err := refusal.Of(problem.New(problem.Kicked, "no").ForGood()); !final(err.Code()) {
		t.Errorf("kicked for good is %v", err)
	}
	if err := refusal.Of(errors.New("password hunter2")); err.Code() != connect.CodeInternal || err.Message() != "internal: "+problem.From(errors.New("x")).Message {
		t.Errorf("a fault of ours leaves as %v", err)
	}
}

func TestDetailOfOthers(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), connect.NewError(connect.CodeUnknown, nil)} {
		if p, ok := refusal.Detail[*weftv1.Problem](err); ok || p != nil {
			t.Errorf("%v has %v", err, p)
		}
	}
}

type refuser struct {
	weftv1connect.UnimplementedPublishServiceHandler
	err error
}

func (r refuser) Publish(context.Context, *weftv1.PublishRequest) (*weftv1.PublishResponse, error) {
	return nil, r.err
}

// Over the wire of each protocol the details arrive as they were.
func TestDetailTravels(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(weftv1connect.NewPublishServiceHandler(refuser{err: refusal.Of(problem.New(problem.Conflict, "ünique — \"id\"\n").In("id"), &weftv1.PublishStreamFailure{Archived: 3})}))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	transport := &http.Transport{Protocols: server.Config.Protocols}
	defer transport.CloseIdleConnections()
	for name, option := range map[string]connect.ClientOption{"grpc": connect.WithGRPC(), "web": connect.WithGRPCWeb(), "json": connect.WithProtoJSON()} {
		_, err := weftv1connect.NewPublishServiceClient(&http.Client{Transport: transport}, server.URL, option).Publish(t.Context(), &weftv1.PublishRequest{})
		p, _ := refusal.Detail[*weftv1.Problem](err)
		f, _ := refusal.Detail[*weftv1.PublishStreamFailure](err)
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || p.GetMessage() != "ünique — \"id\"\n" || p.GetField() != "id" || f.GetArchived() != 3 {
			t.Errorf("%s: %v with %v, %v", name, err, p, f)
		}
	}
}
